/// A network that solves Poisson's equation -u_xx - u_yy = 2 pi^2 sin(pi x) sin(pi y) on the unit
/// square, u = 0 on its boundary, by K-FAC, Adam and L-BFGS in equal processor time. The solution
/// is sin(pi x) sin(pi y).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <functional>
#include <iostream>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/parameter_block.hpp>
#include <kfac/nn/jet_network.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/scientific/pinn_optimizer.hpp>

#include "support/flags.hpp"
#include "support/lbfgs.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"

namespace {

using kfac::Index;
using Points = kfac::Dataset<double, Eigen::MatrixXd>;
using Network = kfac::Sequential<kfac::Linear<double>, kfac::Tanh<double>, kfac::Linear<double>,
                                 kfac::Tanh<double>, kfac::Linear<double>>;

struct Settings {
  float seconds = 60;
  Index width = 64;
  Index interior = 900;
  Index boundary = 120;
  std::vector<double> adam_rates = {1e-3, 3e-3, 1e-2, 3e-2};
  float damping = 1e-8F;
  std::uint64_t seed = 0;
  std::string plot = {};

  void add_flags(examples::Flags& flags) {
    flags.add("--seconds", seconds, "of processor time for each optimizer");
    flags.add("--width", width, "units of both hidden layers");
    flags.add("--interior", interior, "points in the square");
    flags.add("--boundary", boundary, "points on its boundary", 4);
    flags.add("--adam-rates", adam_rates, "learning rates of Adam to try; the best one counts");
    flags.add("--damping", damping, "of K-FAC");
    flags.add("--seed", seed, "of the initial weights and the points");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
  }
};

Eigen::MatrixXd solution(const Eigen::MatrixXd& x) {
  constexpr double kPi = std::numbers::pi;
  return (kPi * x.row(0).array()).sin() * (kPi * x.row(1).array()).sin();
}

/// The equation and where it is to hold.
struct Problem {
  Points interior, boundary;
  static constexpr Index kGrid = 41;
  Eigen::MatrixXd grid{2, kGrid* kGrid};  ///< where the solution is looked at

  Problem(const Settings& settings, kfac::Rng& rng) {
    interior.inputs.resize(2, settings.interior);
    rng.fill_uniform(interior.inputs, 0, 1);
    interior.targets = 2 * std::numbers::pi * std::numbers::pi * solution(interior.inputs);
    boundary.inputs.resize(2, settings.boundary);
    rng.fill_uniform(boundary.inputs, 0, 1);
    for (Index n = 0; n < settings.boundary; ++n)  // left, bottom, right, top
      boundary.inputs(n % 2, n) = n % 4 < 2 ? 0 : 1;
    boundary.targets = Eigen::MatrixXd::Zero(1, settings.boundary);
    for (Index i = 0; i < kGrid; ++i)
      for (Index j = 0; j < kGrid; ++j)
        grid.col(i * kGrid + j) << static_cast<double>(j) / (kGrid - 1),
            1 - static_cast<double>(i) / (kGrid - 1);
  }

  /// |u - solution| / |solution| on the grid.
  double error(Network& network) const {
    const Eigen::MatrixXd exact = solution(grid);
    return (network.forward(grid) - exact).norm() / exact.norm();
  }
  /// On the grid, as a picture.
  Eigen::MatrixXd picture(const Eigen::MatrixXd& values) const {
    return values.reshaped(kGrid, kGrid).transpose();
  }
};

const auto kLaplace = [](const auto&, const auto& u) { return -u.laplacian(); };
using Residual = decltype(kfac::jet_network(std::declval<Network&>(),
                                            kfac::JetSlots<double>::laplacian(2), kLaplace));

/// The loss that all optimizers minimise, and its gradient with respect to the flat parameters.
class Objective {
 public:
  Objective(Network& network, Residual& residual, const Problem& problem)
      : network_(network), residual_(residual), problem_(problem) {}

  double operator()(Eigen::VectorXd& gradient) {
    const double loss = add(residual_, problem_.interior) + add(network_, problem_.boundary);
    gradient = residual_.gradient() + network_.gradient();
    return loss;
  }

 private:
  template <class Model>
  static double add(Model& model, const Points& points) {
    const Eigen::MatrixXd wrong = model.forward(points.inputs) - points.targets;
    const auto count = static_cast<double>(points.examples());
    model.backward(wrong / count);
    return wrong.squaredNorm() / (2 * count);
  }

  Network& network_;
  Residual& residual_;
  const Problem& problem_;
};

struct Run {
  std::string name;
  Index iterations = 0;
  double loss = 0, error = 0, seconds = 0;
  std::vector<Eigen::Vector2d> history = {};  ///< seconds and error
  Eigen::MatrixXd outputs = {};               ///< on the grid, at the end
};

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

/// Calls `step(share of the time that is gone)`, which returns the loss, until the time is over.
Run train(const std::string& name, const Settings& settings, const Problem& problem,
          Network& network, const std::function<double(double)>& step) {
  Run run{.name = name};
  double looked_at = 0;
  const auto look = [&] {
    run.error = problem.error(network);
    run.history.emplace_back(run.seconds, run.error);
    looked_at = run.seconds;
  };
  look();
  while (run.seconds < static_cast<double>(settings.seconds)) {
    const double begun = cpu_seconds();
    run.loss = step(run.seconds / static_cast<double>(settings.seconds));
    run.seconds += cpu_seconds() - begun;
    ++run.iterations;
    if (run.seconds - looked_at > static_cast<double>(settings.seconds) / 100) look();
  }
  look();
  run.outputs = network.forward(problem.grid);
  return run;
}

Run train_kfac(const std::string& name, kfac::PinnStep kind, const Settings& settings,
               const Problem& problem, Network network) {
  Residual residual = kfac::jet_network(network, kfac::JetSlots<double>::laplacian(2), kLaplace);
  kfac::PinnOptimizer optimizer(residual, network,
                                {.step = kind, .damping = static_cast<double>(settings.damping)});
  return train(name, settings, problem, network,
               [&](double) { return optimizer.step(problem.interior, problem.boundary).loss; });
}

Run train_adam(double rate, const Settings& settings, const Problem& problem, Network network) {
  Residual residual = kfac::jet_network(network, kfac::JetSlots<double>::laplacian(2), kLaplace);
  Objective objective(network, residual, problem);
  kfac::Adam adam(network, {.learning_rate = rate});
  Eigen::VectorXd gradient;
  return train("Adam, rate " + examples::significant(rate, 2), settings, problem, network,
               [&](double gone) {
                 const double loss = objective(gradient);
                 network.gradient() = gradient;
                 const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * gone));
                 adam.set_learning_rate(rate * std::max(cosine, 1e-6));
                 adam.step(loss);
                 return loss;
               });
}

Run train_lbfgs(const Settings& settings, const Problem& problem, Network network) {
  Residual residual = kfac::jet_network(network, kfac::JetSlots<double>::laplacian(2), kLaplace);
  Objective objective(network, residual, problem);
  examples::Lbfgs lbfgs;
  Eigen::VectorXd parameters = kfac::flat_parameters(network);
  return train("L-BFGS", settings, problem, network, [&](double) {
    const double loss =
        lbfgs.step(parameters, [&](const Eigen::VectorXd& at, Eigen::VectorXd& gradient) {
          kfac::set_flat_parameters(network, at);
          return objective(gradient);
        });
    kfac::set_flat_parameters(network, parameters);
    return loss;
  });
}

std::vector<examples::Panel> panels(const std::vector<Run>& runs, const Problem& problem,
                                    const Run& best) {
  using examples::Colour;
  examples::Panel errors{.title = "Relative L2 error",
                         .x_label = "seconds of processor time",
                         .y_label = {},
                         .logarithmic_y = true};
  const std::vector<Colour> colours{Colour::Vermilion, Colour::Orange, Colour::Blue, Colour::Green};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    examples::Series series{.label = runs[i].name, .colour = colours[i % colours.size()]};
    series.points.resize(2, static_cast<Index>(runs[i].history.size()));
    for (std::size_t k = 0; k < runs[i].history.size(); ++k)
      series.points.col(static_cast<Index>(k)) = runs[i].history[k];
    errors.series.push_back(std::move(series));
  }
  const Eigen::MatrixXd exact = solution(problem.grid);
  const auto field = [&](const std::string& title, const Eigen::MatrixXd& values) {
    // A little above a power of ten is that power.
    const double decade = std::ceil(std::log10(values.cwiseAbs().maxCoeff()) - 0.05);
    const double largest = std::pow(10.0, decade);
    examples::Panel panel{.title = title, .x_label = "41 x 41 points of the unit square"};
    panel.heat_map = examples::HeatMap{problem.picture(values), largest / 1000, largest};
    return panel;
  };
  return {errors, field(best.name + ": the solution", best.outputs),
          field(best.name + ": its error", best.outputs - exact)};
}

void run(const Settings& settings) {
  kfac::Rng rng(settings.seed);
  const Network network{kfac::Linear<double>(2, settings.width, rng), kfac::Tanh<double>{},
                        kfac::Linear<double>(settings.width, settings.width, rng),
                        kfac::Tanh<double>{}, kfac::Linear<double>(settings.width, 1, rng)};
  const Problem problem(settings, rng);
  std::cout << "Network 2-" << settings.width << '-' << settings.width << "-1 with tanh, "
            << network.parameter_count() << " parameters; " << settings.interior
            << " points inside, " << settings.boundary << " on the boundary; "
            << examples::significant(static_cast<double>(settings.seconds), 3)
            << " s of processor time each\n\n";

  examples::Progress progress(static_cast<Index>(settings.adam_rates.size()) + 3);
  std::vector<Run> runs;
  runs.push_back(train_kfac("K-FAC, quadratic model", kfac::PinnStep::QuadraticModel, settings,
                            problem, network));
  progress.advance();
  runs.push_back(
      train_kfac("K-FAC, line search", kfac::PinnStep::LineSearch, settings, problem, network));
  progress.advance();
  runs.push_back(train_lbfgs(settings, problem, network));
  progress.advance();
  std::size_t best_adam = runs.size();
  for (const double rate : settings.adam_rates) {
    runs.push_back(train_adam(rate, settings, problem, network));
    if (runs.back().error < runs[best_adam].error) best_adam = runs.size() - 1;
    progress.advance();
  }

  examples::Table table;
  table.add_columns("", {"optimizer", "iterations", "loss", "relative L2 error", "seconds"});
  for (const Run& one : runs)
    table.add_row({one.name, std::to_string(one.iterations), examples::significant(one.loss, 3),
                   examples::significant(one.error, 3), examples::fixed(one.seconds, 1)});
  std::cout << table << "\nThe error of the best Adam is "
            << examples::significant(runs[best_adam].error / runs[0].error, 3)
            << " times that of K-FAC with the quadratic model.\n";
  if (settings.plot.empty()) return;
  const std::vector<Run> shown{runs[0], runs[1], runs[best_adam], runs[2]};
  examples::draw(settings.plot, panels(shown, problem, runs[0]), 3);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "A network that solves Poisson's equation on the unit square, by K-FAC, Adam (the best of "
      "several learning rates, with a cosine schedule over the time there is) and L-BFGS, each in "
      "the same processor time.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    run(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
