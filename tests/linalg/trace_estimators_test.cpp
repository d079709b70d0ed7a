#include <utility>

#include <kfac/linalg/trace_estimators.hpp>

#include "support/catch.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::trace_estimators_test {

using namespace kfac::linalg;

namespace {

struct Counting {
  using Scalar = double;
  Matrix<double> matrix;
  Index products = 0;
  Index rows() const { return matrix.rows(); }
  Vector<double> operator*(const Vector<double>& v) { return matrix * v; }
  Matrix<double> operator*(const Matrix<double>& columns) {
    products += columns.cols();
    return matrix * columns;
  }
};

Vector<double> random_spectrum(Index size, Rng& rng) {
  return normal<double>(size, 1, rng);
}

Matrix<double> probes_like(Index size, Index count, Probe probe, Rng& rng) {
  Matrix<double> probes(size, count);
  linalg::detail::fill_probes(probes, probe, rng);
  return probes;
}

Matrix<double> orthonormal(const Matrix<double>& columns) {
  const Eigen::HouseholderQR<Matrix<double>> qr(columns);
  return qr.householderQ() * Matrix<double>::Identity(columns.rows(), columns.cols());
}

/// The estimator by its definition: for every probe a basis of the images of all others.
Vector<double> naive_xtrace(const Matrix<double>& c, const Matrix<double>& probes, bool scaled) {
  const Index size = c.rows();
  const Index count = probes.cols();
  const Matrix<double> image = c * probes;
  Vector<double> samples(count);
  for (Index i = 0; i < count; ++i) {
    Matrix<double> others(size, count - 1);
    others << image.leftCols(i), image.rightCols(count - 1 - i);
    const Matrix<double> q = orthonormal(others);
    const Matrix<double> complement = Matrix<double>::Identity(size, size) - q * q.transpose();
    Vector<double> probe = complement * probes.col(i);
    if (scaled) probe *= std::sqrt(static_cast<double>(size - count + 1)) / probe.norm();
    samples(i) = (q.transpose() * c * q).trace() + probe.dot(c * probe);
  }
  return samples;
}

struct Moments {
  double mean = 0;
  double deviation = 0;   ///< of one estimate
  double mean_error = 0;  ///< root mean square of the standard errors
};

template <class Estimate>
Moments moments(Index repeats, Estimate&& estimate) {
  Vector<double> values(repeats), errors(repeats);
  for (Index i = 0; i < repeats; ++i) {
    const ScalarEstimate<double> one = estimate(Rng(static_cast<std::uint64_t>(1000 + i)));
    values(i) = one.value;
    errors(i) = one.standard_error;
  }
  const double count = static_cast<double>(repeats);
  const double deviation = std::sqrt((values.array() - values.mean()).square().sum() / (count - 1));
  return {values.mean(), deviation, errors.norm() / std::sqrt(count)};
}

}  // namespace

TEST_CASE("xtrace equals its leave-one-out definition") {
  Rng rng(1);
  for (const Index size : {5, 12, 31})
    for (const Index count : {1, 2, 5, 9})
      for (const Probe probe : {Probe::Rademacher, Probe::Gaussian}) {
        if (2 * count >= size) continue;
        const Matrix<double> c = with_spectrum(random_spectrum(size, rng), rng);
        Rng first(7), second(7);
        const Matrix<double> probes = probes_like(size, count, probe, first);
        const Vector<double> samples = naive_xtrace(c, probes, probe == Probe::Gaussian);
        const auto estimate = xtrace(c, {.samples = 2 * count, .probe = probe}, second);
        const double scale = c.norm() * std::sqrt(static_cast<double>(size));
        CHECK(std::abs(estimate.value - samples.mean()) < 1e-12 * scale);
        CHECK(estimate.products == 2 * count);
        if (count == 1) {
          CHECK(std::isinf(estimate.standard_error));
        } else {
          const double k = static_cast<double>(count);
          const double error =
              std::sqrt((samples.array() - samples.mean()).square().sum() / (k * (k - 1)));
          CHECK(std::abs(estimate.standard_error - error) < 1e-12 * scale);
        }
      }
}

TEST_CASE("hutchpp_trace and xtrace are exact for operators of low rank") {
  Rng rng(2);
  for (const Index rank : {0, 1, 4})
    for (const double scale : {1.0, 1e-120, 1e120})
      for (const Probe probe : {Probe::Rademacher, Probe::Gaussian}) {
        Vector<double> spectrum = Vector<double>::Zero(40);
        spectrum.head(rank) = scale * random_spectrum(rank, rng);
        const Matrix<double> c = with_spectrum(spectrum, rng);
        const double bound = 1e-12 * c.norm() * 40;
        const auto plus = hutchpp_trace(c, {.samples = 3 * 4, .probe = probe}, rng);
        CHECK(std::abs(plus.value - c.trace()) <= bound);
        CHECK(plus.standard_error <= bound);
        const auto exchangeable = xtrace(c, {.samples = 2 * 5, .probe = probe}, rng);
        CHECK(std::abs(exchangeable.value - c.trace()) <= bound);
        CHECK(exchangeable.standard_error <= bound);
      }
}

TEST_CASE("hutchpp_trace and xtrace are exact with as many samples as the operator has rows") {
  Rng rng(3);
  for (const Index size : {1, 2, 3, 16, 17, 40}) {
    Counting c{with_spectrum(random_spectrum(size, rng), rng)};
    for (const Index samples : {std::max<Index>(3, size), size + 7}) {
      c.products = 0;
      const auto plus = hutchpp_trace(c, {.samples = samples}, rng);
      CHECK(std::abs(plus.value - c.matrix.trace()) < 1e-13 * c.matrix.norm());
      CHECK(plus.standard_error == 0);
      CHECK(plus.products == size);
      CHECK(c.products == size);
      CHECK(xtrace(c, {.samples = samples}, rng).value == plus.value);
    }
  }
}

TEST_CASE("Trace estimators keep to their budget of products") {
  Rng rng(4);
  Counting c{with_spectrum(decaying(60, 10), rng)};
  const auto spent = [&](const auto& estimate) {
    CHECK(estimate.products == c.products);
    return std::exchange(c.products, 0);
  };
  for (const Index samples : {3, 4, 5, 20, 59}) {
    const ProbeOptions options{.samples = samples};
    CHECK(spent(hutchinson_trace(c, options, rng)) == samples);
    CHECK(spent(squared_frobenius_norm(c, options, rng)) == samples);
    CHECK(spent(hutchpp_trace(c, options, rng)) == samples);
    CHECK(spent(xtrace(c, options, rng)) == samples / 2 * 2);
  }
}

TEST_CASE("Rademacher probes give the trace of a diagonal operator exactly") {
  Rng rng(5);
  const Matrix<double> c = random_spectrum(30, rng).asDiagonal();
  const auto estimate = hutchinson_trace(c, {.samples = 2}, rng);
  CHECK(std::abs(estimate.value - c.trace()) < 1e-13 * c.norm());
  CHECK(estimate.standard_error < 1e-13 * c.norm());
}

TEST_CASE("Trace estimators are unbiased and their standard errors are what they say") {
  Rng rng(6);
  const Index repeats = 3000;
  for (const bool indefinite : {false, true}) {
    Vector<double> spectrum = decaying(30, 1e2);
    if (indefinite)
      for (Index i = 0; i < 30; i += 3) spectrum(i) *= -1;
    const Matrix<double> c = with_spectrum(spectrum, rng);
    for (const Probe probe : {Probe::Rademacher, Probe::Gaussian}) {
      const ProbeOptions options{.samples = 12, .probe = probe};
      const double root = std::sqrt(static_cast<double>(repeats));
      const Moments plain =
          moments(repeats, [&](Rng seeded) { return hutchinson_trace(c, options, seeded); });
      const Moments plus =
          moments(repeats, [&](Rng seeded) { return hutchpp_trace(c, options, seeded); });
      const Moments exchangeable =
          moments(repeats, [&](Rng seeded) { return xtrace(c, options, seeded); });
      // Four standard deviations of a mean over the seeds.
      CHECK(std::abs(plain.mean - c.trace()) < 4 * plain.deviation / root);
      CHECK(std::abs(plus.mean - c.trace()) < 4 * plus.deviation / root);
      CHECK(std::abs(exchangeable.mean - c.trace()) < 4 * exchangeable.deviation / root);
      CHECK(plain.mean_error == Approx(plain.deviation).epsilon(0.1));
      CHECK(plus.mean_error == Approx(plus.deviation).epsilon(0.1));
      CHECK(exchangeable.mean_error == Approx(exchangeable.deviation).epsilon(0.5));
      // The variance of v^T C v, in closed form.
      const double diagonal = probe == Probe::Rademacher ? c.diagonal().squaredNorm() : 0;
      CHECK(plain.deviation ==
            Approx(std::sqrt(2 * (c.squaredNorm() - diagonal) / 12)).epsilon(0.08));
    }
  }
}

TEST_CASE("On a decaying spectrum xtrace beats hutchpp_trace, which beats hutchinson_trace") {
  Rng rng(11);
  const Matrix<double> c = with_spectrum(decaying(60, 1e8), rng);
  for (const Probe probe : {Probe::Rademacher, Probe::Gaussian}) {
    const ProbeOptions options{.samples = 30, .probe = probe};
    const double plain =
        moments(200, [&](Rng seeded) { return hutchinson_trace(c, options, seeded); }).deviation;
    const double plus =
        moments(200, [&](Rng seeded) { return hutchpp_trace(c, options, seeded); }).deviation;
    const double exchangeable =
        moments(200, [&](Rng seeded) { return xtrace(c, options, seeded); }).deviation;
    CHECK(plus < plain / 5);
    CHECK(exchangeable < plus / 2);
  }
}

TEST_CASE("squared_frobenius_norm is unbiased") {
  Rng rng(7);
  const Matrix<double> c = with_spectrum(random_spectrum(20, rng), rng);
  for (const Probe probe : {Probe::Rademacher, Probe::Gaussian}) {
    const Moments all = moments(2000, [&](Rng seeded) {
      return squared_frobenius_norm(c, {.samples = 20, .probe = probe}, seeded);
    });
    CHECK(std::abs(all.mean - c.squaredNorm()) < 4 * all.deviation / std::sqrt(2000.0));
    CHECK(all.mean_error == Approx(all.deviation).epsilon(0.1));
  }
}

TEST_CASE("Trace estimators with the same seed give the same bits") {
  Rng rng(8);
  const Matrix<double> c = with_spectrum(decaying(50, 10), rng);
  const auto twice = [&](auto&& estimate) {
    Rng first(3), second(3);
    return estimate(first).value == estimate(second).value;
  };
  CHECK(twice([&](Rng& seeded) { return hutchinson_trace(c, {}, seeded); }));
  CHECK(twice([&](Rng& seeded) { return hutchpp_trace(c, {}, seeded); }));
  CHECK(twice([&](Rng& seeded) { return xtrace(c, {}, seeded); }));
}

TEST_CASE("Trace estimators work in float") {
  Rng rng(9);
  const Matrix<double> exact = with_spectrum(decaying(40, 1e8), rng);
  const Matrix<float> c = exact.cast<float>();
  CHECK(xtrace(c, {.samples = 30}, rng).value == Approx(exact.trace()).epsilon(1e-3));
  CHECK(hutchpp_trace(c, {.samples = 39}, rng).value == Approx(exact.trace()).epsilon(1e-2));
}

TEST_CASE("Trace estimators name the option that is wrong") {
  Rng rng(10);
  const Matrix<double> c = Matrix<double>::Identity(9, 9);
  CHECK_THROWS_WITH(hutchinson_trace(c, {.samples = 0}, rng),
                    "kfac::linalg::hutchinson_trace: 'samples' is 0, expected >= 1");
  CHECK_THROWS_WITH(squared_frobenius_norm(c, {.samples = 0}, rng),
                    "kfac::linalg::squared_frobenius_norm: 'samples' is 0, expected >= 1");
  CHECK_THROWS_WITH(hutchpp_trace(c, {.samples = 2}, rng),
                    "kfac::linalg::hutchpp_trace: 'samples' is 2, expected >= 3");
  CHECK_THROWS_WITH(xtrace(c, {.samples = 1}, rng),
                    "kfac::linalg::xtrace: 'samples' is 1, expected >= 2");
}

}  // namespace kfac::test::trace_estimators_test
