// Eigen's own kernel, also in a build whose Eigen calls a BLAS: under another name, so that what
// the linker sees is not mixed up with the Eigen of the rest of the program.
#undef EIGEN_USE_BLAS
#undef EIGEN_USE_LAPACKE
#undef EIGEN_USE_MKL_ALL
#define Eigen EigenWithoutBlas

#include "support/eigen_product_rate.hpp"

#include <Eigen/Core>

#include "support/product_rate_of.hpp"

namespace benchmarks {

template <class S>
double eigen_product_rate(std::size_t threads) {
  using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
  return product_rate_of<Matrix>(
      threads, [](const Matrix& a, const Matrix& b, Matrix& c) { c.noalias() = a * b; });
}
template double eigen_product_rate<float>(std::size_t);
template double eigen_product_rate<double>(std::size_t);

}  // namespace benchmarks
