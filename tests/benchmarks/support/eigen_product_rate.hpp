#pragma once

#include <cstddef>

namespace benchmarks {

/// `ProductRate::eigen`, for float and double.
template <class S>
double eigen_product_rate(std::size_t threads);

}  // namespace benchmarks
