#include <limits>

#include <kfac/linalg/spectral_density.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::spectral_density_test {

using namespace kfac::linalg;

namespace {

double integral(const SpectralDensity& density) {
  return density.values.sum() * (density.grid(1) - density.grid(0));
}

}  // namespace

TEST_CASE("spectral_measure has the moments of its probes up to degree 2 steps - 1") {
  Rng rng(1);
  const Matrix<double> c = with_spectrum(normal<double>(25, 1, rng), rng);
  Rng first(5), second(5);
  const auto measure = spectral_measure(c, {.probes = 3, .steps = 4}, first);
  Matrix<double> probes(25, 3);
  for (Index i = 0; i < 3; ++i) {
    Matrix<double> probe(25, 1);
    linalg::detail::fill_probes(probe, Probe::Gaussian, second);
    probes.col(i) = probe.normalized();
  }
  Matrix<double> power = probes;
  for (int degree = 0; degree <= 7; ++degree) {
    const double expected = probes.cwiseProduct(power).sum() / 3;
    const double moment = measure.trace([&](double x) { return std::pow(x, degree); }) / 25;
    CHECK(moment == Approx(expected).epsilon(1e-11).margin(1e-12));
    power = (c * power).eval();
  }
  CHECK(measure.weights.sum() == Approx(1));
}

TEST_CASE("spectral_measure estimates traces of functions without bias") {
  Rng rng(2);
  const Vector<double> spectrum = decaying(30, 100);
  const Matrix<double> c = with_spectrum(spectrum, rng);
  for (const Probe probe : {Probe::Gaussian, Probe::Rademacher}) {
    const Index repeats = 400;
    Vector<double> logdets(repeats);
    for (Index i = 0; i < repeats; ++i)
      logdets(i) =
          spectral_measure(c, {.probes = 1, .steps = 30, .probe = probe}, rng).trace([](double x) {
            return std::log(x);
          });
    const double count = static_cast<double>(repeats);
    const double deviation =
        std::sqrt((logdets.array() - logdets.mean()).square().sum() / (count - 1));
    CHECK(std::abs(logdets.mean() - spectrum.array().log().sum()) <
          4 * deviation / std::sqrt(count));
  }
}

TEST_CASE("spectral_density is the broadened spectrum, whichever the probes") {
  Rng rng(3);
  Vector<double> spectrum = Vector<double>::Zero(200);
  spectrum.head(40).setConstant(2);
  spectrum.segment(40, 10).setConstant(-1);
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const auto measure = spectral_measure(c, {.probes = 200, .steps = 10}, rng);
  const DensityOptions options{.points = 2001, .width = 0.02, .margin = 0.2};
  const auto density = spectral_density(measure, options);
  CHECK(density.grid(0) == Approx(-1.6));
  CHECK(density.grid(2000) == Approx(2.6));
  CHECK(integral(density) == Approx(1).epsilon(1e-6));
  const double sigma = 0.02 * 3;
  const auto bump = [&](double at) -> Vector<double> {
    return (-0.5 * ((density.grid.array() - at) / sigma).square()).exp() /
           (sigma * std::sqrt(2 * std::numbers::pi));
  };
  const Vector<double> expected = 0.2 * bump(2) + 0.05 * bump(-1) + 0.75 * bump(0);
  CHECK((density.values - expected).norm() < 0.02 * expected.norm());
  CHECK(measure.trace([](double x) { return x > 1 ? 1.0 : 0.0; }) == Approx(40).epsilon(0.05));
}

TEST_CASE("log_spectral_density shows orders of magnitude") {
  const SpectralMeasure measure{Vector<double>{{1e-9, 1e-3, -1e2}}, Vector<double>{{0.5, 0.3, 0.2}},
                                10};
  const auto density = log_spectral_density(measure, 1e-5, {.points = 3001, .width = 0.005});
  CHECK(density.grid(0) == Approx(-5 - 0.05 * 7).epsilon(1e-3));
  CHECK(integral(density) == Approx(1).epsilon(1e-6));
  Index peak = 0;
  density.values.maxCoeff(&peak);
  CHECK(density.grid(peak) == Approx(-5).epsilon(1e-2));
}

TEST_CASE("Spectral densities have a grid even for a multiple of the identity and for zero") {
  Rng rng(4);
  for (const double value : {0.0, 3.0, -1e-30}) {
    const Matrix<double> c = value * Matrix<double>::Identity(6, 6);
    const auto measure = spectral_measure(c, {.probes = 2, .steps = 5}, rng);
    for (Index i = 0; i < measure.nodes.size(); ++i)
      CHECK(measure.nodes(i) == Approx(value).epsilon(1e-14));
    const auto density = spectral_density(measure, {.points = 4001});
    CHECK(density.values.allFinite());
    CHECK(integral(density) == Approx(1).epsilon(1e-5));
    CHECK(integral(log_spectral_density(measure)) == Approx(1).epsilon(1e-5));
  }
}

TEST_CASE("Spectral functions name the option that is wrong") {
  Rng rng(5);
  Matrix<double> c = Matrix<double>::Identity(4, 4);
  CHECK_THROWS_WITH(spectral_measure(c, {.probes = 0}, rng),
                    "kfac::linalg::spectral_measure: 'probes' is 0, expected >= 1");
  CHECK_THROWS_WITH(spectral_measure(c, {.steps = 0}, rng),
                    "kfac::linalg::spectral_measure: 'steps' is 0, expected >= 1");
  const auto measure = spectral_measure(c, {}, rng);
  CHECK_THROWS_WITH(spectral_density(measure, {.points = 1}),
                    "kfac::linalg::spectral_density: 'points' is 1, expected >= 2");
  CHECK_THROWS_WITH(spectral_density(measure, {.width = 0}),
                    "kfac::linalg::spectral_density: 'width' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(spectral_density(measure, {.margin = -1}),
                    "kfac::linalg::spectral_density: 'margin' is -1, expected >= 0 and finite");
  CHECK_THROWS_WITH(log_spectral_density(measure, 0),
                    "kfac::linalg::log_spectral_density: 'offset' is 0, expected > 0 and finite");
  CHECK_THROWS_AS(spectral_density(SpectralMeasure{}), ShapeError);
  c(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(spectral_measure(c, {}, rng), ValueError);
}

}  // namespace kfac::test::spectral_density_test
