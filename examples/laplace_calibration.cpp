/// Does a network know what it does not know? Trains one on Fashion-MNIST until it is
/// overconfident, and compares what Laplace approximations of its posterior make of its
/// probabilities: on the test images, and on handwritten digits, which it has never seen.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/schedules.hpp>
#include <kfac/data/roc.hpp>
#include <kfac/data/temperature_scaling.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/posterior/fit_laplace.hpp>
#include <kfac/posterior/predictive_samples.hpp>
#include <kfac/posterior/tune_evidence.hpp>
#include <kfac/posterior/tune_grid.hpp>
#include <kfac/posterior/validation_score.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/tabular.hpp"

namespace {

using kfac::Dataset;
using kfac::Index;
using kfac::Labels;
using kfac::Link;

using Loss = kfac::SoftmaxCrossEntropy<float>;
using Posterior = kfac::Laplace<float>;

constexpr Index kSide = 28;
constexpr Index kPixels = kSide * kSide;
constexpr Index kClasses = 10;
constexpr double kPercent = 100;

struct Settings {
  std::string data = "/usr/share/datasets/fashion-mnist";
  Index training = 30000;
  Index validation = 5000;
  Index epochs = 25;
  Index samples = 200;
  Index networks = 30;
  Index grid = 25;
  std::uint64_t seed = 0;
  std::string plot;

  void add_flags(examples::Flags& flags) {
    flags.add("--data", data, "folder with the four files of the data set");
    flags.add("--training", training, "training images");
    flags.add("--validation", validation, "images that hyperparameters are tuned on");
    flags.add("--epochs", epochs, "of training");
    flags.add("--samples", samples, "of the Monte-Carlo link");
    flags.add("--networks", networks, "drawn for the comparison with network samples");
    flags.add("--grid", grid, "prior precisions that are tried on the validation images", 2);
    flags.add("--seed", seed, "of the initial weights, the order of the batches and all samples");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
  }
};

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// To mean 0 and variance 1 over all pixels of Fashion-MNIST's training images.
Eigen::MatrixXf standardised(const Eigen::MatrixXf& images) {
  constexpr float kMean = 0.2860F;
  constexpr float kDeviation = 0.3530F;
  return (images.array() - kMean) / kDeviation;
}

Dataset<float> part(const Dataset<float>& data, Index first, Index count) {
  return {standardised(data.inputs.middleCols(first, count)), data.targets.segment(first, count)};
}

/// Images of 8x8 pixels at 28x28, by bilinear interpolation.
Eigen::MatrixXf enlarged(const Eigen::MatrixXd& images) {
  constexpr Index kSmall = 8;
  Eigen::MatrixXd weights = Eigen::MatrixXd::Zero(kSide, kSmall);
  for (Index i = 0; i < kSide; ++i) {
    const double at = (static_cast<double>(i) + 0.5) * kSmall / kSide - 0.5;
    const double clamped = std::clamp(at, 0.0, static_cast<double>(kSmall - 1));
    const Index below = std::min(static_cast<Index>(clamped), kSmall - 2);
    const double share = clamped - static_cast<double>(below);
    weights(i, below) = 1 - share;
    weights(i, below + 1) = share;
  }
  Eigen::MatrixXf result(kPixels, images.cols());
  for (Index n = 0; n < images.cols(); ++n) {
    const Eigen::Map<const Eigen::MatrixXd> small(images.col(n).data(), kSmall, kSmall);
    const Eigen::MatrixXd large = weights * small * weights.transpose();
    result.col(n) = large.reshaped().cast<float>();
  }
  return result;
}

auto make_model(std::uint64_t seed) {
  kfac::Rng rng(seed);
  return kfac::Sequential{kfac::Linear<float>(kPixels, 128, rng), kfac::ReLU<float>{},
                          kfac::Linear<float>(128, 64, rng), kfac::ReLU<float>{},
                          kfac::Linear<float>(64, kClasses, rng)};
}
using Model = decltype(make_model(0));

void train(Model& model, const Loss& loss, const Dataset<float>& data, const Settings& settings) {
  constexpr Index kBatch = 128;
  constexpr float kRate = 2e-3F;
  kfac::Rng order(settings.seed + 1);
  const Index steps = settings.epochs * ((data.examples() + kBatch - 1) / kBatch);
  kfac::Adam adam(model, {.learning_rate = kfac::schedules::cosine(kRate, 0.0F, steps)});
  examples::Progress progress(steps);
  for (Index epoch = 0; epoch < settings.epochs; ++epoch)
    for (const auto& [x, y] : kfac::batches(data, kBatch, order)) {
      model.backward(loss.gradient(model.forward(x), y));
      adam.step();
      progress.advance();
    }
}

/// What a method says of the test images and of the digits.
struct Result {
  std::string method;
  std::string precision;  ///< delta, or the temperature
  Eigen::MatrixXf test, digits;
  double seconds = 0;  ///< that it took beside the training
};

class Study {
 public:
  explicit Study(const Settings& settings)
      : settings_(settings), model_(make_model(settings.seed)) {
    auto [all, test] = kfac::io::fashion_mnist<float>(settings.data);
    const Index used = std::min(all.examples(), settings.validation + settings.training);
    validation_ = part(all, 0, settings.validation);
    training_ = part(all, settings.validation, used - settings.validation);
    test_ = {standardised(test.inputs), test.targets};
    digits_ = standardised(enlarged(examples::digits().inputs));

    const Clock clock;
    train(model_, loss_, training_, settings);
    std::cout << "Network 784-128-64-10, " << model_.parameter_count() << " parameters, trained on "
              << training_.examples() << " images for " << settings.epochs << " epochs in "
              << examples::fixed(clock.seconds(), 1) << " s: loss "
              << examples::fixed(kfac::dataset_loss(model_, loss_, training_), 3)
              << " nats on these, "
              << examples::fixed(kfac::dataset_loss(model_, loss_, validation_), 3)
              << " on validation images\n\n";
  }

  void run() {
    network();
    kronecker();
    last_layer();
    other_structures();
  }

  const std::vector<Result>& results() const { return results_; }
  const Labels& labels() const { return test_.targets; }

 private:
  kfac::PredictOptions options(Link link) const {
    const bool wants_covariance = link != Link::Probit && link != Link::Plugin;
    return {.link = link,
            .samples = settings_.samples,
            .seed = settings_.seed,
            .covariance = wants_covariance ? kfac::OutputCovariance::PerExample
                                           : kfac::OutputCovariance::Variances};
  }

  Posterior fit(kfac::CurvatureStructure structure, bool last_layer = false) {
    return kfac::fit_laplace(model_, loss_, kfac::slices(training_, kSlice),
                             {.last_layer = last_layer}, {.structure = structure});
  }

  /// By validation images, with the link that predicts.
  void tune_by_validation(Posterior& posterior, Link link) {
    kfac::ValidationScore score(model_, kfac::slices(validation_, kSlice), options(link));
    kfac::tune_by_grid(posterior, score,
                       {.smallest = 0.1, .largest = 1000, .points = settings_.grid});
  }

  void add(const std::string& method, const Posterior& posterior, Link link, const Clock& clock) {
    const auto predicted = [&](const Eigen::MatrixXf& x) {
      return kfac::predict(model_, posterior, x, options(link)).probabilities;
    };
    add(method, posterior, predicted(test_.inputs), predicted(digits_), clock);
  }
  void add(const std::string& method, const Posterior& posterior, Eigen::MatrixXf test,
           Eigen::MatrixXf digits, const Clock& clock) {
    std::string precision;
    for (const double delta : posterior.prior().precision())
      precision += (precision.empty() ? "" : "/") + examples::significant(delta, 3);
    results_.push_back({method, precision, std::move(test), std::move(digits), clock.seconds()});
  }

  void network() {
    const Clock clock;
    const Eigen::MatrixXf test = outputs(test_.inputs);
    const Eigen::MatrixXf digits = outputs(digits_);
    results_.push_back(
        {"network", "", kfac::softmax(test), kfac::softmax(digits), clock.seconds()});
    const kfac::TemperatureFit fit =
        kfac::fit_temperature(outputs(validation_.inputs), validation_.targets);
    const auto inverse = static_cast<float>(1 / fit.temperature);
    results_.push_back({"temperature scaling", "T " + examples::fixed(fit.temperature, 2),
                        kfac::softmax(inverse * test), kfac::softmax(inverse * digits),
                        clock.seconds()});
  }

  void kronecker() {
    const Clock fitting;
    const Posterior untuned = fit(kfac::CurvatureStructure::Kronecker);
    std::cout << "K-FAC of all layers: factors and eigenbases in "
              << examples::fixed(fitting.seconds(), 1) << " s\n";
    {
      const Clock clock;
      add("all, untuned, probit", untuned, Link::Probit, clock);
    }
    Posterior evidence = untuned;
    Clock clock;
    kfac::tune_by_fixed_point(evidence);
    add("all, evidence, probit", evidence, Link::Probit, clock);
    clock = {};
    add("all, evidence, Monte-Carlo", evidence, Link::MonteCarlo, clock);
    clock = {};
    add("all, evidence, bridge", evidence, Link::Bridge, clock);
    clock = {};
    add("all, evidence, normalized bridge", evidence, Link::NormalizedBridge, clock);

    clock = {};
    Posterior layers(untuned.curvature(), untuned.mean(),
                     {.prior_grouping = kfac::PriorGrouping::Layer}, untuned.data());
    kfac::tune_by_fixed_point(layers);
    add("all, evidence by layer, probit", layers, Link::Probit, clock);

    Posterior validated = untuned;
    clock = {};
    tune_by_validation(validated, Link::Probit);
    add("all, validation, probit", validated, Link::Probit, clock);
    clock = {};
    tune_by_validation(validated, Link::MonteCarlo);
    add("all, validation, Monte-Carlo", validated, Link::MonteCarlo, clock);

    clock = {};
    const kfac::PredictOptions sampling{.samples = settings_.networks, .seed = settings_.seed};
    const auto sampled = [&](const Eigen::MatrixXf& x) {
      return kfac::predict_by_sampling(model_, evidence, x, sampling).probabilities;
    };
    add("all, evidence, " + std::to_string(settings_.networks) + " networks", evidence,
        sampled(test_.inputs), sampled(digits_), clock);
  }

  void last_layer() {
    Clock clock;
    Posterior posterior = fit(kfac::CurvatureStructure::Kronecker, true);
    kfac::tune_by_fixed_point(posterior);
    add("last layer, evidence, probit", posterior, Link::Probit, clock);
    clock = {};
    tune_by_validation(posterior, Link::Probit);
    add("last layer, validation, probit", posterior, Link::Probit, clock);
  }

  void other_structures() {
    Clock clock;
    Posterior ekfac = fit(kfac::CurvatureStructure::Ekfac);
    tune_by_validation(ekfac, Link::Probit);
    add("EKFAC, validation, probit", ekfac, Link::Probit, clock);
    clock = {};
    tune_by_validation(ekfac, Link::MonteCarlo);
    add("EKFAC, validation, Monte-Carlo", ekfac, Link::MonteCarlo, clock);
    clock = {};
    Posterior diagonal = fit(kfac::CurvatureStructure::Diagonal);
    tune_by_validation(diagonal, Link::Probit);
    add("diagonal, validation, probit", diagonal, Link::Probit, clock);
  }

  Eigen::MatrixXf outputs(const Eigen::MatrixXf& x) {
    const kfac::Evaluation evaluation(model_);
    return model_.forward(x);
  }

  static constexpr Index kSlice = 500;

  Settings settings_;
  Loss loss_;
  Model model_;
  Dataset<float> validation_, training_, test_;
  Eigen::MatrixXf digits_;
  std::vector<Result> results_;
};

double auroc_of(const Result& result) {
  return kfac::auroc(kfac::entropies(result.test), kfac::entropies(result.digits));
}

void print(std::ostream& out, const std::vector<Result>& results, const Labels& labels) {
  examples::Table table;
  table.add_columns("", {"method"});
  table.add_columns("", {"delta"});
  table.add_columns("test images", {"accuracy %", "NLL", "ECE %", "Brier"});
  table.add_columns("digits", {"AUROC", "confidence"});
  table.add_columns("", {"s"});
  for (const Result& result : results)
    table.add_row(
        {result.method, result.precision,
         examples::fixed(kPercent * kfac::accuracy(result.test, labels), 2),
         examples::fixed(kfac::negative_log_likelihood(result.test, labels), 4),
         examples::fixed(kPercent * kfac::expected_calibration_error(result.test, labels), 2),
         examples::fixed(kfac::brier_score(result.test, labels), 4),
         examples::fixed(auroc_of(result), 3),
         examples::fixed(kfac::confidences(result.digits).mean(), 3),
         examples::fixed(result.seconds, 1)});
  out << table;
}

/// What is drawn of a method.
struct Drawn {
  std::string method;
  examples::Colour colour;
};

examples::Panel reliability_panel(const std::vector<const Result*>& results,
                                  const std::vector<Drawn>& drawn, const Labels& labels) {
  constexpr Index kFew = 20;  // a bin of fewer images says little
  examples::Panel panel{.title = "Test images: are probabilities right?",
                        .x_label = "mean confidence of a bin",
                        .y_label = "share of them that is right"};
  Eigen::Matrix2Xd ideal(2, 2);
  ideal << 0.2, 1, 0.2, 1;
  panel.series.push_back(
      {"as they should be", examples::Colour::Black, examples::Series::Style::Dashed, ideal});
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::vector<kfac::ReliabilityBin> bins = kfac::reliability_bins(results[i]->test, labels);
    std::erase_if(bins, [](const kfac::ReliabilityBin& bin) { return bin.examples < kFew; });
    Eigen::Matrix2Xd points(2, static_cast<Index>(bins.size()));
    for (Index k = 0; k < points.cols(); ++k) {
      const kfac::ReliabilityBin& bin = bins[static_cast<std::size_t>(k)];
      points.col(k) << bin.confidence, bin.accuracy;
    }
    panel.series.push_back(
        {drawn[i].method, drawn[i].colour, examples::Series::Style::LinePoints, points});
  }
  return panel;
}

examples::Panel entropy_panel(const std::vector<const Result*>& results,
                              const std::vector<Drawn>& drawn) {
  constexpr Index kBins = 24;
  const double width = std::log(static_cast<double>(kClasses)) / kBins;
  examples::Panel panel{.title = "Digits: how uncertain are predictions?",
                        .x_label = "entropy of a prediction, nats",
                        .y_label = "share of the digits"};
  for (std::size_t i = 0; i < results.size(); ++i) {
    Eigen::Matrix2Xd points(2, kBins);
    for (Index k = 0; k < kBins; ++k) points.col(k) << (static_cast<double>(k) + 0.5) * width, 0;
    const Eigen::VectorXd entropies = kfac::entropies(results[i]->digits);
    for (const double entropy : entropies)
      points(1, std::min(static_cast<Index>(entropy / width), kBins - 1)) +=
          1 / static_cast<double>(entropies.size());
    panel.series.push_back(
        {drawn[i].method, drawn[i].colour, examples::Series::Style::Line, points});
  }
  return panel;
}

examples::Panel roc_panel(const std::vector<const Result*>& results,
                          const std::vector<Drawn>& drawn) {
  examples::Panel panel{.title = "Told apart by the entropy",
                        .x_label = "share of the test images above a threshold",
                        .y_label = "share of the digits above it"};
  constexpr std::size_t kPoints = 200;  // of thousands, which would make a large file
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::vector<kfac::RocPoint> curve =
        kfac::roc_curve(kfac::entropies(results[i]->test), kfac::entropies(results[i]->digits));
    Eigen::Matrix2Xd points(2, static_cast<Index>(kPoints) + 1);
    for (std::size_t k = 0; k <= kPoints; ++k) {
      const kfac::RocPoint& point = curve[k * (curve.size() - 1) / kPoints];
      points.col(static_cast<Index>(k)) << point.false_positives, point.true_positives;
    }
    panel.series.push_back({drawn[i].method + ", area " + examples::fixed(auroc_of(*results[i]), 3),
                            drawn[i].colour, examples::Series::Style::Line, points});
  }
  return panel;
}

void draw(const std::string& file, const std::vector<Result>& results, const Labels& labels) {
  const std::vector<Drawn> drawn{{"network", examples::Colour::Vermilion},
                                 {"temperature scaling", examples::Colour::Orange},
                                 {"last layer, evidence, probit", examples::Colour::Green},
                                 {"all, validation, Monte-Carlo", examples::Colour::Blue}};
  std::vector<const Result*> found;
  for (const Drawn& wanted : drawn)
    for (const Result& result : results)
      if (result.method == wanted.method) found.push_back(&result);
  examples::draw(file,
                 {reliability_panel(found, drawn, labels), entropy_panel(found, drawn),
                  roc_panel(found, drawn)},
                 3);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "Trains a network on Fashion-MNIST until it is overconfident, and compares what Laplace "
      "approximations of its posterior make of its probabilities: on the test images, and on "
      "handwritten digits, which it has never seen.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    const Clock clock;
    Study study(settings);
    study.run();
    print(std::cout, study.results(), study.labels());
    if (!settings.plot.empty()) draw(settings.plot, study.results(), study.labels());
    std::cout << "Total " << examples::fixed(clock.seconds(), 0) << " s\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
