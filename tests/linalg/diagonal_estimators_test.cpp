#include <kfac/linalg/diagonal_estimators.hpp>

#include "support/catch.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::diagonal_estimators_test {

using namespace kfac::linalg;

namespace {

/// The estimator by its definition: for every probe a basis of the images of all others.
Vector<double> naive_xdiag(const Matrix<double>& c, const Matrix<double>& probes) {
  const Index size = c.rows();
  const Index count = probes.cols();
  const Matrix<double> image = c * probes;
  Vector<double> sum = Vector<double>::Zero(size);
  for (Index i = 0; i < count; ++i) {
    Matrix<double> others(size, count - 1);
    others << image.leftCols(i), image.rightCols(count - 1 - i);
    const Eigen::HouseholderQR<Matrix<double>> qr(others);
    const Matrix<double> q = qr.householderQ() * Matrix<double>::Identity(size, count - 1);
    const Matrix<double> captured = q * q.transpose() * c;
    const Vector<double> rest = (c - captured) * probes.col(i);
    sum += captured.diagonal() +
           probes.col(i).cwiseProduct(rest).cwiseQuotient(probes.col(i).cwiseAbs2());
  }
  return sum / static_cast<double>(count);
}

double error(const Vector<double>& actual, const Matrix<double>& c) {
  return (actual - c.diagonal()).norm() / c.norm();
}

}  // namespace

TEST_CASE("xdiag equals its leave-one-out definition") {
  Rng rng(1);
  for (const Index size : {5, 12, 31})
    for (const Index count : {1, 2, 5, 9}) {
      if (2 * count >= size) continue;
      const Matrix<double> c = with_spectrum(normal<double>(size, 1, rng), rng);
      Rng first(7), second(7);
      Matrix<double> probes(size, count);
      linalg::detail::fill_probes(probes, Probe::Rademacher, first);
      const Vector<double> expected = naive_xdiag(c, probes);
      CHECK((xdiag(c, 2 * count, second) - expected).norm() < 1e-12 * c.norm());
    }
}

TEST_CASE("xdiag is exact for low rank and with as many samples as rows") {
  Rng rng(2);
  for (const Index rank : {0, 1, 4}) {
    Vector<double> spectrum = Vector<double>::Zero(40);
    spectrum.head(rank) = normal<double>(rank, 1, rng);
    const Matrix<double> c = with_spectrum(spectrum, rng);
    CHECK((xdiag(c, 10, rng) - c.diagonal()).norm() <= 1e-12 * c.norm());
  }
  for (const Index size : {1, 2, 16, 37}) {
    const Matrix<double> c = with_spectrum(normal<double>(size, 1, rng), rng);
    CHECK(error(xdiag(c, std::max<Index>(2, size), rng), c) < 1e-14);
  }
}

TEST_CASE("hutchinson_diagonal gives a diagonal operator exactly, with either kind of probe") {
  Rng rng(3);
  const Matrix<double> c = normal<double>(30, 1, rng).asDiagonal();
  for (const Probe probe : {Probe::Rademacher, Probe::Gaussian})
    CHECK(error(hutchinson_diagonal(c, {.samples = 1, .probe = probe}, rng), c) < 1e-14);
}

TEST_CASE("Diagonal estimators are unbiased, and xdiag is the better on a decaying spectrum") {
  Rng rng(4);
  const Index repeats = 4000;
  const Matrix<double> c = with_spectrum(decaying(24, 1e6), rng);
  const auto study = [&](auto&& estimate) {
    Matrix<double> all(24, repeats);
    for (Index i = 0; i < repeats; ++i) {
      Rng seeded(static_cast<std::uint64_t>(i));
      all.col(i) = estimate(seeded);
    }
    const Vector<double> mean = all.rowwise().mean();
    const Vector<double> deviation =
        ((all.colwise() - mean).rowwise().squaredNorm() / static_cast<double>(repeats - 1))
            .cwiseSqrt();
    // Of 24 entries, none is off by more than 4.5 standard deviations of the mean.
    const Vector<double> off = (mean - c.diagonal()).cwiseQuotient(deviation);
    CHECK(off.cwiseAbs().maxCoeff() < 4.5 / std::sqrt(static_cast<double>(repeats)));
    return deviation;
  };
  const Vector<double> rademacher =
      study([&](Rng& seeded) { return hutchinson_diagonal(c, {.samples = 12}, seeded); });
  study([&](Rng& seeded) {
    return hutchinson_diagonal(c, {.samples = 12, .probe = Probe::Gaussian}, seeded);
  });
  const Vector<double> exchangeable = study([&](Rng& seeded) { return xdiag(c, 12, seeded); });
  CHECK(exchangeable.norm() < rademacher.norm() / 2);
  // The variance with Rademacher probes, in closed form.
  const Vector<double> variance = (c.rowwise().squaredNorm() - c.diagonal().cwiseAbs2()) / 12;
  CHECK(rademacher.squaredNorm() == Approx(variance.sum()).epsilon(0.05));
}

TEST_CASE("Diagonal estimators name the option that is wrong") {
  Rng rng(5);
  const Matrix<double> c = Matrix<double>::Identity(9, 9);
  CHECK_THROWS_WITH(hutchinson_diagonal(c, {.samples = 0}, rng),
                    "kfac::linalg::hutchinson_diagonal: 'samples' is 0, expected >= 1");
  CHECK_THROWS_WITH(xdiag(c, 1, rng), "kfac::linalg::xdiag: 'samples' is 1, expected >= 2");
}

}  // namespace kfac::test::diagonal_estimators_test
