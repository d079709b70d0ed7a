#include <limits>

#include <kfac/linalg/extremal_eigenpairs.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::extremal_eigenpairs_test {

using namespace kfac::linalg;

namespace {

/// Everything that a result claims, against the spectrum the operator was made with.
void check_pairs(const Matrix<double>& c, const Vector<double>& spectrum,
                 const EigenpairOptions<double>& options, const Eigenpairs<double>& result) {
  Vector<double> sorted = spectrum;
  std::sort(sorted.begin(), sorted.end());
  if (options.end == SpectrumEnd::Largest) sorted.reverseInPlace();
  const double largest = spectrum.cwiseAbs().maxCoeff();
  const Index count = options.count;
  CHECK(result.converged);
  REQUIRE(result.values.size() == count);
  CHECK((result.values - sorted.head(count)).norm() <= 10 * options.tolerance * largest);
  CHECK((result.vectors.transpose() * result.vectors - Matrix<double>::Identity(count, count))
            .norm() < 1e-12);
  const Matrix<double> residual = c * result.vectors - result.vectors * result.values.asDiagonal();
  CHECK((residual.colwise().norm().transpose() - result.residuals).norm() <= 1e-12 * largest);
  CHECK(result.residuals.maxCoeff() <= 1.001 * options.tolerance * largest);
}

}  // namespace

TEST_CASE("extremal_eigenpairs finds both ends of the spectrum") {
  Rng rng(1);
  for (const Index size : {1, 2, 7, 60, 150})
    for (const Index count : {1, 2, 5})
      for (const SpectrumEnd end : {SpectrumEnd::Largest, SpectrumEnd::Smallest})
        for (const double scale : {1.0, 1e-100, 1e100}) {
          if (count > size) continue;
          const Vector<double> spectrum = scale * normal<double>(size, 1, rng);
          const Matrix<double> c = with_spectrum(spectrum, rng);
          const EigenpairOptions<double> options{.count = count, .end = end, .tolerance = 1e-10};
          check_pairs(c, spectrum, options, extremal_eigenpairs(c, options, rng));
        }
}

TEST_CASE("extremal_eigenpairs finds an eigenvalue as often as it occurs") {
  Rng rng(2);
  Vector<double> spectrum = decaying(80, 100);
  spectrum.head(3).setConstant(2);
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const EigenpairOptions<double> options{.count = 5, .tolerance = 1e-10};
  check_pairs(c, spectrum, options, extremal_eigenpairs(c, options, rng));
  const Matrix<double> identity = Matrix<double>::Identity(30, 30);
  check_pairs(identity, Vector<double>::Ones(30), options,
              extremal_eigenpairs(identity, options, rng));
  const Matrix<double> zero = Matrix<double>::Zero(30, 30);
  check_pairs(zero, Vector<double>::Zero(30), options, extremal_eigenpairs(zero, options, rng));
}

TEST_CASE("extremal_eigenpairs converges through restarts") {
  Rng rng(3);
  const Vector<double> spectrum = Vector<double>::LinSpaced(200, 0.0, 1.0);
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const EigenpairOptions<double> options{.count = 3, .tolerance = 1e-8, .basis = 12};
  const auto result = extremal_eigenpairs(c, options, rng);
  CHECK(result.products > 50);
  check_pairs(c, spectrum, options, result);
}

TEST_CASE("extremal_eigenpairs gives all pairs of a small operator") {
  Rng rng(4);
  const Vector<double> spectrum = normal<double>(12, 1, rng);
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const EigenpairOptions<double> options{.count = 12, .tolerance = 1e-12};
  const auto result = extremal_eigenpairs(c, options, rng);
  CHECK(result.products == 12);
  check_pairs(c, spectrum, options, result);
}

TEST_CASE("extremal_eigenpairs says when its budget was too small") {
  Rng rng(5);
  const Matrix<double> c = with_spectrum(Vector<double>::LinSpaced(100, 0.0, 1.0), rng);
  const auto result =
      extremal_eigenpairs(c, {.count = 2, .tolerance = 1e-10, .max_products = 9}, rng);
  CHECK(!result.converged);
  CHECK(result.products == 9);
  CHECK(result.values.size() == 2);
  CHECK(result.residuals.maxCoeff() > 1e-10);
}

TEST_CASE("extremal_eigenpairs works in float") {
  Rng rng(6);
  const Vector<double> spectrum = decaying(60, 1e3);
  const Matrix<float> c = with_spectrum(spectrum, rng).cast<float>();
  const auto result = extremal_eigenpairs(c, {.count = 4}, rng);
  CHECK(result.converged);
  CHECK((result.values.cast<double>() - spectrum.head(4)).norm() < 1e-5);
}

TEST_CASE("extremal_eigenpairs names the option that is wrong") {
  Rng rng(7);
  Matrix<double> c = Matrix<double>::Identity(9, 9);
  const auto message = [&](const EigenpairOptions<double>& options) -> std::string {
    try {
      static_cast<void>(extremal_eigenpairs(c, options, rng));
    } catch (const OptionError& error) {
      return error.what();
    }
    return "nothing";
  };
  const std::string where = "kfac::linalg::extremal_eigenpairs: ";
  CHECK(message({.count = 0}) ==
        where + "'count' is 0, expected >= 1 and at most the operator's size");
  CHECK(message({.count = 10}) ==
        where + "'count' is 10, expected >= 1 and at most the operator's size");
  CHECK(message({.tolerance = 0}) == where + "'tolerance' is 0, expected > 0 and finite");
  CHECK(message({.count = 3, .max_products = 2}) ==
        where + "'max_products' is 2, expected >= count");
  CHECK(message({.count = 3, .basis = 5}) == where + "'basis' is 5, expected 0 or >= 2 count");
  c(0, 0) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(extremal_eigenpairs(c, {}, rng), ValueError);
}

}  // namespace kfac::test::extremal_eigenpairs_test
