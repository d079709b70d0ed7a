/// What a Laplace approximation knows of regression: that of a linear model beside the published
/// values of Bayesian ridge regression, the evidence as a judge of networks, and error bars.

#include <array>
#include <cmath>
#include <exception>
#include <iostream>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <kfac/kfac.hpp>
#include <kfac/posterior/evidence_training.hpp>
#include <kfac/posterior/predictive.hpp>
#include <kfac/posterior/tune_evidence.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/tabular.hpp"

namespace {

using examples::fixed;
using examples::Panel;
using examples::Series;
using kfac::Index;
using kfac::Matrix;
using kfac::Vector;
using Data = kfac::Dataset<double, Matrix<double>>;
using Model = kfac::DynamicSequential<double>;
using Posterior = kfac::Laplace<double>;

struct Settings {
  std::uint64_t seed = 1;
  Index epochs = 60;
  Index steps = 100;  // an epoch
  Index restarts = 3;
  std::string plot;
};

Model network(Index inputs, Index layers, Index width, kfac::Rng& rng) {
  Model model;
  for (Index layer = 0; layer < layers; ++layer) {
    model.push_back(kfac::Linear<double>(inputs, width, rng));
    model.push_back(kfac::Tanh<double>{});
    inputs = width;
  }
  model.push_back(kfac::Linear<double>(inputs, 1, rng));
  return model;
}

/// Weights, and in turns with them the prior precisions of the layers and the noise.
kfac::EvidenceTrainingResult<double> train(Model& model, const Data& data,
                                           const Settings& settings) {
  const kfac::MeanSquaredError<double> loss;
  const auto total = static_cast<double>(settings.epochs * settings.steps);
  kfac::Adam<double> adam(
      model, {.learning_rate = [=](Index step) {
        return 1e-4 + 0.5e-2 * (1 + std::cos(std::numbers::pi * static_cast<double>(step) / total));
      }});
  return kfac::train_by_evidence(model, loss, kfac::slices(data, data.examples()),
                                 [&](const kfac::PriorPenalty<double>& prior, Index) {
                                   for (Index step = 0; step < settings.steps; ++step) {
                                     const auto& outputs = model.forward(data.inputs);
                                     model.backward(loss.gradient(outputs, data.targets));
                                     prior.add_gradient(model, data.examples());
                                     adam.step();
                                   }
                                 },
                                 {.epochs = settings.epochs,
                                  .burn_in = settings.epochs / 10,
                                  .posterior = {.likelihood = kfac::Likelihood::Regression,
                                                .prior_grouping = kfac::PriorGrouping::Layer}});
}

// 1. A linear model.

/// How many significant digits two numbers share.
std::string shared_digits(double value, double published) {
  const double error = std::abs(value / published - 1);
  return std::to_string(static_cast<int>(std::floor(-std::log10(std::max(error, 1e-16)))));
}

void linear_model() {
  // Of scikit-learn's BayesianRidge: no intercept, all priors of the precisions flat.
  constexpr double kNoisePrecision = 2.0222064163942663;
  constexpr double kPriorPrecision = 30.04277533440799;
  constexpr double kLogEvidence = -485.77632959352087;
  constexpr std::array<double, 3> kDeviations{0.70812185, 0.70920578, 0.71010757};

  const Data data = examples::diabetes();
  kfac::Rng rng(0);
  Model model;
  model.push_back(kfac::Linear<double>(10, 1, rng, {.bias = false}));
  auto posterior =
      kfac::fit_laplace(model, kfac::MeanSquaredError<double>(), kfac::slices(data, 100),
                        {.likelihood = kfac::Likelihood::Regression});
  const auto tuned = kfac::tune_by_fixed_point(posterior, {.recentre = true, .tolerance = 1e-12});
  kfac::set_flat_parameters(model, posterior.mean());
  const auto prediction = kfac::predict(model, posterior, data.inputs.leftCols(3));

  examples::Table table;
  table.add_columns("", {"diabetes, linear model"});
  table.add_columns("", {"BayesianRidge", "kfac", "digits shared"});
  const auto row = [&](const std::string& name, double value, double published) {
    table.add_row({name, fixed(published, 8), fixed(value, 8), shared_digits(value, published)});
  };
  const double noise = posterior.observation_noise();
  row("noise precision", 1 / (noise * noise), kNoisePrecision);
  row("prior precision", posterior.prior().precision()(0), kPriorPrecision);
  row("log evidence", posterior.log_marginal_likelihood(), kLogEvidence);
  for (Index n = 0; n < 3; ++n)
    row("deviation of patient " + std::to_string(n + 1), std::sqrt(prediction.variances(0, n)),
        kDeviations[static_cast<std::size_t>(n)]);
  std::cout << table << '(' << tuned.iterations << " steps of the fixed point)\n\n";
}

// 2. Networks judged by their evidence.

struct Judged {
  Index layers = 0, width = 0, parameters = 0;
  double evidence = -1e300, full_evidence = 0, effective = 0, noise = 0, error = 0, likelihood = 0;
};

/// The best of some restarts, by the evidence.
Judged judge(Index layers, Index width, const Data& data, const Data& test,
             const Settings& settings, kfac::Rng& rng) {
  Judged best{.layers = layers, .width = width};
  for (Index restart = 0; restart < (layers == 0 ? 1 : settings.restarts); ++restart) {
    Model model = network(10, layers, width, rng);
    const auto [posterior, epoch, evidences] = train(model, data, settings);
    if (posterior.log_marginal_likelihood() < best.evidence) continue;
    best.parameters = model.parameter_count();
    best.evidence = posterior.log_marginal_likelihood();
    auto full = kfac::fit_full_laplace(model, kfac::MeanSquaredError<double>(),
                                       kfac::slices(data, 100), posterior.options());
    kfac::tune_by_newton(full);
    best.full_evidence = full.log_marginal_likelihood();
    best.effective = kfac::evidence(posterior).effective_parameters.sum();
    best.noise = posterior.observation_noise();
    const auto prediction = kfac::predict(model, posterior, test.inputs);
    const Eigen::ArrayXXd squares = (prediction.f.mean - test.targets).array().square();
    best.error = std::sqrt(squares.mean());
    best.likelihood = -0.5 * (squares / prediction.variances.array() +
                              (2 * std::numbers::pi * prediction.variances.array()).log())
                                 .mean();
  }
  return best;
}

std::vector<Panel> model_selection(const Settings& settings, examples::Progress& progress) {
  kfac::Rng rng(settings.seed);
  const auto [data, test] = kfac::split(examples::diabetes(), 2.0 / 3, rng);
  examples::Table table;
  table.add_columns("", {"network", "parameters"});
  table.add_columns("evidence", {"effective", "sigma", "log Z", "log Z, full"});
  table.add_columns("held-out patients", {"RMSE", "log-likelihood"});
  std::vector<Panel> panels{{.title = "Diabetes: log evidence (Kronecker)", .x_label = "width"},
                            {.title = "Diabetes: held-out log-likelihood", .x_label = "width"}};
  const std::array<examples::Colour, 4> colours{examples::Colour::Black, examples::Colour::Blue,
                                                examples::Colour::Orange, examples::Colour::Green};
  for (Index layers = 0; layers <= 3; ++layers) {
    const std::vector<Index> widths{2, 5, 10, 20};
    Series evidence{.label = layers == 0 ? "linear" : std::to_string(layers) + " hidden",
                    .colour = colours[static_cast<std::size_t>(layers)],
                    .style = layers == 0 ? Series::Style::Dashed : Series::Style::LinePoints,
                    .points = Eigen::Matrix2Xd(2, 4)};
    Series likelihood = evidence;
    Judged of;
    for (Index i = 0; i < 4; ++i) {
      const Index width = widths[static_cast<std::size_t>(i)];
      if (layers > 0 || i == 0) {
        of = judge(layers, width, data, test, settings, rng);
        std::string name = "10";
        for (Index layer = 0; layer < layers; ++layer) name += '-' + std::to_string(width);
        table.add_row({name + "-1", std::to_string(of.parameters), fixed(of.effective, 1),
                       fixed(of.noise, 3), fixed(of.evidence, 2), fixed(of.full_evidence, 2),
                       fixed(of.error, 3), fixed(of.likelihood, 3)});
        progress.advance();
      }
      const auto x = static_cast<double>(width);
      evidence.points.col(i) << x, of.evidence;
      likelihood.points.col(i) << x, of.likelihood;
    }
    panels[0].series.push_back(std::move(evidence));
    panels[1].series.push_back(std::move(likelihood));
  }
  std::cout << "Trained on " << data.examples() << " patients, tested on " << test.examples()
            << ":\n"
            << table << '\n';
  return panels;
}

// 3. Error bars.

Data sine(Index examples, kfac::Rng& rng) {
  Data data{Matrix<double>(1, examples), Matrix<double>(1, examples)};
  for (Index n = 0; n < examples; ++n) {
    double x = rng.uniform(-4, 4);
    while (x > -0.5 && x < 1.5) x = rng.uniform(-4, 4);
    data.inputs(0, n) = x;
    data.targets(0, n) = std::sin(x) + 0.3 * rng.normal();
  }
  return data;
}

Panel bars(const std::string& name, Model& model, const Posterior& posterior, const Data& data) {
  const Matrix<double> x = Eigen::RowVectorXd::LinSpaced(121, -6, 6);
  const auto prediction = kfac::predict(model, posterior, x);
  Panel panel{.title = "sin(x) + 0.3 noise: " + name, .x_label = "x"};
  const auto add = [&](const std::string& label, examples::Colour colour, Series::Style style,
                       const Matrix<double>& y) {
    Series series{
        .label = label, .colour = colour, .style = style, .points = Eigen::Matrix2Xd(2, y.cols())};
    series.points << (style == Series::Style::Points ? data.inputs : x), y;
    panel.series.push_back(std::move(series));
  };
  using Style = Series::Style;
  add("", examples::Colour::SkyBlue, Style::Points, data.targets);
  add("mean", examples::Colour::Black, Style::Line, prediction.f.mean);
  for (const int side : {-1, 1}) {
    const std::string function = side > 0 ? "2 deviations of f" : "";
    const std::string noise = side > 0 ? "of observations" : "";
    add(function, examples::Colour::Vermilion, Style::Dashed,
        prediction.f.mean + 2 * side * prediction.f.variances.cwiseSqrt());
    add(noise, examples::Colour::Blue, Style::Dotted,
        prediction.f.mean + 2 * side * prediction.variances.cwiseSqrt());
  }
  return panel;
}

std::vector<Panel> error_bars(const Settings& settings) {
  kfac::Rng rng(settings.seed + 1);
  const Data data = sine(150, rng);
  const Data test = sine(1000, rng);
  Model model = network(1, 1, 50, rng);
  const auto trained = train(model, data, settings);
  const kfac::MeanSquaredError<double> loss;
  const auto slices = kfac::slices(data, 50);
  kfac::LaplaceOptions<double> options = trained.posterior.options();
  kfac::LaplaceOptions<double> last_layer = options;
  last_layer.last_layer = true;
  last_layer.prior_precision = {options.prior_precision.back()};
  std::vector<std::pair<std::string, Posterior>> posteriors{
      {"full", kfac::fit_full_laplace(model, loss, slices, options)},
      {"Kronecker", kfac::fit_laplace(model, loss, slices, options)},
      {"diagonal", kfac::fit_laplace(model, loss, slices, options,
                                     {.structure = kfac::CurvatureStructure::Diagonal})},
      {"last layer", kfac::fit_laplace(model, loss, slices, last_layer)}};

  examples::Table table;
  table.add_columns("", {"posterior"});
  table.add_columns("learnt", {"sigma (true: 0.3)", "log Z"});
  table.add_columns("deviation of f", {"among the data", "in the gap", "outside"});
  table.add_columns("held out", {"within 2 deviations"});
  std::vector<Panel> panels;
  for (auto& [name, posterior] : posteriors) {
    kfac::tune_by_newton(posterior);
    const auto deviation = [&, &of = posterior](double x) {
      return std::sqrt(
          kfac::predict(model, of, Matrix<double>::Constant(1, 1, x)).f.variances(0, 0));
    };
    const auto prediction = kfac::predict(model, posterior, test.inputs);
    const double covered =
        ((test.targets - prediction.f.mean).array().square() < 4 * prediction.variances.array())
            .cast<double>()
            .mean();
    table.add_row({name, fixed(posterior.observation_noise(), 3),
                   fixed(posterior.log_marginal_likelihood(), 2), fixed(deviation(-2.5), 3),
                   fixed(deviation(0.5), 3), fixed(deviation(6), 3),
                   fixed(100 * covered, 1) + " %"});
    panels.push_back(bars(name, model, posterior, data));
  }
  std::cout << "A 1-50-1 network on 150 points of sin(x), none between -0.5 and 1.5:\n" << table;
  return panels;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "Laplace approximations of regression: a linear model beside Bayesian ridge regression, the "
      "evidence of networks, and error bars.");
  flags.add("--seed", settings.seed, "of the split, the weights and the sine's data");
  flags.add("--epochs", settings.epochs, "of training each network");
  flags.add("--steps", settings.steps, "of Adam in an epoch");
  flags.add("--restarts", settings.restarts, "of each network, of which the evidence takes one");
  flags.add("--plot", settings.plot, "draw the picture to this SVG or PNG file");
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    linear_model();
    constexpr Index kNetworks = 13;
    examples::Progress progress(kNetworks);
    std::vector<Panel> selection = model_selection(settings, progress);
    std::vector<Panel> panels = error_bars(settings);
    panels.insert(panels.end(), std::make_move_iterator(selection.begin()),
                  std::make_move_iterator(selection.end()));
    if (!settings.plot.empty()) examples::draw(settings.plot, panels, 3);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
