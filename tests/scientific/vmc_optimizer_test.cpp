#include <cmath>
#include <limits>
#include <string>

#include <kfac/curvature/jacobian.hpp>
#include <kfac/curvature/parameter_block.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/scientific/vmc_optimizer.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::vmc_optimizer_test {

namespace {

const auto kEnvelope = [](const auto& x) { return -0.5 * x[0] * x[0]; };
const auto kPotential = [](const auto& x) {
  return 0.5 * x[0] * x[0] + 0.1 * x[0] * x[0] * x[0] * x[0];
};

using Net = DynamicSequential<double>;
using Wave = WaveFunction<Net, NoFeatures, decltype(kEnvelope)>;

/// A particle in an anharmonic well, and a small network for it.
struct Oscillator {
  explicit Oscillator(std::uint64_t seed)
      : rng(seed), model({Linear<double>(1, 4, rng), Tanh<double>{}, Linear<double>(4, 1, rng)}) {}

  Rng rng;
  Net model;
  Wave psi{model, 1, NoFeatures{}, kEnvelope};
};

/// |psi|^2 on a grid, normalised.
Vector<double> density(Wave& psi, const Matrix<double>& x) {
  const Vector<double> density = (2 * psi.log_abs(x)).array().exp();
  return density / density.sum();
}

Matrix<double> grid() {
  return Vector<double>::LinSpaced(4001, -9, 9).transpose();
}

}  // namespace

TEST_CASE("energy_gradient: by quadrature it is half the derivative of the energy") {
  Oscillator oscillator(1);
  auto& [rng, model, psi] = oscillator;
  const Matrix<double> x = grid();
  const auto energy = [&psi = psi, &x] {
    return Vector<double>::Constant(1, density(psi, x).dot(psi.local_energies(x, kPotential)));
  };
  const Vector<double> p = density(psi, x);
  const Vector<double> energies = psi.local_energies(x, kPotential);
  energy_gradient(psi, x, p.cwiseProduct((energies.array() - p.dot(energies)).matrix()));
  const Vector<double> gradient = model.gradient();
  for (Index j = 0; j < gradient.size(); ++j) {
    const double derivative =
        derivative_along(model, Vector<double>::Unit(gradient.size(), j), energy)(0);
    CHECK(2 * gradient(j) == Approx(derivative).margin(1e-8));
  }
}

TEST_CASE("VmcOptimizer: the Fisher is that of log psi, exact for one walker and for one layer") {
  Rng rng(2);
  {
    Oscillator oscillator(3);
    VmcOptimizer optimizer(oscillator.psi);
    const Matrix<double> x = Matrix<double>::Constant(1, 1, 0.8);
    const Matrix<double> j = Jacobian(oscillator.model, x).dense();
    REQUIRE(optimizer.step(x, Vector<double>::Ones(1)).ok());
    Index offset = 0;
    for (const auto& layer : optimizer.preconditioner().layers()) {
      const auto& block = static_cast<const KroneckerBlock<double>&>(*layer->blocks()[0]);
      const Matrix<double> dense =
          linalg::kronecker_product<double>(block.input_factor(), block.output_gradient_factor());
      const Vector<double> own = j.row(0).segment(offset, dense.rows()).transpose();
      CHECK(relative_error(dense, (own * own.transpose()).eval()) < 1e-13);
      offset += dense.rows();
    }
  }
  // Hydrogen-like: log psi is linear in x, y, z, r and a constant.
  Net model({Linear<double>(4, 1, rng)});
  const auto features = [](const auto& x) {
    using std::sqrt;
    return std::vector{x[0], x[1], x[2], sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])};
  };
  WaveFunction psi(model, 3, features);
  VmcOptimizer optimizer(psi,
                         {.learning_rate = 0.1, .damping = 1e-2, .norm_constraint = 0, .clip = 0});
  const Matrix<double> x = test::normal<double>(3, 40, rng);
  const Vector<double> energies = test::normal<double>(40, 1, rng);
  const Matrix<double> j = Jacobian(model, psi.inputs(x)).dense();
  const Vector<double> before = flat_parameters(model);
  REQUIRE(optimizer.step(x, energies).ok());
  const auto& block = static_cast<const KroneckerBlock<double>&>(
      *optimizer.preconditioner().layers()[0]->blocks()[0]);
  const Matrix<double> fisher = j.transpose() * j / 40;
  CHECK(relative_error(
            linalg::kronecker_product<double>(block.input_factor(), block.output_gradient_factor()),
            fisher) < 1e-13);
  // The damping is split over the factors: G is 1, so it is (A + pi root I) (1 + root / pi).
  const double pi = std::sqrt(fisher.trace() / 5);
  const double root = std::sqrt(1e-2);
  const Vector<double> gradient =
      j.transpose() * (energies.array() - energies.mean()).matrix() / 40;
  const Matrix<double> damped =
      (1 + root / pi) * (fisher + pi * root * Matrix<double>::Identity(5, 5));
  const Vector<double> change = flat_parameters(model) - before;
  CHECK(relative_error(change, (-0.1 * damped.llt().solve(gradient)).eval()) < 1e-12);
}

TEST_CASE("VmcOptimizer: the norm constraint bounds the step") {
  const auto change = [](double constraint, double& scale) {
    Oscillator oscillator(4);
    VmcOptimizer optimizer(oscillator.psi, {.learning_rate = 2, .norm_constraint = constraint});
    const Matrix<double> x = test::normal<double>(1, 60, oscillator.rng);
    const Vector<double> energies = test::normal<double>(60, 1, oscillator.rng);
    energy_gradient(oscillator.psi, x, energy_weights(energies));
    const Vector<double> gradient = oscillator.model.gradient();
    const Vector<double> before = flat_parameters(oscillator.model);
    scale = optimizer.step(x, energies).norm_scale;
    const Vector<double> result = flat_parameters(oscillator.model) - before;
    // result = -rate scale v, so its squared length is -rate scale result . g
    const double square = -2 * scale * result.dot(gradient);
    if (constraint > 0) CHECK(square <= constraint * (1 + 1e-12));
    return std::pair{result, square};
  };
  double free = 0, bound = 0, loose = 0;
  const auto [long_step, square] = change(0, free);
  CHECK(free == 1);
  const auto [short_step, constrained] = change(square / 9, bound);
  CHECK(bound == Approx(1.0 / 3).epsilon(1e-12));
  CHECK(constrained == Approx(square / 9).epsilon(1e-12));
  CHECK(relative_error((3 * short_step).eval(), long_step) < 1e-12);
  CHECK(change(square * 2, loose).first == long_step);
}

TEST_CASE("VmcOptimizer: finds the ground state of an anharmonic oscillator") {
  Oscillator oscillator(5);
  auto& [rng, model, psi] = oscillator;
  MetropolisSampler<double> sampler({.walkers = 500, .coordinates = 1, .moves = 3});
  VmcOptimizer optimizer(psi, {.learning_rate = 0.1});
  for (int step = 0; step < 250; ++step) {
    const Matrix<double>& x =
        sampler.sample([&psi = psi](const Matrix<double>& z) { return psi.log_abs(z); });
    REQUIRE(optimizer.step(x, psi.local_energies(x, kPotential)).ok());
  }
  const Matrix<double> x = grid();
  const Vector<double> p = density(psi, x);
  const double energy = p.dot(psi.local_energies(x, kPotential));
  CHECK(energy > 0.559146);  // that of the ground state
  CHECK(energy < 0.5625);
}

TEST_CASE("VmcOptimizer: each option does what it says") {
  const auto after = [](const VmcOptions<double>& options) {
    Oscillator oscillator(6);
    VmcOptimizer optimizer(oscillator.psi, options);
    const Matrix<double> x = test::normal<double>(1, 30, oscillator.rng);
    const Vector<double> energies = x.row(0).array().exp().transpose();
    for (int step = 0; step < 3; ++step) {
      const Matrix<double> moved = x * (1 + step);
      REQUIRE(optimizer.step(moved, energies).ok());
    }
    return flat_parameters(oscillator.model);
  };
  const Vector<double> plain = after({});
  CHECK(after({.learning_rate = schedules::inverse_time(0.05, 1e-4)}) == plain);
  CHECK(after({.learning_rate = 0.06}) != plain);
  CHECK(after({.damping = 1e-2}) != plain);
  CHECK(after({.factor_decay = 0.2}) != plain);
  CHECK(after({.inverse_every = 2}) != plain);
  CHECK(after({.norm_constraint = 1e-5}) != plain);
  CHECK(after({.clip = 1}) != plain);
  CHECK(after({.clip = 0}) == after({.clip = 1e6}));
}

TEST_CASE("VmcOptimizer: a restored run goes on as the other did") {
  Oscillator oscillator(7);
  auto& [rng, model, psi] = oscillator;
  const Matrix<double> x = test::normal<double>(1, 30, rng);
  VmcOptimizer optimizer(psi);
  const auto step = [&psi = psi, &x](auto& stepped) {
    stepped.step(x, psi.local_energies(x, kPotential));
  };
  step(optimizer);
  step(optimizer);
  const SavedState state(optimizer);
  const Vector<double> parameters = flat_parameters(model);
  step(optimizer);
  const Vector<double> expected = flat_parameters(model);
  Oscillator other(8);
  VmcOptimizer resumed(other.psi);
  set_flat_parameters(other.model, parameters);
  state.restore(resumed);
  resumed.step(x, other.psi.local_energies(x, kPotential));
  CHECK(flat_parameters(other.model) == expected);
  CHECK(resumed.steps() == 3);
}

TEST_CASE("VmcOptimizer: bad input is an exception or a status that changes nothing") {
  Oscillator oscillator(9);
  VmcOptimizer optimizer(oscillator.psi);
  const Vector<double> before = flat_parameters(oscillator.model);
  const Matrix<double> x = Matrix<double>::Ones(1, 4);
  CHECK(message_of<ShapeError>([&] { optimizer.step(x, Vector<double>::Ones(3)); }) ==
        "kfac::VmcOptimizer: 'energies' has 3 entries, expected 4");
  CHECK(message_of<ShapeError>([&] {
          optimizer.step(Matrix<double>::Ones(2, 4), Vector<double>::Ones(4));
        }) == "kfac::VmcOptimizer: 'x' has 2 rows, expected 1");
  Vector<double> bad = Vector<double>::Ones(4);
  bad(2) = std::numeric_limits<double>::infinity();
  CHECK(optimizer.step(x, bad).status == StepStatus::NonFiniteLoss);
  CHECK(flat_parameters(oscillator.model) == before);
  CHECK(optimizer.steps() == 0);
  CHECK(optimizer.step(x, Vector<double>::Ones(4)).ok());
  const auto refused = [&](const VmcOptions<double>& options) {
    return message_of<OptionError>([&] { VmcOptimizer wrong(oscillator.psi, options); });
  };
  CHECK(refused({.learning_rate = 0}) ==
        "kfac::VmcOptimizer: 'learning_rate' is 0, expected > 0 and finite");
  CHECK(refused({.damping = 0}) == "kfac::VmcOptimizer: 'damping' is 0, expected > 0 and finite");
  CHECK(refused({.factor_decay = 1}) ==
        "kfac::VmcOptimizer: 'factor_decay' is 1, expected in [0, 1)");
  CHECK(refused({.inverse_every = 0}) == "kfac::VmcOptimizer: 'inverse_every' is 0, expected >= 1");
  CHECK(refused({.norm_constraint = -1}) ==
        "kfac::VmcOptimizer: 'norm_constraint' is -1, expected >= 0 and finite");
  CHECK(refused({.clip = -1}) == "kfac::VmcOptimizer: 'clip' is -1, expected >= 0 and finite");
}

}  // namespace kfac::test::vmc_optimizer_test
