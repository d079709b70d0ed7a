#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include <kfac/core/state.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/linalg/spd_inverse.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

/// The weight that the past keeps at the k-th update of a running average, from 1: min(1 - 1/k,
/// decay), so that the first update gives the fresh value itself, the average is unbiased from the
/// start, and becomes exponential after 1/(1 - decay) updates.
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 5
template <RealScalar S>
S running_weight(Index update, S decay) {
  return std::min(S(1) - S(1) / static_cast<S>(update), decay);
}

/// A running average of second moments E[x x^T], symmetric, fed in two stages: `add` sums over any
/// number of batches, `commit` takes their mean into the average with `running_weight`. Sum and
/// average are a triangle each in the same memory.
template <RealScalar S>
class RunningCovariance {
 public:
  /// With `bias`, a constant 1 is appended to every x.
  RunningCovariance(Index features, bool bias)
      : features_(features), bias_(bias), storage_(Matrix<S>::Zero(size(), size() + 1)) {}

  Index size() const { return features_ + (bias_ ? 1 : 0); }

  /// Adds weight * sum of x x^T over the columns of `x`: a symmetric rank-k update of one triangle.
  void add(const SharedBatch<S>& x, S weight) {
    MatrixRef<S> sum = storage_.leftCols(size());
    x.for_each_block([&](const SharedBatch<S>& block, Index) {
      block.visit([&](const auto& columns) {
        if (columns.cols() == 0) return;
        const bool is_first = !std::exchange(has_fresh_, true);
        auto corner = sum.topLeftCorner(features_, features_);
        if (is_first)
          linalg::gram(weight, columns, corner);
        else
          linalg::rank_update(weight, columns, corner);
        if (!bias_) return;
        if (is_first) sum.row(features_).setZero();
        add_column_sums(columns, weight, sum);
        sum(features_, features_) += weight * static_cast<S>(columns.cols());
      });
    });
  }
  /// The sum so far, of which only the lower triangle may be read or written: for what is added in
  /// other ways.
  MatrixRef<S> fresh() {
    if (!has_fresh_)
      for (Index j = 0; j < size(); ++j) fresh_column(j).setConstant(S(0));
    has_fresh_ = true;
    return storage_.leftCols(size());
  }
  /// Adds weight * I.
  void add_identity(S weight) { fresh().diagonal().array() += weight; }

  /// Whether anything was added since the last commit.
  bool has_fresh() const { return has_fresh_; }
  /// Whether what was added since then is finite. (A NaN or infinity in x reaches the diagonal,
  /// which is a sum of squares.)
  bool fresh_is_finite() const {
    return !has_fresh_ || std::isfinite(storage_.leftCols(size()).diagonal().sum());
  }

  /// Takes the sum of what was added, divided by `count`, into the average.
  void commit(Index count, S decay) {
    if (!has_fresh_) fresh();
    const S keep = running_weight(++commits_, decay);
    const S take = (S(1) - keep) / static_cast<S>(count);
    for (Index j = 0; j < size(); ++j) {
      S* const average = average_column(j).data();
      const S* const fresh = fresh_column(j).data();
      write(average, size() - j, [&](Index first, auto length) {
        return piece<length()>(average + first) * keep + piece<length()>(fresh + first) * take;
      });
    }
    discard();
  }

  /// Forgets what was added since the last commit.
  void discard() { has_fresh_ = false; }
  /// Forgets the average too.
  void reset() {
    storage_.setZero();
    has_fresh_ = false;
    commits_ = 0;
  }

  Matrix<S> value() const {
    Matrix<S> result;
    copy_to(result);
    return result;
  }
  /// Writes the average times `scale`, without allocation if `result` has its size.
  void copy_to(Matrix<S>& result, S scale = S(1)) const {
    result.resize(size(), size());
    for (Index j = 0; j < size(); ++j) result.col(j).tail(size() - j) = scale * average_column(j);
    linalg::symmetrize_from_lower<S>(result);
  }
  /// Of the average.
  S diagonal(Index i) const { return average_column(i)(0); }
  /// Writes the average times `scale` to the lower triangle of memory that is free until something
  /// is added, where it may be overwritten. The upper triangle is not to be touched.
  /// \pre !has_fresh()
  MatrixRef<S> working_copy(S scale = S(1)) {
    for (Index j = 0; j < size(); ++j) {
      const S* const average = average_column(j).data();
      write(fresh_column(j).data(), size() - j,
            [&](Index first, auto count) { return piece<count()>(average + first) * scale; });
    }
    return storage_.leftCols(size());
  }
  Index commits() const { return commits_; }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("commits", commits_);
    Matrix<S> average = value();
    visitor.visit("value", average);
    if (!visitor.overwrites()) return;
    for (Index j = 0; j < size(); ++j) average_column(j) = average.col(j).tail(size() - j);
    has_fresh_ = false;
  }

 private:
  /// Column j of a lower triangle: of the sum, and of the average.
  auto fresh_column(Index j) { return storage_.col(j).tail(size() - j); }
  auto average_column(Index j) { return storage_.col(size() - j).head(size() - j); }
  auto average_column(Index j) const { return storage_.col(size() - j).head(size() - j); }

  // Columns in pieces of a size that the compiler knows. (Eigen would go to the next multiple of a
  // packet's alignment entry by entry, which may be all there are.)

  template <int Size>
  using Piece = Eigen::Array<S, Size, 1>;
  template <int Size>
  static Eigen::Map<const Piece<Size>> piece(const S* from) {
    return Eigen::Map<const Piece<Size>>(from);
  }
  /// Writes to so many entries `value(first, constant length)`, which may read them.
  template <class Value>
  static void write(S* to, Index entries, const Value& value) {
    if (entries >= 16) return write_pieces<16>(to, entries, value);
    if (entries >= 4) return write_pieces<4>(to, entries, value);
    constexpr std::integral_constant<int, 1> kOne;
    for (Index i = 0; i < entries; ++i) to[i] = value(i, kOne)(0);
  }
  /// The last piece may overlap the one before, so it is read before anything is written.
  template <int Size, class Value>
  static void write_pieces(S* to, Index entries, const Value& value) {
    constexpr std::integral_constant<int, Size> kSize;
    const Piece<Size> last = value(entries - Size, kSize);
    for (Index first = 0; first + Size < entries; first += Size)
      Eigen::Map<Piece<Size>>(to + first) = value(first, kSize);
    Eigen::Map<Piece<Size>>(to + entries - Size) = last;
  }

  /// Walks memory in order, whichever way the columns are stored.
  template <class Columns>
  void add_column_sums(const Columns& columns, S weight, MatrixRef<S> sum) {
    auto sums = sum.row(features_).head(features_);
    if constexpr (Columns::IsRowMajor)
      for (Index i = 0; i < features_; ++i) sums(i) += weight * columns.row(i).sum();
    else
      for (Index first = 0; first < features_; first += kSums) {
        const Index count = std::min(kSums, features_ - first);
        Eigen::Array<S, Eigen::Dynamic, 1, 0, kSums, 1> some(count);
        some.setZero();
        using Part = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
        const auto column = [&](Index n) { return Part(columns.col(n).data() + first, count); };
        Index n = 0;
        for (; n + 4 <= columns.cols(); n += 4)  // not to wait for each sum
          some += (column(n) + column(n + 1)) + (column(n + 2) + column(n + 3));
        for (; n < columns.cols(); ++n) some += column(n);
        sums.segment(first, count) += weight * some.matrix().transpose();
      }
  }

  static constexpr Index kSums = 256;  // at a time, in the first cache

  Index features_;
  bool bias_;
  bool has_fresh_ = false;
  Index commits_ = 0;
  /// `size() x (size() + 1)`. The sum is the lower triangle of the first columns; those of the
  /// average lie above it, the longest in the last column.
  Matrix<S> storage_;
};

}  // namespace kfac
