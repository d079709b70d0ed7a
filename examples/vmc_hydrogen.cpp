/// The ground state of the hydrogen atom by variational Monte Carlo: a network for log |psi| whose
/// energy K-FAC, Adam and SGD lower in equal numbers of steps. The energy is -1/2 (in hartrees),
/// and of an exact ground state the local energy has no variance.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/sequential.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/scientific/vmc_optimizer.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"

namespace {

using kfac::Index;
using Network = kfac::Sequential<kfac::Linear<double>, kfac::Tanh<double>, kfac::Linear<double>,
                                 kfac::Tanh<double>, kfac::Linear<double>>;
using Energy = kfac::EnergyStatistics<double>;

struct Settings {
  Index steps = 300;
  float seconds = 60;
  Index walkers = 1024;
  Index width = 24;
  Index samples = 200;
  std::vector<double> kfac_rates = {0.5, 1, 2};
  std::vector<double> adam_rates = {1e-2, 3e-2, 0.1};
  std::vector<double> sgd_rates = {0.3, 1, 3};
  std::uint64_t seed = 0;
  std::string plot = {};

  void add_flags(examples::Flags& flags) {
    flags.add("--steps", steps, "of each optimizer");
    flags.add("--seconds", seconds,
              "of processor time after which an optimizer stops all the same");
    flags.add("--walkers", walkers, "samples of |psi|^2 for each step");
    flags.add("--width", width, "units of both hidden layers");
    flags.add("--samples", samples, "of all walkers, for the energy after the last step");
    flags.add("--kfac-rates", kfac_rates, "learning rates of K-FAC beside its default");
    flags.add("--adam-rates", adam_rates, "learning rates of Adam; the best one counts");
    flags.add("--sgd-rates", sgd_rates, "learning rates of SGD; the best one counts");
    flags.add("--seed", seed, "of the initial weights and the walkers");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
  }
};

struct Radius {
  template <class X>
  auto operator()(const X& x) const {
    using std::sqrt;
    return sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
  }
};
/// What the network is given: x, y, z and r.
struct Features {
  template <class X>
  auto operator()(const X& x) const {
    return std::vector{x[0], x[1], x[2], Radius{}(x)};
  }
};
/// Half as steep as it should be: the network has to find the rest.
struct Envelope {
  template <class X>
  auto operator()(const X& x) const {
    return -0.5 * Radius{}(x);
  }
};
struct Coulomb {
  double operator()(const std::vector<double>& x) const { return -1 / Radius{}(x); }
};
using Wave = kfac::WaveFunction<Network, Features, Envelope>;

struct Run {
  std::string name;
  std::vector<Energy> history = {};  ///< before each step
  Energy last = {};                  ///< after the last, from many samples
  double seconds = 0;
};

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

/// A step along the energy's gradient, from walkers and their local energies.
using Step = std::function<void(const Eigen::MatrixXd& x, const Eigen::VectorXd& energies)>;

/// Trains a copy of the network; `make_step` gives the step for its wave function.
Run train(const std::string& name, const Settings& settings, Network network,
          const std::function<Step(Wave&)>& make_step) {
  Wave psi(network, 3, Features{}, Envelope{});
  kfac::MetropolisSampler<double> sampler(
      {.walkers = settings.walkers, .coordinates = 3, .seed = settings.seed});
  const auto log_abs = [&](const Eigen::MatrixXd& x) { return psi.log_abs(x); };
  const Step step = make_step(psi);
  Run run{.name = name};
  const double begun = cpu_seconds();
  for (Index i = 0; i < settings.steps; ++i) {
    const Eigen::MatrixXd& x = sampler.sample(log_abs);
    const Eigen::VectorXd energies = psi.local_energies(x, Coulomb{});
    run.history.push_back(kfac::energy_statistics(energies));
    step(x, energies);
    run.seconds = cpu_seconds() - begun;
    if (run.seconds > static_cast<double>(settings.seconds)) break;
  }

  // Samples that follow each other are not independent: so is what walkers have as their means.
  Eigen::VectorXd means = Eigen::VectorXd::Zero(settings.walkers);
  double square = 0;
  for (Index i = 0; i < settings.samples; ++i) {
    const Eigen::VectorXd energies = psi.local_energies(sampler.sample(log_abs), Coulomb{});
    means += energies / static_cast<double>(settings.samples);
    square += energies.squaredNorm() / static_cast<double>(energies.size() * settings.samples);
  }
  run.last = kfac::energy_statistics(means);
  run.last.variance = square - run.last.mean * run.last.mean;
  return run;
}

Step kfac_step(Wave& psi, kfac::VmcOptions<double> options) {
  const auto optimizer = std::make_shared<kfac::VmcOptimizer<Wave>>(psi, std::move(options));
  return [optimizer](const auto& x, const auto& energies) {
    const auto& report = optimizer->step(x, energies);
    if (!report.ok()) throw std::runtime_error(kfac::describe(report.status));
  };
}

/// A step of Adam or SGD.
template <class Rule>
Step plain_step(Wave& psi, double rate) {
  const auto rule =
      std::make_shared<Rule>(psi.model(), typename Rule::Options{.learning_rate = rate});
  return [&psi, rule](const auto& x, const auto& energies) {
    kfac::energy_gradient(psi, x, kfac::energy_weights(energies));
    rule->step();
  };
}

/// Of several learning rates the one with the smallest variance at the end.
Run best_of(const std::string& name, const std::vector<double>& rates, const Settings& settings,
            const Network& network, examples::Progress& progress,
            const std::function<Step(Wave&, double)>& make_step) {
  Run best;
  for (const double rate : rates) {
    Run run = train(name + ", rate " + examples::significant(rate, 2), settings, network,
                    [&](Wave& psi) { return make_step(psi, rate); });
    if (best.name.empty() || run.last.variance < best.last.variance) best = std::move(run);
    progress.advance();
  }
  return best;
}

std::vector<examples::Panel> panels(const std::vector<Run>& runs) {
  using examples::Colour;
  examples::Panel error{.title = "Error of the energy, mean of 10 steps",
                        .x_label = "steps",
                        .y_label = "|E + 1/2|, hartree",
                        .logarithmic_y = true};
  examples::Panel variance{.title = "Variance of the local energy",
                           .x_label = "steps",
                           .y_label = "hartree^2",
                           .logarithmic_y = true};
  const std::vector<Colour> colours{Colour::Vermilion, Colour::Orange, Colour::Blue, Colour::Green};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    constexpr std::size_t kMean = 10;
    const auto count = static_cast<Index>(runs[i].history.size() / kMean);
    examples::Series errors{.label = runs[i].name, .colour = colours[i % colours.size()]};
    errors.points.resize(2, count);
    examples::Series variances = errors;
    for (Index k = 0; k < count; ++k) {
      double mean = 0, spread = 0;
      for (std::size_t j = 0; j < kMean; ++j) {
        const Energy& energy = runs[i].history[static_cast<std::size_t>(k) * kMean + j];
        mean += energy.mean / kMean;
        spread += energy.variance / kMean;
      }
      errors.points.col(k) << static_cast<double>(k * Index{kMean} + 5), std::abs(mean + 0.5);
      variances.points.col(k) << static_cast<double>(k * Index{kMean} + 5), spread;
    }
    error.series.push_back(std::move(errors));
    variance.series.push_back(std::move(variances));
  }
  return {error, variance};
}

void run(const Settings& settings) {
  kfac::Rng rng(settings.seed);
  const Network network{kfac::Linear<double>(4, settings.width, rng), kfac::Tanh<double>{},
                        kfac::Linear<double>(settings.width, settings.width, rng),
                        kfac::Tanh<double>{}, kfac::Linear<double>(settings.width, 1, rng)};
  std::cout << "log |psi| = network(x, y, z, r) - r/2, 4-" << settings.width << '-'
            << settings.width << "-1 with tanh, " << network.parameter_count() << " parameters; "
            << settings.walkers << " walkers\n\n";

  examples::Progress progress(static_cast<Index>(
      1 + settings.kfac_rates.size() + settings.adam_rates.size() + settings.sgd_rates.size()));
  std::vector<Run> runs;
  runs.push_back(
      train("K-FAC, defaults", settings, network, [](Wave& psi) { return kfac_step(psi, {}); }));
  progress.advance();
  runs.push_back(
      best_of("K-FAC", settings.kfac_rates, settings, network, progress,
              [](Wave& psi, double rate) { return kfac_step(psi, {.learning_rate = rate}); }));
  runs.push_back(best_of("Adam", settings.adam_rates, settings, network, progress,
                         plain_step<kfac::Adam<double>>));
  runs.push_back(best_of("SGD", settings.sgd_rates, settings, network, progress,
                         plain_step<kfac::Sgd<double>>));

  examples::Table progress_table;
  progress_table.add_columns("", {"step"});
  for (const Run& one : runs) progress_table.add_columns(one.name, {"energy", "+-", "variance"});
  const auto add_row = [&](const std::string& step, const auto& energy_of) {
    std::vector<std::string> cells{step};
    for (const Run& one : runs) {
      const Energy* energy = energy_of(one);
      cells.push_back(energy ? examples::fixed(energy->mean, 5) : "");
      cells.push_back(energy ? examples::fixed(energy->standard_error, 5) : "");
      cells.push_back(energy ? examples::significant(energy->variance, 2) : "");
    }
    progress_table.add_row(cells);
  };
  for (const Index step : {1, 10, 30, 100, 200, 300, 1000})
    if (step <= settings.steps)
      add_row(std::to_string(step), [step](const Run& one) -> const Energy* {
        const auto i = static_cast<std::size_t>(step - 1);
        return i < one.history.size() ? &one.history[i] : nullptr;
      });
  add_row("end", [](const Run& one) { return &one.last; });
  std::cout << progress_table << "\n'end': after the last step, from " << settings.samples
            << " samples of all walkers. The exact energy is -0.5.\nSeconds of processor time:";
  for (const Run& one : runs)
    std::cout << ' ' << one.name << ' ' << examples::fixed(one.seconds, 1);
  std::cout << '\n';
  if (!settings.plot.empty()) examples::draw(settings.plot, panels(runs), 2);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "The ground state of the hydrogen atom by variational Monte Carlo, with K-FAC, Adam "
      "and SGD, each with the best of several learning rates, in equal numbers of steps.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    run(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
