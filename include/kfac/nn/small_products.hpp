#pragma once

#include <kfac/core/types.hpp>

namespace kfac::detail {

/// Products with a matrix T, `Long x Short`, whose sizes are known when it is compiled and that is
/// so small that it stays in registers, while the columns of a batch pass by. Batches are
/// contiguous. Results are added to what is there, or to zero.
template <RealScalar S, int Long, int Short>
class SmallProducts {
  using Column = Eigen::Matrix<S, Long, 1>;
  using ColumnMap = Eigen::Map<Column>;
  using ConstColumnMap = Eigen::Map<const Column>;

 public:
  using Tall = Eigen::Matrix<S, Long, Short>;

  /// Each column of `into`, `Long x columns`, is `offset` (null: what is there) + T times one of
  /// `from`.
  static void expand(const Tall& t, const Column* offset, const S* from, Index columns, S* into) {
    for (Index n = 0; n < columns; ++n, from += Short, into += Long) {
      Column sum = offset ? *offset : Column(ConstColumnMap(into));
      for (int j = 0; j < Short; ++j) sum += from[j] * t.col(j);
      ColumnMap{into} = sum;
    }
  }

  /// Each column of `into`, `Short x columns`, is `offset` (null: what is there) + T^T times one of
  /// `from`.
  static void contract(const Tall& t, const Eigen::Matrix<S, Short, 1>* offset, const S* from,
                       Index columns, S* into) {
    for (Index n = 0; n < columns; ++n, from += Long, into += Short) {
      const Column column = ConstColumnMap(from);
      for (int j = 0; j < Short; ++j)
        into[j] = (offset ? (*offset)[j] : into[j]) + t.col(j).dot(column);
    }
  }

  /// The sum over columns of the outer products of those of `tall` and of `flat`.
  static Tall outer(const S* tall, const S* flat, Index columns) {
    Tall sum = Tall::Zero();
    for (Index n = 0; n < columns; ++n, tall += Long, flat += Short) {
      const Column column = ConstColumnMap(tall);
      for (int j = 0; j < Short; ++j) sum.col(j) += flat[j] * column;
    }
    return sum;
  }
};

}  // namespace kfac::detail
