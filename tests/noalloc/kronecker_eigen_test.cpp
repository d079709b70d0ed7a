// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <kfac/linalg/kronecker_eigen.hpp>

#include "support/eigensolver.hpp"
#include "support/random.hpp"

using namespace kfac;
using kfac::linalg::MatrixFunction;

namespace {

Matrix<float> random_factor(Index size, Rng& rng) {
  const Matrix<float> x = test::normal<float>(size, size + 2, rng);
  return x * x.transpose();
}

}  // namespace

TEST_CASE("A warm KroneckerEigen allocates nothing") {
  Rng rng(1);
  const Index inputs = 33;
  const Index outputs = 20;
  const Matrix<float> a = random_factor(inputs, rng);
  const Matrix<float> g = random_factor(outputs, rng);
  linalg::KroneckerEigen<float> eigen;
  REQUIRE(eigen.compute(a, g));
  Matrix<float> v = test::normal<float>(outputs, inputs, rng);
  Buffer<float> scratch;
  const auto step = [&] {
    for (const MatrixFunction f :
         {MatrixFunction::Identity, MatrixFunction::Inverse, MatrixFunction::Sqrt,
          MatrixFunction::InverseSqrt, MatrixFunction::Log})
      eigen.apply(f, 0.1f, v, scratch);
    eigen.to_basis(v, scratch);
    eigen.set_grid(eigen.grid());
    eigen.from_basis(v, scratch);
  };
  step();
  const test::Allocations found = test::allocations_in(step);
  CHECK(found.news == 0);
  CHECK(found.mallocs == 0);
}
