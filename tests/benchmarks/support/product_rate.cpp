#include "support/product_rate.hpp"

#include <algorithm>
#include <cstddef>
#include <map>

#include <kfac/linalg/matrix_product.hpp>

#include "support/eigen_product_rate.hpp"
#include "support/product_rate_of.hpp"

namespace benchmarks {

double ProductRate::best() const {
  return std::max({eigen, blas, kfac});
}

template <kfac::RealScalar S>
ProductRate measure_product_rate(kfac::Index threads) {
  const auto count = static_cast<std::size_t>(threads);
  ProductRate rate;
  rate.eigen = eigen_product_rate<S>(count);
  using Matrix = kfac::Matrix<S>;
#ifdef EIGEN_USE_BLAS
  rate.blas = product_rate_of<Matrix>(
      count, [](const Matrix& a, const Matrix& b, Matrix& c) { c.noalias() = a * b; });
#else
  rate.kfac = product_rate_of<Matrix>(
      count, [](const Matrix& a, const Matrix& b, Matrix& c) { kfac::linalg::multiply(a, b, c); });
#endif
  return rate;
}
template ProductRate measure_product_rate<float>(kfac::Index);
template ProductRate measure_product_rate<double>(kfac::Index);

template <kfac::RealScalar S>
const ProductRate& product_rate(kfac::Index threads) {
  static std::map<kfac::Index, ProductRate> rates;
  const auto found = rates.find(threads);
  if (found != rates.end()) return found->second;
  return rates[threads] = measure_product_rate<S>(threads);
}
template const ProductRate& product_rate<float>(kfac::Index);
template const ProductRate& product_rate<double>(kfac::Index);

const char* blas_text(const ProductRate& rate) {
  if (rate.blas == 0) return "none, Eigen's own kernel";
  if (rate.blas_is_slow())
    return "linked, but far slower than Eigen's own kernel: it takes this processor for an older "
           "one; build without it";
  return "linked";
}

}  // namespace benchmarks
