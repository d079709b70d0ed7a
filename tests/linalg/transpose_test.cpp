#include <kfac/core/random.hpp>
#include <kfac/linalg/transpose.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::transpose_test {

TEMPLATE_TEST_CASE("Transpose writes a transposed block, shifted, and nothing beside it",
                   "[linalg][exact]", float, double) {
  using S = TestType;
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Index rows = 1 + rng.below(50), columns = 1 + rng.below(50);
    // Eigen's are by columns: the transpose of what is written.
    const Matrix<S> from = normal<S>(columns + rng.below(5), rows, rng);
    const Vector<S> shifts = normal<S>(columns, 1, rng);
    Matrix<S> actual = normal<S>(rows + rng.below(5), columns, rng);
    Matrix<S> expected = actual;
    expected.topRows(rows) = from.topRows(columns).transpose().rowwise() + shifts.transpose();
    linalg::detail::Transpose<S>::run(
        from.data(), from.outerStride(), rows, columns, [&](Index i) { return shifts[i]; },
        actual.data(), actual.outerStride());
    REQUIRE(actual == expected);
  }
}

}  // namespace kfac::test::transpose_test
