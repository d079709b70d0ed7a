#pragma once

#include <kfac/linalg/strided.hpp>

namespace kfac::linalg::detail {

/// Where a product goes: data(i, j) at data[i + j stride].
template <RealScalar S>
struct ProductResult {
  S* data;
  Index rows, columns;
  Index stride;
  Triangle triangle;  ///< what is written
};

/// A rectangle of the result.
struct ProductPart {
  Index first_row, rows, first_column, columns;
};

}  // namespace kfac::linalg::detail
