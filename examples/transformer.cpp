/// AdamW and K-FAC train a small transformer to predict the next character of licences that every
/// Debian system has, from the same initial weights and on the same batches.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <kfac/kfac.hpp>
#include <kfac/nn/embedding.hpp>
#include <kfac/nn/positions.hpp>
#include <kfac/nn/transformer.hpp>

#include "support/character_text.hpp"
#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"

namespace {

using examples::CharacterText;
using examples::fixed;
using examples::Panel;
using examples::Series;
using examples::Windows;
using kfac::Index;

struct Settings {
  std::string folder = "/usr/share/common-licenses";
  std::string optimizer = "all";
  Index context = 64, features = 64, heads = 4;
  Index steps = 500, batch_size = 32, report_every = 50;
  float adamw_learning_rate = 6e-3F, weight_decay = 0.01F;
  Index adamw_warmup = 100;
  float kfac_learning_rate = 1, damping = 0.1F, final_damping = 1e-3F;
  float momentum = 0.9F, kl_clip = 3e-3F;
  Index kfac_warmup = 20, factor_every = 2, inverse_every = 10;
  Index sample = 240;
  std::uint64_t seed = 1;
  std::string plot;

  bool runs(const std::string& name) const { return optimizer == "all" || optimizer == name; }
  /// Up to `largest` over the first steps, then down to a tenth of it.
  kfac::Schedule<float> up_and_down(float largest, Index warmup) const {
    return kfac::schedules::linear_warmup(
        warmup,
        kfac::schedules::cosine(largest, 0.1F * largest, std::max<Index>(steps - warmup, 1)));
  }
  /// As the square of the learning rate, since it bounds the square of a step.
  kfac::Schedule<float> kl_clips() const {
    return up_and_down(1, kfac_warmup) * up_and_down(1, kfac_warmup) * kl_clip;
  }
};

auto make_model(const Settings& settings, Index symbols, kfac::Rng& rng) {
  const kfac::TransformerOptions block{
      .features = settings.features, .heads = settings.heads, .causal = true};
  kfac::Embedding<float> embedding({.vocabulary = symbols, .features = settings.features}, rng);
  embedding.weight() *= 0.02F;  // as in GPT-2
  return kfac::Sequential{std::move(embedding),
                          kfac::LearnedPositions<float>(settings.context, settings.features, rng),
                          kfac::transformer_block<float>(block, rng),
                          kfac::transformer_block<float>(block, rng),
                          kfac::LayerNorm<float>(settings.features),
                          kfac::Linear<float>(settings.features, symbols, rng)};
}

using Model = decltype(make_model(Settings{}, 1, std::declval<kfac::Rng&>()));
using Loss = kfac::SoftmaxCrossEntropy<float>;

/// What has been measured after so many steps, in nats a character.
struct Point {
  Index step;
  double seconds;  ///< of training
  double train;    ///< on the batches since the point before
  double test;
};
struct Run {
  std::string name;
  examples::Colour colour;
  std::vector<Point> points;
};

double test_loss(Model& model, const Loss& loss, const Windows& held_out) {
  const kfac::Evaluation evaluation(model);
  constexpr Index kAtOnce = 32;
  const Index context = held_out.characters.rows();
  double sum = 0;
  for (Index first = 0; first < held_out.characters.cols(); first += kAtOnce) {
    const Index count = std::min(kAtOnce, held_out.characters.cols() - first);
    const auto outputs = model.forward(held_out.characters.middleCols(first, count));
    sum += static_cast<double>(count) *
           static_cast<double>(
               loss.value(outputs, held_out.next.segment(first * context, count * context)));
  }
  return sum / static_cast<double>(held_out.characters.cols());
}

/// Calls `step(x, y)`, which returns its report, for the same batches each time.
template <class Step>
Run train(const std::string& name, examples::Colour colour, const Settings& settings,
          const CharacterText& text, Model& model, const Loss& loss, examples::Progress& progress,
          Step&& step) {
  const Windows held_out = text.held_out(settings.context);
  Windows batch{kfac::Matrix<float>(settings.context, settings.batch_size),
                kfac::Labels(settings.context * settings.batch_size)};
  kfac::Rng rng(settings.seed);
  Run run{name, colour, {}};
  double seconds = 0, sum = 0;
  Index summed = 0;
  for (Index i = 1; i <= settings.steps; ++i) {
    text.draw(settings.context, rng, batch);
    const auto started = std::chrono::steady_clock::now();
    const auto& report = step(batch.characters, batch.next);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    progress.advance();
    if (!report.ok() || !std::isfinite(report.loss))
      throw std::runtime_error(name + " diverged at step " + std::to_string(i));
    sum += static_cast<double>(report.loss);
    ++summed;
    if (i % settings.report_every != 0 && i != settings.steps) continue;
    run.points.push_back(
        {i, seconds, sum / static_cast<double>(summed), test_loss(model, loss, held_out)});
    sum = 0;
    summed = 0;
  }
  return run;
}

/// What the model writes on, character by character.
std::string written(Model& model, const CharacterText& text, const Settings& settings) {
  const kfac::Evaluation evaluation(model);
  kfac::Rng rng(settings.seed);
  std::string result = "The licensor ";
  while (static_cast<Index>(result.size()) < settings.sample) {
    const auto known =
        std::min<std::size_t>(result.size(), static_cast<std::size_t>(settings.context));
    const std::vector<int> numbers = text.numbers(result.substr(result.size() - known));
    kfac::Matrix<float> x(static_cast<Index>(known), 1);
    for (Index t = 0; t < x.rows(); ++t)
      x(t, 0) = static_cast<float>(numbers[static_cast<std::size_t>(t)]);
    const kfac::Vector<float> outputs = model.forward(x).col(0).tail(text.symbols());
    // From the sharper distribution at a temperature of 1/2.
    const Loss draws;
    result += text.symbol(draws.sample(2 * outputs, rng)(0));
  }
  return result;
}

void print(const std::vector<Run>& runs) {
  examples::Table table;
  table.add_columns("", {"step"});
  for (const Run& run : runs) table.add_columns(run.name, {"train", "test", "seconds"});
  for (std::size_t i = 0; i < runs.front().points.size(); ++i) {
    std::vector<std::string> cells{std::to_string(runs.front().points[i].step)};
    for (const Run& run : runs)
      for (const std::string& cell : {fixed(run.points[i].train, 3), fixed(run.points[i].test, 3),
                                      fixed(run.points[i].seconds, 1)})
        cells.push_back(cell);
    table.add_row(cells);
  }
  std::cout << table;
}

/// When one run is below what another has at its end, in both losses.
void print_ahead(const Run& run, const Run& other) {
  const auto below = [&](double Point::*loss) -> std::string {
    for (const Point& point : run.points)
      if (point.*loss <= other.points.back().*loss)
        return "step " + std::to_string(point.step) + " (" + fixed(point.seconds, 1) + " s)";
    return "no step";
  };
  std::cout << run.name << " is where " << other.name << " ends in training loss at "
            << below(&Point::train) << ", in test loss at " << below(&Point::test) << ".\n";
}

Panel panel(const std::string& title, const std::vector<Run>& runs, double Point::*loss,
            bool over_seconds) {
  Panel result{
      .title = title, .x_label = over_seconds ? "seconds" : "steps", .y_label = "nats a character"};
  for (const Run& run : runs) {
    Series series{.label = run.name,
                  .colour = run.colour,
                  .style = Series::Style::LinePoints,
                  .points = Eigen::Matrix2Xd(2, static_cast<Index>(run.points.size()))};
    for (Index i = 0; i < series.points.cols(); ++i) {
      const Point& point = run.points[static_cast<std::size_t>(i)];
      series.points.col(i) << (over_seconds ? point.seconds : static_cast<double>(point.step)),
          point.*loss;
    }
    result.series.push_back(std::move(series));
  }
  return result;
}

void compare(const Settings& settings) {
  const CharacterText text(settings.folder);
  kfac::Rng rng(settings.seed);
  const Model initial = make_model(settings, text.symbols(), rng);
  const Loss loss({.classes = text.symbols()});
  std::cout << text.train_size() << " characters to train on and " << text.test_size()
            << " held out, " << text.symbols() << " symbols; " << initial.parameter_count()
            << " parameters\n\n";

  std::vector<Run> runs;
  std::string sample;
  {
    examples::Progress progress((settings.optimizer == "all" ? 2 : 1) * settings.steps);
    if (settings.runs("adamw")) {
      Model model = initial;
      kfac::AdamW adamw(model, {.learning_rate = settings.up_and_down(settings.adamw_learning_rate,
                                                                      settings.adamw_warmup),
                                .weight_decay = settings.weight_decay});
      runs.push_back(train(
          "AdamW", examples::Colour::Blue, settings, text, model, loss,
          progress, [&](const auto& x, const auto& y) -> const auto& {
            return kfac::train_step(model, loss, adamw, x, y);
          }));
    }
    if (settings.runs("kfac")) {
      Model model = initial;
      kfac::KfacOptimizer optimizer(
          model, loss,
          {.learning_rate = settings.up_and_down(settings.kfac_learning_rate, settings.kfac_warmup),
           .momentum = settings.momentum,
           .damping = kfac::schedules::exponential(
               settings.damping, settings.final_damping / settings.damping, settings.steps),
           .factor_every = settings.factor_every,
           .inverse_every = settings.inverse_every,
           .kl_clip = settings.kl_clips(),
           .fisher = kfac::FisherType::MonteCarlo});
      runs.push_back(train(
          "K-FAC", examples::Colour::Vermilion, settings, text, model, loss,
          progress, [&](const auto& x, const auto& y) -> const auto& {
            return optimizer.step(x, y);
          }));
      sample = written(model, text, settings);
    }
  }

  std::cout << "Loss in nats a character: of the batches since the line before, and held out\n";
  print(runs);
  if (runs.size() == 2) print_ahead(runs[1], runs[0]);
  if (!sample.empty())
    std::cout << "\nWritten by the network that K-FAC trained:\n" << sample << '\n';
  if (!settings.plot.empty())
    examples::draw(settings.plot,
                   {panel("Training loss", runs, &Point::train, false),
                    panel("Held-out loss", runs, &Point::test, false),
                    panel("Training loss", runs, &Point::train, true),
                    panel("Held-out loss", runs, &Point::test, true)},
                   2);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "AdamW and K-FAC train a small transformer to predict the next character of licences that "
      "every Debian system has, from the same initial weights and on the same batches.");
  flags.add("--data", settings.folder, "folder with the licences");
  flags.add("--optimizer", settings.optimizer, "which to run", {"all", "adamw", "kfac"});
  flags.add("--context", settings.context, "characters that the network sees");
  flags.add("--features", settings.features, "of each of them");
  flags.add("--heads", settings.heads, "of attention, a divisor of the features");
  flags.add("--steps", settings.steps, "steps of each optimizer");
  flags.add("--batch-size", settings.batch_size, "pieces of text a step");
  flags.add("--report-every", settings.report_every,
            "steps from one line of the table to the next");
  flags.add("--adamw-learning-rate", settings.adamw_learning_rate, "AdamW's largest");
  flags.add("--adamw-warmup", settings.adamw_warmup, "steps over which it rises");
  flags.add("--weight-decay", settings.weight_decay, "AdamW's");
  flags.add("--learning-rate", settings.kfac_learning_rate, "K-FAC's largest");
  flags.add("--kfac-warmup", settings.kfac_warmup, "steps over which it and the KL clip rise");
  flags.add("--damping", settings.damping, "K-FAC's, at first");
  flags.add("--final-damping", settings.final_damping, "K-FAC's, in the end");
  flags.add("--momentum", settings.momentum, "K-FAC's");
  flags.add("--kl-clip", settings.kl_clip, "K-FAC's bound of a step, in nats, the largest");
  flags.add("--factor-every", settings.factor_every, "steps between updates of its factors");
  flags.add("--inverse-every", settings.inverse_every, "steps between its inverses");
  flags.add("--sample", settings.sample, "characters to write in the end");
  flags.add("--seed", settings.seed, "of weights and batches");
  flags.add("--plot", settings.plot, "file to draw, .svg or .png");
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;
  try {
    compare(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
