#include "support/autoencoder_study.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <ostream>

#include <kfac/data/batch_stream.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/fit.hpp>
#include <kfac/optim/gradient_optimizer.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/optim/sgd.hpp>

#include "support/progress.hpp"
#include "support/table.hpp"

namespace examples {

using kfac::Index;

namespace {

using Loss = kfac::BinaryCrossEntropy<float>;

/// Summed over the pixels of an image, and the mean over images.
Loss reconstruction_loss() {
  return Loss({.reduction = kfac::Reduction::ExampleMean});
}

/// What one optimizer is trained for, and on.
struct Training {
  const Images& images;
  const Images& evaluated;
  Index batch_size;
  Index steps;
};

/// Adds a record to the run after each step that is evaluated.
class Recorder {
 public:
  Recorder(const AutoencoderStudy& study, const Images& evaluated, Autoencoder& model, History& run)
      : study_(study), evaluated_(evaluated), model_(model), run_(run) {
    const auto layers = model.layers();
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (layers[i].parameters.size() == 0) continue;
      with_parameters_.push_back(i);
      run.layers.push_back(layers[i].name + ' ' + layers[i].kind);
    }
    now_.accuracy = std::numeric_limits<double>::quiet_NaN();
    now_.layer_step_norms.assign(run.layers.size(), now_.accuracy);
    add_record();
  }

  kfac::TrainingControl operator()(const kfac::TrainingEvent<float>& event) {
    if (!event.report.ok()) {
      run_.stopped = "step " + std::to_string(event.step) + ": " + describe(event.report.status);
      if (!event.report.layer.empty()) run_.stopped += " (layer '" + event.report.layer + "')";
      return kfac::TrainingControl::Stop;
    }
    now_.step = event.step;
    now_.seconds = event.seconds;
    for (std::size_t i = 0; i < with_parameters_.size(); ++i)
      now_.layer_step_norms[i] =
          static_cast<double>(event.report.layer_step_norms[with_parameters_[i]]);
    if (!is_due(event.step)) return kfac::TrainingControl::Continue;
    add_record();
    const bool done = study_.until && now_.loss <= static_cast<double>(*study_.until);
    return done || !std::isfinite(now_.loss) ? kfac::TrainingControl::Stop
                                             : kfac::TrainingControl::Continue;
  }

  void finish() {
    if (run_.records.back().step != now_.step) add_record();
  }

 private:
  bool is_due(Index step) const {
    const auto& reported = study_.report_steps;
    return step % study_.evaluate_every == 0 ||
           std::find(reported.begin(), reported.end(), static_cast<double>(step)) != reported.end();
  }
  void add_record() {
    now_.loss = kfac::dataset_loss(model_, reconstruction_loss(), evaluated_);
    run_.records.push_back(now_);
  }

  const AutoencoderStudy& study_;
  const Images& evaluated_;
  Autoencoder& model_;
  History& run_;
  std::vector<std::size_t> with_parameters_;
  Record now_;
};

template <class Optimizer>
void train(const AutoencoderStudy& study, const Training& training, kfac::Rng rng,
           Autoencoder& model, Optimizer& optimizer, Progress& progress, History& run) {
  kfac::BatchStream stream(training.images, training.batch_size, rng);
  Recorder recorder(study, training.evaluated, model, run);
  const auto result = kfac::fit(
      optimizer, stream, {.steps = training.steps, .seconds = static_cast<double>(study.seconds)},
      recorder, kfac::progress([&progress](Index, Index) { progress.advance(); }));
  progress.advance(training.steps - result.steps);
}

/// The first record with a loss no larger, or null.
const Record* first_at(const History& run, double loss) {
  const auto found = std::find_if(run.records.begin(), run.records.end(),
                                  [&](const Record& record) { return record.loss <= loss; });
  return found == run.records.end() ? nullptr : &*found;
}

std::string times(double other, double own) {
  return significant(other / own, 3) + 'x';
}

}  // namespace

void AutoencoderStudy::add_flags(Flags& flags) {
  flags.add("--optimizer", optimizer, "what to train with", {"all", "sgd", "adam", "kfac"});
  flags.add("--initialization", initialization, "of the weights", initializations());
  flags.add("--inputs", inputs, "what the network sees of an image", {"pixels", "standardised"});
  flags.add("--sgd-learning-rate", sgd_learning_rate, "SGD: of a step");
  flags.add("--sgd-momentum", sgd_momentum, "SGD: Nesterov's, above 0");
  flags.add("--adam-learning-rate", adam_learning_rate, "Adam: of a step");
  flags.add("--learning-rate", learning_rate, "K-FAC: of a step");
  flags.add("--momentum", momentum, "K-FAC: share of the step before in each step");
  flags.add("--adaptive", adaptive,
            "K-FAC: learning rate and momentum by the exact quadratic model, damping by its errors",
            {"yes", "no"});
  flags.add("--damping", damping, "K-FAC: added to the curvature before it is inverted");
  flags.add("--kl-clip", kl_clip, "K-FAC: bound on the change of the model by one step; 0: none");
  flags.add("--fisher", fisher, "K-FAC: whose gradients make the curvature",
            {"monte-carlo", "curvature-propagation", "empirical"});
  flags.add("--factor-decay", factor_decay, "K-FAC: weight of the past in the factors");
  flags.add("--factor-every", factor_every, "K-FAC: steps between updates of the factors");
  flags.add("--inverse-every", inverse_every, "K-FAC: steps between inverses");
  flags.add("--batch-size", batch_size, "images in a step");
  flags.add("--first-order-batch-size", first_order_batch_size,
            "the same for SGD and Adam; 0: as for K-FAC", 0);
  flags.add("--steps", steps, "most steps of an optimizer");
  flags.add("--first-order-steps", first_order_steps, "the same for SGD and Adam; 0: as for K-FAC",
            0);
  flags.add("--seconds", seconds, "most seconds of training of an optimizer; 0: no limit");
  flags.add("--until", until, "an optimizer with this loss is done");
  flags.add("--evaluate-every", evaluate_every, "steps between evaluations");
  flags.add("--evaluation-examples", evaluation_examples,
            "training images that the loss is evaluated on");
  flags.add("--report-steps", report_steps, "steps after which the loss is printed");
  flags.add("--targets", targets, "losses to print the steps and seconds to");
  flags.add("--seed", seed, "of the initial weights and the order of the images");
  flags.add("--csv", csv, "file to write every evaluation to");
  flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
}

std::vector<History> AutoencoderStudy::run(const std::string& folder) const {
  const Images images = training_images(folder, inputs == "standardised");
  const Images evaluated = evaluation_images(images, evaluation_examples);
  const auto runs_with = [&](const char* name) { return optimizer == "all" || optimizer == name; };
  const Training second_order{images, evaluated, batch_size, steps};
  Training first_order = second_order;
  if (first_order_batch_size > 0) first_order.batch_size = first_order_batch_size;
  if (first_order_steps > 0) first_order.steps = first_order_steps;

  const Loss loss = reconstruction_loss();
  kfac::Rng rng(seed);
  const Autoencoder initial = make_autoencoder(initialization, rng);
  Progress progress((runs_with("sgd") ? first_order.steps : 0) +
                    (runs_with("adam") ? first_order.steps : 0) +
                    (runs_with("kfac") ? second_order.steps : 0));
  std::vector<History> runs;
  const auto begin = [&](const char* name, Colour colour, float rate) -> History& {
    runs.push_back({.optimizer = name,
                    .colour = colour,
                    .seed = seed,
                    .learning_rate = static_cast<double>(rate)});
    return runs.back();
  };

  if (runs_with("sgd")) {
    Autoencoder model = initial;
    auto trained = kfac::make_optimizer<kfac::Sgd>(
        model, loss,
        {.learning_rate = sgd_learning_rate, .momentum = sgd_momentum, .nesterov = true});
    train(*this, first_order, rng, model, trained, progress,
          begin("SGD", Colour::Green, sgd_learning_rate));
  }
  if (runs_with("adam")) {
    Autoencoder model = initial;
    auto trained =
        kfac::make_optimizer<kfac::Adam>(model, loss, {.learning_rate = adam_learning_rate});
    train(*this, first_order, rng, model, trained, progress,
          begin("Adam", Colour::Blue, adam_learning_rate));
  }
  if (runs_with("kfac")) {
    Autoencoder model = initial;
    kfac::KfacOptions<float> options{
        .learning_rate = learning_rate,
        .momentum = momentum,
        .damping = damping,
        .factor_every = factor_every,
        .inverse_every = inverse_every,
        .factor_decay = factor_decay,
        .kl_clip = kl_clip,
        .fisher = fisher == "monte-carlo" ? kfac::FisherType::MonteCarlo
                  : fisher == "empirical" ? kfac::FisherType::Empirical
                                          : kfac::FisherType::CurvaturePropagation,
        .seed = seed};
    if (adaptive == "yes") {
      options.adaptive_learning_rate = true;
      options.adaptive_momentum = true;
      options.damping_adaptation = {.every = 5};
    }
    kfac::KfacOptimizer trained(model, loss, options);
    train(*this, second_order, rng, model, trained, progress,
          begin("K-FAC", Colour::Vermilion, learning_rate));
  }
  return runs;
}

void AutoencoderStudy::print_losses(std::ostream& out, const std::vector<History>& runs) const {
  Table table;
  table.add_columns("", {"step"});
  for (const History& run : runs) table.add_columns(run.optimizer, {"seconds", "loss"});
  std::vector<Index> rows{0};
  for (const double step : report_steps) rows.push_back(static_cast<Index>(step));
  for (const History& run : runs) rows.push_back(run.records.back().step);
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  for (const Index step : rows) {
    std::vector<std::string> cells{std::to_string(step)};
    for (const History& run : runs) {
      const auto found = std::find_if(run.records.begin(), run.records.end(),
                                      [&](const Record& record) { return record.step == step; });
      const bool is_there = found != run.records.end();
      cells.push_back(is_there ? significant(found->seconds, 3) : "");
      cells.push_back(is_there ? fixed(found->loss, 1) : "");
    }
    if (std::any_of(cells.begin() + 1, cells.end(), [](const auto& cell) { return !cell.empty(); }))
      table.add_row(cells);
  }
  out << table;
  for (const History& run : runs)
    if (!run.stopped.empty()) out << run.optimizer << " stopped: " << run.stopped << '\n';
}

void AutoencoderStudy::print_targets(std::ostream& out, const std::vector<History>& runs) const {
  Table table;
  table.add_columns("", {"loss"});
  for (const History& run : runs) table.add_columns(run.optimizer, {"updates", "seconds"});
  // How many times what the last one took, which is K-FAC where all run.
  for (std::size_t i = 0; i + 1 < runs.size(); ++i)
    table.add_columns(runs[i].optimizer + " / " + runs.back().optimizer, {"updates", "seconds"});
  for (const double target : targets) {
    std::vector<std::string> cells{significant(target, 4)};
    for (const History& run : runs) {
      const Record* reached = first_at(run, target);
      cells.push_back(reached ? std::to_string(reached->step) : "");
      cells.push_back(reached ? significant(reached->seconds, 3) : "");
    }
    const Record* own = first_at(runs.back(), target);
    for (std::size_t i = 0; i + 1 < runs.size(); ++i) {
      const Record* other = first_at(runs[i], target);
      const bool both = own != nullptr && other != nullptr && own->step > 0;
      cells.push_back(both ? times(static_cast<double>(other->step), static_cast<double>(own->step))
                           : "");
      cells.push_back(both ? times(other->seconds, own->seconds) : "");
    }
    table.add_row(cells);
  }
  out << table;
}

std::vector<Panel> loss_panels(const std::vector<History>& runs) {
  const auto panel = [&](const char* title, const char* x_label, auto x) {
    return Panel{.title = title,
                 .x_label = x_label,
                 .y_label = "nats an image",
                 .logarithmic_x = true,
                 .series = curves(runs, x, [](const Record& record) { return record.loss; })};
  };
  return {panel("Training loss, update by update", "updates",
                [](const Record& record) { return static_cast<double>(record.step); }),
          panel("Training loss over time", "seconds of training",
                [](const Record& record) { return record.seconds; })};
}

}  // namespace examples
