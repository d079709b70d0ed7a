#pragma once

#include <algorithm>

#include <kfac/linalg/matrix_product.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/small_products.hpp>

namespace kfac::detail {

/// The products that the passes of a linear layer are made of, with any weights, `Out x In` and
/// contiguous: by small kernels where the sizes are known when it is compiled and small.
template <RealScalar S, int In, int Out>
class LinearProducts {
  // The largest weights that are worth keeping in registers.
  static constexpr bool kSmall = In != Eigen::Dynamic && Out != Eigen::Dynamic &&
                                 Index{sizeof(S)} * Index{In} * Index{Out} <= 1024;
  static constexpr bool kTall = Out >= In;
  using Small = SmallProducts<S, kSmall ? std::max(In, Out) : 1, kSmall ? std::min(In, Out) : 1>;
  // Eigen wants matrices of one row, which have one order in memory, to be called row-major.
  using Weight = Eigen::Matrix<S, Out, In, Out == 1 ? Eigen::RowMajor : Eigen::ColMajor>;

 public:
  LinearProducts(Index inputs, Index outputs) : inputs_(inputs), outputs_(outputs) {}

  /// y = W x + b, where a null b is zero.
  void multiply(const S* w, const S* b, const ConstBatchView<S>& x, BatchView<S> y) const {
    if constexpr (kSmall) {
      using Offset = Eigen::Matrix<S, Out, 1>;
      const Offset offset = b ? Offset(Eigen::Map<const Offset>(b)) : Offset(Offset::Zero());
      multiply_small(w, &offset, x, y);
    } else {
      MatrixMap<S> result = y.columns();
      if (!b) return linalg::multiply(weight(w), x.columns(), result);
      result.colwise() = ConstVectorMap<S>(b, outputs_);
      linalg::multiply_add(S(1), weight(w), x.columns(), result);
    }
  }
  /// y += W x.
  void add_multiplied(const S* w, const ConstBatchView<S>& x, BatchView<S> y) const {
    if constexpr (kSmall)
      multiply_small(w, nullptr, x, y);
    else
      linalg::multiply_add(S(1), weight(w), x.columns(), y.columns());
  }

  /// x = W^T y.
  void multiply_transposed(const S* w, const ConstBatchView<S>& y, BatchView<S> x) const {
    if constexpr (kSmall) {
      const Eigen::Matrix<S, In, 1> zero = Eigen::Matrix<S, In, 1>::Zero();
      multiply_small_transposed(w, &zero, y, x);
    } else {
      linalg::multiply(weight(w).transpose(), y.columns(), x.columns());
    }
  }
  /// x += W^T y.
  void add_multiplied_transposed(const S* w, const ConstBatchView<S>& y, BatchView<S> x) const {
    if constexpr (kSmall)
      multiply_small_transposed(w, nullptr, y, x);
    else
      linalg::multiply_add(S(1), weight(w).transpose(), y.columns(), x.columns());
  }

  /// W = y x^T.
  void multiply_outer(const ConstBatchView<S>& y, const ConstBatchView<S>& x, S* w) const {
    if constexpr (kSmall)
      Eigen::Map<Weight>{w} = small_outer(y, x);
    else
      linalg::multiply(y.columns(), x.columns().transpose(), MatrixMap<S>(w, outputs_, inputs_));
  }
  /// W += y x^T.
  void add_multiplied_outer(const ConstBatchView<S>& y, const ConstBatchView<S>& x, S* w) const {
    if constexpr (kSmall)
      Eigen::Map<Weight>{w} += small_outer(y, x);
    else
      linalg::multiply_add(S(1), y.columns(), x.columns().transpose(),
                           MatrixMap<S>(w, outputs_, inputs_));
  }

  /// b = the sum of the columns of y.
  void sum_columns(const ConstBatchView<S>& y, S* b) const {
    const ConstMatrixMap<S> columns = y.columns();  // one after another, as they are in memory
    if constexpr (kSmall) {
      using Column = Eigen::Matrix<S, Out, 1>;
      Column sum = Column::Zero();
      for (Index n = 0; n < columns.cols(); ++n)
        sum += Eigen::Map<const Column>(columns.data() + n * Out);
      Eigen::Map<Column>{b} = sum;
    } else {
      VectorMap<S> sum(b, outputs_);
      sum.setZero();
      for (Index n = 0; n < columns.cols(); ++n) sum += columns.col(n);
    }
  }

 private:
  ConstMatrixMap<S> weight(const S* w) const { return {w, outputs_, inputs_}; }

  /// Small weights, columns of the longer side together.
  static typename Small::Tall tall(const S* w) {
    if constexpr (kTall)
      return Eigen::Map<const Weight>(w);
    else
      return Eigen::Map<const Weight>(w).transpose();
  }
  static void multiply_small(const S* w, const Eigen::Matrix<S, Out, 1>* offset,
                             const ConstBatchView<S>& x, BatchView<S> y) {
    const Index columns = y.values.size() / Out;
    if constexpr (kTall)
      Small::expand(tall(w), offset, x.values.data(), columns, y.values.data());
    else
      Small::contract(tall(w), offset, x.values.data(), columns, y.values.data());
  }
  static void multiply_small_transposed(const S* w, const Eigen::Matrix<S, In, 1>* offset,
                                        const ConstBatchView<S>& y, BatchView<S> x) {
    const Index columns = y.values.size() / Out;
    if constexpr (kTall)
      Small::contract(tall(w), offset, y.values.data(), columns, x.values.data());
    else
      Small::expand(tall(w), offset, y.values.data(), columns, x.values.data());
  }
  static Weight small_outer(const ConstBatchView<S>& y, const ConstBatchView<S>& x) {
    const Index columns = y.values.size() / Out;
    if constexpr (kTall)
      return Small::outer(y.values.data(), x.values.data(), columns);
    else
      return Small::outer(x.values.data(), y.values.data(), columns).transpose();
  }

  Index inputs_;
  Index outputs_;
};

}  // namespace kfac::detail
