#include <limits>

#include <kfac/linalg/lanczos.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::lanczos_test {

using namespace kfac::linalg;

namespace {

double orthogonality_error(const Matrix<double>& basis) {
  return (basis.transpose() * basis - Matrix<double>::Identity(basis.cols(), basis.cols())).norm();
}

}  // namespace

TEST_CASE("lanczos gives an orthonormal basis in which the operator is tridiagonal") {
  Rng rng(1);
  for (const Index size : {1, 2, 20, 80})
    for (const Index steps : {1, 2, 15, 100})
      for (const double scale : {1.0, 1e-100, 1e100}) {
        // Ritz values converge early here, which ruins plain Lanczos.
        const Matrix<double> c = scale * with_spectrum(decaying(size, 1e6), rng);
        const auto result = lanczos(c, normal<double>(size, 1, rng), steps);
        CHECK(result.steps() == std::min(size, steps));
        CHECK(orthogonality_error(result.basis) < 1e-13 * static_cast<double>(size));
        Matrix<double> rest = c * result.basis - result.basis * result.projected();
        CHECK(rest.rightCols(1).norm() == Approx(result.residual).margin(1e-13 * scale));
        CHECK((result.basis.transpose() * rest).norm() < 1e-13 * c.norm());
        rest.rightCols(1).setZero();
        CHECK(rest.norm() < 1e-13 * c.norm());
      }
}

TEST_CASE("lanczos starts in the direction it is given and stops in an invariant space") {
  Rng rng(2);
  Vector<double> spectrum = Vector<double>::Zero(30);
  spectrum.head(3) << 3, 3, -1;
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const Vector<double> start = 1e-200 * normal<double>(30, 1, rng);
  const auto result = lanczos(c, start, 20);
  CHECK(result.steps() == 3);  // the distinct eigenvalues 3, -1 and 0
  CHECK(result.residual == 0);
  CHECK((result.basis.col(0) - start.stableNormalized()).norm() < 1e-14);
  CHECK(lanczos(Matrix<double>(Matrix<double>::Zero(5, 5)), Vector<double>::Ones(5), 4).steps() ==
        1);
}

TEST_CASE("lanczos names the argument that is wrong") {
  const Matrix<double> c = Matrix<double>::Identity(4, 4);
  const Vector<double> start = Vector<double>::Ones(4);
  CHECK_THROWS_WITH(lanczos(c, start, 0), "kfac::linalg::lanczos: 'steps' is 0, expected >= 1");
  CHECK_THROWS_WITH(lanczos(c, Vector<double>::Ones(3), 2),
                    "kfac::linalg::lanczos: 'start' has 3 entries, expected 4");
  CHECK_THROWS_WITH(lanczos(c, Vector<double>::Zero(4), 2),
                    "kfac::linalg::lanczos: 'start' is 0, expected a vector that is not");
  Vector<double> bad = start;
  bad(2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(lanczos(c, bad, 2), ValueError);
}

}  // namespace kfac::test::lanczos_test
