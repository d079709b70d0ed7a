/// A network learns five tasks one after another, each Fashion-MNIST with its pixels in another
/// order, and is kept from forgetting the earlier ones by the curvature that it had on them.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/data/subset.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/merging/penalized_gradient.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/table.hpp"

namespace {

using examples::fixed;
using examples::significant;
using kfac::CurvatureStructure;
using kfac::Index;
using kfac::PenaltyCompression;
using Images = kfac::Dataset<float>;
using Network = kfac::Sequential<kfac::Linear<float>, kfac::ReLU<float>, kfac::Linear<float>,
                                 kfac::ReLU<float>, kfac::Linear<float>>;

struct Settings {
  std::string folder = "/usr/share/datasets/fashion-mnist";
  Index tasks = 5;
  Index examples = 8000;
  Index epochs = 4;
  float learning_rate = 1e-3F;
  std::vector<double> strengths{1, 3, 10, 30, 100, 300};
  Index threads = 2;
  std::uint64_t seed = 1;
  std::string plot;
};

struct Task {
  Images train, test, glance;  // a part of the test images, for curves
};

struct Family {
  std::string name;
  CurvatureStructure structure;
  PenaltyCompression compression;
};

const Family kFamilies[] = {
    {"diagonal", CurvatureStructure::Diagonal, PenaltyCompression::KeepAll},
    {"Kronecker, all kept", CurvatureStructure::Kronecker, PenaltyCompression::KeepAll},
    {"Kronecker, factors summed", CurvatureStructure::Kronecker, PenaltyCompression::FactorSum},
    {"Kronecker, nearest product", CurvatureStructure::Kronecker, PenaltyCompression::Nearest}};

/// One course through all tasks.
struct Run {
  const Family* family;  // null: without a penalty
  double strength;
  std::vector<double> accuracies = {};           // of each task, at the end
  std::vector<std::vector<double>> curves = {};  // of each task, after each epoch
  double bytes = 0;                              // of the penalty, at the end

  double average() const {
    double sum = 0;
    for (const double accuracy : accuracies) sum += accuracy;
    return sum / static_cast<double>(accuracies.size());
  }
};

Images some(const Images& data, Index count) {
  std::vector<Index> numbers;
  for (Index n = 0; n < count; ++n) numbers.push_back(n);
  return kfac::subset(data, numbers);
}

/// The same images with their pixels in that order.
Images permuted(const Images& data, const std::vector<Index>& order) {
  Images result = data;
  for (std::size_t pixel = 0; pixel < order.size(); ++pixel)
    result.inputs.row(static_cast<Index>(pixel)) = data.inputs.row(order[pixel]);
  return result;
}

std::vector<Task> make_tasks(const Settings& settings) {
  const auto [train, test] = kfac::io::fashion_mnist<float>(settings.folder);
  kfac::Rng rng(settings.seed);
  const Images few = some(train, settings.examples);
  std::vector<Task> tasks;
  for (Index t = 0; t < settings.tasks; ++t) {
    std::vector<Index> order;
    for (Index pixel = 0; pixel < few.inputs.rows(); ++pixel) order.push_back(pixel);
    if (t > 0) rng.shuffle(order);
    Task& task = tasks.emplace_back();
    task.train = permuted(few, order);
    task.test = permuted(test, order);
    task.glance = some(task.test, 2000);
  }
  return tasks;
}

void take(Run& run, const std::vector<Task>& tasks, const Settings& settings) {
  kfac::Rng rng(settings.seed);
  Network model{kfac::Linear<float>(784, 100, rng), kfac::ReLU<float>{},
                kfac::Linear<float>(100, 100, rng), kfac::ReLU<float>{},
                kfac::Linear<float>(100, 10, rng)};
  const kfac::SoftmaxCrossEntropy<float> loss;
  kfac::LaplacePenalty penalty(
      model, {.strength = run.strength,
              .compression = run.family ? run.family->compression : PenaltyCompression::KeepAll});
  run.curves.resize(tasks.size());
  for (const Task& task : tasks) {
    kfac::Adam adam(model, {.learning_rate = settings.learning_rate});
    for (Index epoch = 0; epoch < settings.epochs; ++epoch) {
      for (const auto& [x, y] : kfac::batches(task.train, 128, rng))
        adam.step(kfac::penalized_gradient(model, loss, penalty, x, y));
      for (std::size_t t = 0; t < tasks.size(); ++t)
        run.curves[t].push_back(kfac::accuracy(model, tasks[t].glance));
    }
    if (run.family)
      penalty.add_task(kfac::estimate_curvature(
          model, loss, kfac::slices(task.train, 500),
          {.structure = run.family->structure, .fisher = kfac::FisherType::MonteCarlo}));
  }
  for (const Task& task : tasks) run.accuracies.push_back(kfac::accuracy(model, task.test));
  run.bytes = run.family ? penalty.memory().total() : 0;
}

/// All runs, on as many threads.
void take_all(std::vector<Run>& runs, const std::vector<Task>& tasks, const Settings& settings) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < runs.size(); i = next++) take(runs[i], tasks, settings);
  };
  std::vector<std::thread> threads;
  for (Index thread = 1; thread < settings.threads; ++thread) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

void print(const Settings& settings, const std::vector<Run>& runs) {
  examples::Table table;
  table.add_columns("", {"penalty", "strength", "MB", "average"});
  std::vector<std::string> names;
  for (Index t = 1; t <= settings.tasks; ++t) names.push_back(std::to_string(t));
  table.add_columns("accuracy on task, %", names);
  for (const Run& run : runs) {
    std::vector<std::string> cells{
        run.family ? run.family->name : "none", run.family ? significant(run.strength, 3) : "",
        run.family ? fixed(run.bytes / 1e6, 1) : "", fixed(100 * run.average(), 2)};
    for (const double accuracy : run.accuracies) cells.push_back(fixed(100 * accuracy, 2));
    table.add_row(cells);
  }
  std::cout << table;
}

/// A panel for no penalty, the best diagonal one and the best of the nearest products.
void draw(const Settings& settings, const std::vector<Run>& runs) {
  const auto best_of = [&](const Family* family) {
    const Run* best = nullptr;
    for (const Run& run : runs)
      if (run.family == family && (!best || run.average() > best->average())) best = &run;
    return best;
  };
  constexpr examples::Colour kColours[] = {examples::Colour::Blue, examples::Colour::Orange,
                                           examples::Colour::Green, examples::Colour::Vermilion,
                                           examples::Colour::SkyBlue};
  std::vector<examples::Panel> panels;
  for (const Run* run : {best_of(nullptr), best_of(&kFamilies[0]), best_of(&kFamilies[3])}) {
    examples::Panel panel{
        .title = run->family ? run->family->name + ", strength " + significant(run->strength, 3)
                             : "no penalty",
        .x_label = "epoch",
        .y_label = "Test accuracy, %"};
    for (std::size_t t = 0; t < run->curves.size(); ++t) {
      examples::Series series{.label = "task " + std::to_string(t + 1),
                              .colour = kColours[t % std::size(kColours)]};
      // From the first epoch on that task.
      const Index first = static_cast<Index>(t) * settings.epochs;
      const Index count = static_cast<Index>(run->curves[t].size()) - first;
      series.points.resize(2, count);
      for (Index k = 0; k < count; ++k)
        series.points.col(k) << static_cast<double>(first + k + 1),
            100 * run->curves[t][static_cast<std::size_t>(first + k)];
      panel.series.push_back(std::move(series));
    }
    panels.push_back(std::move(panel));
  }
  examples::draw(settings.plot, panels, static_cast<int>(panels.size()));
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.threads = std::max<Index>(1, std::thread::hardware_concurrency());
  examples::Flags flags(
      "A network learns tasks one after another, each Fashion-MNIST with its pixels in another "
      "order, and is kept from forgetting the earlier ones by the curvature that it had on them.");
  flags.add("--data", settings.folder, "folder with the four files of the data set");
  flags.add("--tasks", settings.tasks, "how many tasks");
  flags.add("--examples", settings.examples, "training examples of each task");
  flags.add("--epochs", settings.epochs, "epochs on each task");
  flags.add("--learning-rate", settings.learning_rate, "of Adam");
  flags.add("--strengths", settings.strengths, "of the penalties, all of which are shown");
  flags.add("--threads", settings.threads, "runs at one time");
  flags.add("--seed", settings.seed, "of tasks, initial weights and the order of batches");
  flags.add("--plot", settings.plot, "draws the accuracies to this SVG or PNG file");
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    const std::vector<Task> tasks = make_tasks(settings);
    std::vector<Run> runs{{nullptr, 0}};
    for (const Family& family : kFamilies)
      for (const double strength : settings.strengths) runs.push_back({&family, strength});
    take_all(runs, tasks, settings);
    print(settings, runs);
    if (!settings.plot.empty()) draw(settings, runs);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
