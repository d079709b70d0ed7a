#pragma once

#include <string>

#include <kfac/core/buffer.hpp>
#include <kfac/core/errors.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

/// How Kronecker factors see a layer whose weights are applied at S positions of an example
/// (tokens, pixels), with inputs x_s and output gradients g_s. \source Eschenhagen et al. 2023,
/// arXiv 2311.00636
enum class WeightSharing {
  /// Each position counts as an example of its own: exact where the loss is a sum over positions
  /// that the layers above keep apart (translation, per-pixel labels).
  Expand,
  /// The factors are of mean_s x_s and sum_s g_s: exact where the positions are averaged or summed
  /// before they meet anything nonlinear (classification of images or sequences). Cheaper.
  Reduce,
};

namespace detail {

/// \throws ShapeError if `mask` is not of so many positions and examples, ValueError if an example
///         has no real position
inline void check_mask(const char* where, const PositionMask& mask, Index positions,
                       Index examples) {
  check_shape(where, "mask", mask.rows(), mask.cols(), positions, examples);
  for (Index n = 0; n < mask.cols(); ++n)
    if (!mask.col(n).any())
      raise<ValueError>(std::string(where) + ": 'mask' has no position for example " +
                        std::to_string(n) + ", expected at least one");
}

/// The columns of the real positions only, one after another, each an example of its own.
template <RealScalar S>
SharedBatch<S> without_padding(const SharedBatch<S>& batch, const PositionMask& mask,
                               Buffer<S>& scratch) {
  MatrixMap<S> kept = scratch.map(batch.features(), mask.count());
  Index column = 0;
  batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
    const bool* real = mask.col(first).data();
    block.visit([&](const auto& values) {
      for (Index n = 0; n < values.cols(); ++n)
        if (real[n]) kept.col(column++) = values.col(n);
    });
  });
  return SharedBatch<S>(ConstMatrixMap<S>(kept.data(), kept.rows(), kept.cols()));
}

/// The same columns, with zeros in place of the padding.
template <RealScalar S>
SharedBatch<S> zeroed_padding(const SharedBatch<S>& batch, const PositionMask& mask,
                              Buffer<S>& scratch) {
  MatrixMap<S> copy = scratch.map(batch.features(), batch.columns());
  batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
    block.visit([&](const auto& values) {
      copy.middleCols(first * batch.positions(), values.cols()) = values;
    });
  });
  for (Index n = 0; n < copy.cols(); ++n)
    if (!mask.data()[n]) copy.col(n).setZero();
  return {copy.data(), copy.rows(), copy.cols(), batch.positions(),
          SharedBatch<S>::Order::ColumnMajor};
}

/// The sum over the positions of each example.
template <RealScalar S>
SharedBatch<S> sum_over_positions(const SharedBatch<S>& batch, Buffer<S>& scratch) {
  MatrixMap<S> sums = scratch.map(batch.features(), batch.batch());
  batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
    const Index positions = block.positions();
    block.visit([&](const auto& values) {
      for (Index n = 0; n < block.batch(); ++n)
        sums.col(first + n) = values.middleCols(n * positions, positions).rowwise().sum();
    });
  });
  return SharedBatch<S>(ConstMatrixMap<S>(sums.data(), sums.rows(), sums.cols()));
}

/// The mean over the (real) positions of each example; `mask` may be null.
template <RealScalar S>
SharedBatch<S> mean_over_positions(const SharedBatch<S>& batch, const PositionMask* mask,
                                   Buffer<S>& scratch) {
  MatrixMap<S> means = scratch.map(batch.features(), batch.batch());
  batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
    const Index positions = block.positions();
    block.visit([&](const auto& values) {
      for (Index n = 0; n < block.batch(); ++n) {
        auto mean = means.col(first + n);
        if (!mask) {
          mean = values.middleCols(n * positions, positions).rowwise().mean();
          continue;
        }
        mean.setZero();
        for (Index s = 0; s < positions; ++s)
          if ((*mask)(s, first + n)) mean += values.col(n * positions + s);
        mean /= static_cast<S>(mask->col(first + n).count());
      }
    });
  });
  return SharedBatch<S>(ConstMatrixMap<S>(means.data(), means.rows(), means.cols()));
}

/// What Kronecker factors take of a layer's input.
template <RealScalar S>
struct FactorInput {
  SharedBatch<S> columns;  ///< whose outer products A is the mean of
  /// The sum over examples of S, or of S^2 (reduce), for S positions: what G is the identity times
  /// for forward-only curvature.
  S identity_weight;
};

/// `mask` may be null; `scratch` holds the columns where they are not the input's own.
template <RealScalar S>
FactorInput<S> factor_input(WeightSharing sharing, const SharedBatch<S>& input,
                            const PositionMask* mask, Buffer<S>& scratch) {
  if (input.positions() == 1) return {input, static_cast<S>(input.columns())};
  if (sharing == WeightSharing::Expand) {
    if (!mask) return {input, static_cast<S>(input.columns())};
    return {without_padding(input, *mask, scratch), static_cast<S>(mask->count())};
  }
  S squares = 0;
  for (Index n = 0; n < input.batch(); ++n) {
    const Index positions = mask ? mask->col(n).count() : input.positions();
    squares += static_cast<S>(positions * positions);
  }
  return {mean_over_positions(input, mask, scratch), squares};
}

/// The columns whose outer products G is made of; they are 0 in the padding.
template <RealScalar S>
SharedBatch<S> factor_gradient(WeightSharing sharing, const SharedBatch<S>& gradient,
                               Buffer<S>& scratch) {
  const bool sums = sharing == WeightSharing::Reduce && gradient.positions() > 1;
  return sums ? sum_over_positions(gradient, scratch) : gradient;
}

}  // namespace detail
}  // namespace kfac
