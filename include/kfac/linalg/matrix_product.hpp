#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/core/parallel.hpp>
#include <kfac/linalg/product_direct.hpp>
#include <kfac/linalg/product_loop.hpp>
#include <kfac/linalg/product_rows.hpp>

namespace kfac::linalg {
namespace detail {

/// Below so many multiply-adds a product is done before another thread has woken up.
inline constexpr double kParallelProduct = 1e6;

/// The rectangles of a product's result that threads take: independent of each other, since no sum
/// is ever divided. So results are the same for any number of them.
template <RealScalar S>
class ProductParts {
  using Tile = ProductTile<S>;

 public:
  ProductParts(const Strided<S>& left, const Strided<S>& right, const ProductResult<S>& result)
      : result_(result) {
    const Index threads = kfac::detail::parallelism();
    const double work = static_cast<double>(result.rows) * static_cast<double>(result.columns) *
                        static_cast<double>(left.columns);
    if (threads == 1 || work < kParallelProduct) return;
    if (result.triangle == Triangle::Lower) {
      columns_ = 4 * threads;  // of unequal work
    } else if (left.triangle != Triangle::All) {
      columns_ = threads;
    } else if (right.triangle != Triangle::All) {
      rows_ = threads;
    } else {
      // Every part packs its operands: the fewer of their entries the better.
      double least = std::numeric_limits<double>::max();
      for (Index rows = 1; rows <= threads; ++rows) {
        if (threads % rows != 0) continue;
        const double packed =
            static_cast<double>(result.rows) / static_cast<double>(rows) +
            static_cast<double>(result.columns * rows) / static_cast<double>(threads);
        if (packed >= least) continue;
        least = packed;
        rows_ = rows;
        columns_ = threads / rows;
      }
    }
  }

  Index count() const { return rows_ * columns_; }
  ProductPart operator[](Index part) const {
    const Index row = part % rows_;
    const Index column = part / rows_;
    const Index first_row = border(result_.rows, row, rows_, Tile::kRows);
    const Index first_column = column_border(column);
    ProductPart taken{first_row, border(result_.rows, row + 1, rows_, Tile::kRows) - first_row,
                      first_column, column_border(column + 1) - first_column};
    if (result_.triangle == Triangle::Lower) {
      taken.first_row = first_column;
      taken.rows = result_.rows - first_column;
    }
    return taken;
  }

 private:
  static Index border(Index size, Index part, Index parts, Index multiple) {
    if (part == parts) return size;
    return std::min(size, size * part / parts / multiple * multiple);
  }
  /// Of a lower triangle parts of equal area.
  Index column_border(Index part) const {
    if (result_.triangle != Triangle::Lower || part == columns_)
      return border(result_.columns, part, columns_, Tile::kColumns);
    const double rest = 1.0 - static_cast<double>(part) / static_cast<double>(columns_);
    const auto columns = static_cast<double>(result_.columns);
    return static_cast<Index>(columns * (1.0 - std::sqrt(rest))) / Tile::kColumns * Tile::kColumns;
  }

  ProductResult<S> result_;
  Index rows_ = 1;
  Index columns_ = 1;
};

#if defined(EIGEN_USE_BLAS)
/// A product by the BLAS that Eigen's products go to. False, with nothing done, unless the operands
/// are whole and a BLAS can read them.
template <RealScalar S>
bool product_by_blas(S alpha, const Strided<S>& left, const Strided<S>& right,
                     const ProductResult<S>& result, bool add) {
  const auto fits = [](const Strided<S>& operand) {
    return operand.triangle == Triangle::All &&
           (operand.row_stride == 1 || operand.column_stride == 1);
  };
  if (result.triangle != Triangle::All || !fits(left) || !fits(right)) return false;
  using Stride = Eigen::OuterStride<>;
  using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto visit = [](const Strided<S>& operand, auto&& body) {
    if (operand.row_stride == 1)
      body(Eigen::Map<const Matrix<S>, 0, Stride>(operand.data, operand.rows, operand.columns,
                                                  Stride(operand.column_stride)));
    else
      body(Eigen::Map<const RowMajor, 0, Stride>(operand.data, operand.rows, operand.columns,
                                                 Stride(operand.row_stride)));
  };
  Eigen::Map<Matrix<S>, 0, Stride> to(result.data, result.rows, result.columns,
                                      Stride(result.stride));
  visit(left, [&](const auto& a) {
    visit(right, [&](const auto& b) {
      if (add)
        to.noalias() += alpha * a * b;
      else
        to.noalias() = alpha * a * b;
    });
  });
  return true;
}
#endif

/// result = alpha left right, or that added to it.
template <RealScalar S>
void product(S alpha, const Strided<S>& left, const Strided<S>& right,
             const ProductResult<S>& result, bool add) {
  eigen_assert(left.columns == right.rows && left.rows == result.rows &&
               right.columns == result.columns);
#if defined(EIGEN_USE_BLAS)
  if (product_by_blas(alpha, left, right, result, add)) return;
#endif
  if (DirectProduct<S>::suits(left, right))
    return DirectProduct<S>(alpha, left, right, result, add).run();
  if (RowProduct<S>::suits(left, right))
    return RowProduct<S>(alpha, left, right, result, add).run();
  const ProductLoop<S> loop(alpha, left, right, result, add);
  const ProductParts<S> parts(left, right, result);
  kfac::detail::parallel_for(parts.count(), [&](Index part) { loop.run(parts[part]); });
}

template <class Result>
auto result_of(Result& c, Triangle triangle = Triangle::All) {
  static_assert(!Result::IsRowMajor);
  return ProductResult<typename Result::Scalar>{c.data(), c.rows(), c.cols(), c.outerStride(),
                                                triangle};
}

template <class A, class B, class C>
void product_into(typename C::Scalar alpha, const A& a, const B& b, C& c, bool add) {
  using S = typename C::Scalar;
  if constexpr (C::IsRowMajor) {
    Eigen::Transpose<C> transposed(c);
    product<S>(alpha, Strided<S>::of(b).transposed(), Strided<S>::of(a).transposed(),
               result_of(transposed), add);
  } else {
    product<S>(alpha, Strided<S>::of(a), Strided<S>::of(b), result_of(c), add);
  }
}

}  // namespace detail

// Products of matrices that share the work with the threads of a `ParallelScope` and take no memory
// from the heap once each thread has had its largest product. Operands are whatever lies in memory:
// matrices, maps, references, blocks and transposes of these, none of which overlaps the result.
// Where Eigen's products go to a BLAS (EIGEN_USE_BLAS), so do these, with that BLAS's own threads.

/// How many numbers each thread keeps for products of a `rows x depth` and a `depth x columns`
/// matrix, at most.
template <RealScalar S>
Index product_scratch_size(Index rows, Index columns, Index depth) {
  return detail::ProductLoop<S>::packed_size(rows, columns, depth);
}

/// c = a b.
template <class A, class B, class C>
void multiply(const A& a, const B& b, C&& c) {
  detail::product_into(1, a, b, c, false);
}

/// c += alpha a b.
template <class A, class B, class C>
void multiply_add(typename A::Scalar alpha, const A& a, const B& b, C&& c) {
  detail::product_into(alpha, a, b, c, true);
}

/// The lower triangle of c = alpha x x^T; what is above the diagonal stays.
template <class X, class C>
void gram(typename X::Scalar alpha, const X& x, C&& c) {
#if defined(EIGEN_USE_BLAS)
  c.template triangularView<Eigen::Lower>().setZero();
  c.template selfadjointView<Eigen::Lower>().rankUpdate(x, alpha);
#else
  using S = typename X::Scalar;
  const auto operand = detail::Strided<S>::of(x);
  detail::product<S>(alpha, operand, operand.transposed(),
                     detail::result_of(c, detail::Triangle::Lower), false);
#endif
}

/// The lower triangle of c += alpha x x^T; what is above the diagonal stays.
template <class X, class C>
void rank_update(typename X::Scalar alpha, const X& x, C&& c) {
  using S = typename X::Scalar;
  const auto operand = detail::Strided<S>::of(x);
  detail::product<S>(alpha, operand, operand.transposed(),
                     detail::result_of(c, detail::Triangle::Lower), true);
}

}  // namespace kfac::linalg
