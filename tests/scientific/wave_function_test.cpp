#include <cmath>
#include <string>
#include <vector>

#include <kfac/scientific/local_energy.hpp>
#include <kfac/scientific/wave_function.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::wave_function_test {

namespace {

struct Radius {
  template <class X>
  auto operator()(const X& x) const {
    using std::sqrt;
    return sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
  }
};
struct Central {
  template <class X>
  auto operator()(const X& x) const {
    return std::vector{x[0], x[1], x[2], Radius{}(x)};
  }
};

/// A network that is 0 everywhere.
auto zero_network(Index inputs, Rng& rng) {
  Sequential model{Linear<double>(inputs, 3, rng), Tanh<double>{}, Linear<double>(3, 1, rng)};
  model.layers()[2].parameters.setZero();
  return model;
}

}  // namespace

TEST_CASE("WaveFunction: the local energy of the hydrogen atom's ground state is -1/2 everywhere") {
  Rng rng(1);
  auto model = zero_network(4, rng);
  WaveFunction psi(model, 3, Central{}, [](const auto& x) { return -Radius{}(x); });
  const Matrix<double> x = test::normal<double>(3, 200, rng);
  const auto potential = [](const auto& r) { return -1 / Radius{}(r); };
  const Vector<double> energies = psi.local_energies(x, potential);
  CHECK((energies.array() + 0.5).abs().maxCoeff() < 1e-12);
  CHECK(energy_statistics(energies).variance < 1e-24);
  CHECK((psi.log_abs(x) + x.colwise().norm().transpose()).norm() < 1e-13);

  // Of another width it is not constant: E_L = -a^2/2 + (a - 1)/r for exp(-a r).
  WaveFunction other(model, 3, Central{}, [](const auto& r) { return -0.7 * Radius{}(r); });
  const Vector<double> expected = -0.245 - 0.3 / x.colwise().norm().transpose().array();
  CHECK((other.local_energies(x, potential) - expected).norm() < 1e-11 * expected.norm());
}

TEST_CASE("WaveFunction: the harmonic oscillator's ground state has no variance in any dimension") {
  Rng rng(2);
  for (const Index dimension : {1, 2, 4}) {
    auto model = zero_network(dimension, rng);
    const auto square = [](const auto& x) {
      auto sum = x[0] * x[0];
      for (std::size_t i = 1; i < x.size(); ++i) sum += x[i] * x[i];
      return sum;
    };
    WaveFunction psi(model, dimension, NoFeatures{},
                     [=](const auto& x) { return -0.5 * square(x); });
    const Matrix<double> x = test::normal<double>(dimension, 50, rng);
    const Vector<double> energies =
        psi.local_energies(x, [=](const auto& r) { return 0.5 * square(r); });
    CHECK((energies.array() - 0.5 * static_cast<double>(dimension)).abs().maxCoeff() < 1e-13);
  }
}

TEST_CASE("WaveFunction: the jets of log psi are those of its values") {
  Rng rng(3);
  Sequential model{Linear<double>(4, 6, rng), Tanh<double>{}, Linear<double>(6, 1, rng)};
  WaveFunction psi(model, 3, Central{}, [](const auto& x) { return -0.5 * Radius{}(x); });
  const Matrix<double> x = test::normal<double>(3, 5, rng);
  const Matrix<double> jets = psi.log_jets(x);
  REQUIRE(jets.rows() == 5);
  CHECK((jets.row(0).transpose() - psi.log_abs(x)).norm() < 1e-14);
  constexpr double kStep = 1e-3;
  Vector<double> laplacian = Vector<double>::Zero(5);
  for (Index i = 0; i < 3; ++i) {
    const auto at = [&](double step) {
      return psi.log_abs((x.colwise() + step * Vector<double>::Unit(3, i)).eval());
    };
    const Vector<double> slope =
        (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
    CHECK((jets.row(1 + i).transpose() - slope).norm() < 1e-9);
    laplacian += (16 * (at(kStep) + at(-kStep)) - (at(2 * kStep) + at(-2 * kStep)) - 30 * at(0)) /
                 (12 * kStep * kStep);
  }
  CHECK((jets.row(4).transpose() - laplacian).norm() < 1e-6 * laplacian.norm());

  WaveFunction plain(model, 4);
  const Matrix<double> y = test::normal<double>(4, 2, rng);
  CHECK((plain.log_abs(y).transpose() - model.forward(y)).norm() < 1e-15);
}

TEST_CASE("WaveFunction: what it refuses, by name") {
  Rng rng(4);
  auto model = zero_network(4, rng);
  WaveFunction psi(model, 3, Central{});
  CHECK(message_of<ShapeError>([&] { psi.log_abs(Matrix<double>::Ones(2, 4)); }) ==
        "kfac::WaveFunction::log_abs: 'x' has 2 rows, expected 3");
  CHECK(message_of<ShapeError>([&] { psi.log_jets(Matrix<double>::Ones(3, 0)); }) ==
        "kfac::WaveFunction::log_jets: 'x' has 0 walkers, expected at least 1");
  Sequential two{Linear<double>(3, 2, rng)};
  WaveFunction wide(two, 3);
  CHECK(message_of<ShapeError>([&] { wide.log_abs(Matrix<double>::Ones(3, 2)); }) ==
        "kfac::WaveFunction: 'model' has 2 outputs, expected 1");
}

TEST_CASE("Local energies: statistics and weights") {
  const Vector<double> energies{{1.0, 2.0, 3.0, 6.0}};
  const EnergyStatistics<double> statistics = energy_statistics(energies);
  CHECK(statistics.mean == 3);
  CHECK(statistics.variance == 3.5);
  CHECK(statistics.standard_error == Approx(std::sqrt(3.5 / 4)));
  CHECK(energy_weights(energies, 0.0) == Vector<double>{{-0.5, -0.25, 0.0, 0.75}});
  CHECK(energy_weights(energies) == energy_weights(energies, 0.0));
  // The mean absolute deviation is 1.5: clipped to 1.5, 2, 3 and 4.5, of mean 2.75.
  CHECK(energy_weights(energies, 1.0) ==
        Vector<double>{{-1.25 / 4, -0.75 / 4, 0.25 / 4, 1.75 / 4}});
  CHECK(message_of<ShapeError>([] { energy_weights(Vector<double>()); }) ==
        "kfac::energy_weights: 'energies' is empty, expected at least one");
  CHECK(message_of<ShapeError>([] { energy_statistics(Vector<double>()); }) ==
        "kfac::energy_statistics: 'energies' is empty, expected at least one");
  CHECK(message_of<OptionError>([&] { energy_weights(energies, -1.0); }) ==
        "kfac::energy_weights: 'clip' is -1, expected >= 0 and finite");
}

}  // namespace kfac::test::wave_function_test
