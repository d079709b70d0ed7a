#pragma once

#include <string>

#include <kfac/core/buffer.hpp>
#include <kfac/core/errors.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac::detail {

/// The inputs of a layer whose parameters' own gradients are announced: those of a map of the
/// constant 1. They are in `memory`.
template <RealScalar S>
SharedBatch<S> ones_like(const SharedBatch<S>& pass, Buffer<S>& memory) {
  MatrixMap<S> ones = memory.map(1, pass.columns());
  ones.setOnes();
  return SharedBatch<S>(ones.data(), 1, pass.columns(), pass.positions(),
                        SharedBatch<S>::Order::ColumnMajor)
      .as_use(pass.use(), pass.uses());
}

/// What a layer announces in a pass, where its parameters may be used several times: the positions
/// of all uses as those of one, use after use within an example. That is exact, since the gradient
/// of an example is the sum over uses and positions of g x^T. A single use is passed on as it is;
/// several are copied, for the memory of one may be used again before the last is there.
template <RealScalar S>
class GatheredUses {
 public:
  /// \throws StateError if uses have different numbers of positions
  void add_input(const SharedBatch<S>& input) {
    if (input.use() == 0)
      count_ = seen_inputs_ = 0;
    else
      check_size("input", input);
    ++seen_inputs_;
    inputs_.add(input);
  }
  /// Whether that of each use is known before anything comes back.
  bool has_all_inputs() const { return seen_inputs_ >= inputs_.all.uses(); }
  /// Returns whether those of all uses are there. They come last use first.
  bool add_gradient(const SharedBatch<S>& gradient) {
    check_size("gradient", gradient);
    gradients_.add(gradient);
    if (++count_ < gradient.uses()) return false;
    count_ = 0;
    return true;
  }

  SharedBatch<S>& input() { return inputs_.all; }
  const SharedBatch<S>& input() const { return inputs_.all; }
  const SharedBatch<S>& gradient() const { return gradients_.all; }
  /// Of the last pass.
  Index uses() const { return inputs_.all.uses(); }

 private:
  struct Part {
    void add(const SharedBatch<S>& batch) {
      if (batch.uses() == 1) {
        all = batch;
        return;
      }
      const Index positions = batch.positions();
      const Index step = batch.uses() * positions;
      MatrixMap<S> joined = copy.map(batch.features(), batch.batch() * step);
      batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
        block.visit([&](const auto& values) {
          for (Index n = 0; n < block.batch(); ++n)
            joined.middleCols((first + n) * step + batch.use() * positions, positions) =
                values.middleCols(n * positions, positions);
        });
      });
      all = SharedBatch<S>(joined.data(), joined.rows(), joined.cols(), step,
                           SharedBatch<S>::Order::ColumnMajor)
                .as_use(0, batch.uses())
                .with_mask(batch.mask());
    }

    SharedBatch<S> all;
    Buffer<S> copy;
  };

  void check_size(const char* what, const SharedBatch<S>& batch) const {
    const Index columns = batch.uses() * batch.columns();
    if (columns == inputs_.all.columns()) return;
    raise<StateError>(std::string("kfac: the uses of a layer have different positions: '") + what +
                      "' has " + std::to_string(columns) + " in all, expected " +
                      std::to_string(inputs_.all.columns()));
  }

  Part inputs_, gradients_;
  Index count_ = 0;  // of gradients
  Index seen_inputs_ = 0;
};

}  // namespace kfac::detail
