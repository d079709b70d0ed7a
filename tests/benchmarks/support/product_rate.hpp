#pragma once

#include <kfac/core/types.hpp>

namespace benchmarks {

/// Floating-point operations a second, an addition or multiplication each, of products of square
/// matrices: what everything else is compared with. The best of several sizes and repetitions.
struct ProductRate {
  double eigen = 0;  ///< by Eigen's own kernel
  double blas = 0;   ///< by the BLAS that the build gave Eigen; 0: none
  double kfac = 0;   ///< by kfac::linalg::multiply; 0: that is the BLAS's

  double best() const;
  /// A BLAS that is much slower than Eigen's kernel takes the processor for an older one.
  bool blas_is_slow() const { return blas > 0 && blas < 0.6 * eigen; }
};

/// Of `threads` threads with a product each, all at once. Takes about half a second a kernel.
template <kfac::RealScalar S>
ProductRate measure_product_rate(kfac::Index threads);

/// `measure_product_rate`, once for each number of threads in a run of the program.
template <kfac::RealScalar S>
const ProductRate& product_rate(kfac::Index threads);

/// For every report: whether a BLAS is linked, and a warning if it is slow.
const char* blas_text(const ProductRate& rate);

}  // namespace benchmarks
