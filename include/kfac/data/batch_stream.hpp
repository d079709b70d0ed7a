#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <kfac/core/state.hpp>
#include <kfac/data/batches.hpp>

namespace kfac {

struct BatchStreamOptions {
  /// Leaves out the last batch of an epoch where it is smaller than the others: the examples that
  /// an epoch so leaves out are as random as its order.
  bool drop_last = false;
};

/// The batches of a dataset without end, epoch after epoch in new random orders: those of as many
/// passes of `batches`. Its state is small, and a stream that takes it on goes on with the batch
/// that would have been next, in the midst of an epoch too.
///
///     kfac::BatchStream stream(train, 64, kfac::Rng(1));
///     while (stream.epoch() < 5) {
///       const auto [x, y] = stream.next();
///       optimizer.step(x, y);
///     }
///
/// It refers to the data, which must outlive it.
template <RealScalar S, class Targets>
class BatchStream {
 public:
  using Scalar = S;

  /// \throws OptionError if batch_size < 1, or if all batches were left out; ShapeError if there
  ///         are no examples
  BatchStream(const Dataset<S, Targets>& data, Index batch_size, Rng rng,
              BatchStreamOptions options = {})
      : data_(&data),
        batch_size_(checked(data, batch_size, options)),
        batches_(options.drop_last ? data.examples() / batch_size
                                   : (data.examples() + batch_size - 1) / batch_size),
        start_(rng),
        memory_(data, std::min(batch_size, data.examples())),
        order_(static_cast<std::size_t>(data.examples())) {
    shuffle();
  }
  BatchStream(const Dataset<S, Targets>&&, Index, Rng, BatchStreamOptions = {}) = delete;

  /// Valid until the next.
  Batch<S, Targets> next() {
    if (shuffled_from_ != start_.state()) shuffle();  // the state was taken on
    if (step_in_epoch_ == batches_) {
      start_ = after_;
      shuffle();
      step_in_epoch_ = 0;
      ++epoch_;
    }
    const Index first = step_in_epoch_++ * batch_size_;
    return memory_.gather(*data_, order_, first, std::min(batch_size_, data_->examples() - first));
  }

  /// The epoch of the last batch, from 0.
  Index epoch() const { return epoch_; }
  /// How many batches of that epoch there were, the last included.
  Index step_in_epoch() const { return step_in_epoch_; }
  bool epoch_ended() const { return step_in_epoch_ == batches_; }
  /// How many batches there were in all.
  Index steps() const { return epoch_ * batches_ + step_in_epoch_; }
  Index batches_per_epoch() const { return batches_; }

  /// Of a stream of as many examples in batches of the same size.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("rng", start_);
    visitor.visit("epoch", epoch_);
    visitor.visit("step_in_epoch", step_in_epoch_);
    step_in_epoch_ = std::clamp(step_in_epoch_, Index{0}, batches_);
  }

 private:
  static Index checked(const Dataset<S, Targets>& data, Index batch_size,
                       const BatchStreamOptions& options) {
    static constexpr const char* kWhere = "kfac::BatchStream";
    detail::check_dataset(kWhere, data);
    detail::check_option(batch_size >= 1, kWhere, "batch_size", batch_size, ">= 1");
    detail::check_option(!options.drop_last || batch_size <= data.examples(), kWhere, "batch_size",
                         batch_size, "at most the number of examples with drop_last");
    return batch_size;
  }

  /// Makes the order of the epoch that begins with the generator `start_`.
  void shuffle() {
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<Index>(i);
    after_ = start_;
    after_.shuffle(order_);
    shuffled_from_ = start_.state();
  }

  const Dataset<S, Targets>* data_;
  Index batch_size_;
  Index batches_;  // in an epoch
  Index epoch_ = 0;
  Index step_in_epoch_ = 0;
  Rng start_;  // before the order of this epoch was drawn
  Rng after_;  // and after it
  std::array<std::uint64_t, 4> shuffled_from_{};
  detail::BatchMemory<S, Targets> memory_;
  std::vector<Index> order_;
};

}  // namespace kfac
