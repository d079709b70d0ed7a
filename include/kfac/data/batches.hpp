#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <vector>

#include <kfac/data/dataset.hpp>

namespace kfac {

/// Some examples of a dataset: `features x batch`, and their targets. Valid until the next batch.
template <RealScalar S, class Targets>
struct Batch {
  ConstMatrixMap<S> inputs;
  Eigen::Map<const Targets> targets;
};

namespace detail {

/// The memory of one batch, into which examples are gathered.
template <RealScalar S, class Targets>
class BatchMemory {
 public:
  BatchMemory(const Dataset<S, Targets>& data, Index largest) {
    inputs_.resize(data.inputs.rows(), largest);
    if constexpr (std::same_as<Targets, Labels>)
      targets_.resize(largest);
    else
      targets_.resize(data.targets.rows(), largest);
  }

  /// The examples `order[first], ..., order[first + count - 1]`.
  Batch<S, Targets> gather(const Dataset<S, Targets>& data, const std::vector<Index>& order,
                           Index first, Index count) {
    const auto offset = static_cast<std::size_t>(first);
    detail::gather(data.inputs, order, offset, {inputs_.data(), inputs_.rows(), count});
    const ConstMatrixMap<S> inputs(inputs_.data(), inputs_.rows(), count);
    if constexpr (std::same_as<Targets, Labels>) {
      detail::gather(data.targets, order, offset, {targets_.data(), count});
      return {inputs, {targets_.data(), count}};
    } else {
      detail::gather(data.targets, order, offset, {targets_.data(), targets_.rows(), count});
      return {inputs, {targets_.data(), targets_.rows(), count}};
    }
  }

 private:
  Matrix<S> inputs_;
  Targets targets_;
};

}  // namespace detail

/// One shuffled pass over a dataset, which it refers to. Every batch is gathered into the same
/// memory when it is read, so one is valid until the next is.
template <RealScalar S, class Targets>
class Batches {
 public:
  class Iterator {
   public:
    using value_type = Batch<S, Targets>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    Iterator() = default;
    Iterator(Batches& batches, Index first) : batches_(&batches), first_(first) {}

    value_type operator*() const { return batches_->gather(first_); }
    Iterator& operator++() {
      first_ += batches_->batch_size_;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return first_ >= batches_->data_->examples(); }

   private:
    Batches* batches_ = nullptr;
    Index first_ = 0;
  };

  Batches(const Dataset<S, Targets>& data, Index batch_size, Rng& rng)
      : data_(&data),
        batch_size_(checked(data, batch_size)),
        order_(detail::permutation(data.examples(), rng)),
        memory_(data, std::min(batch_size, data.examples())) {}

  Iterator begin() { return {*this, 0}; }
  static std::default_sentinel_t end() { return {}; }

  /// The number of batches; the last is smaller where the batch size does not divide the examples.
  Index size() const { return (data_->examples() + batch_size_ - 1) / batch_size_; }

 private:
  static Index checked(const Dataset<S, Targets>& data, Index batch_size) {
    static constexpr const char* kWhere = "kfac::batches";
    detail::check_dataset(kWhere, data);
    detail::check_option(batch_size >= 1, kWhere, "batch_size", batch_size, ">= 1");
    return batch_size;
  }

  Batch<S, Targets> gather(Index first) {
    return memory_.gather(*data_, order_, first, std::min(batch_size_, data_->examples() - first));
  }

  const Dataset<S, Targets>* data_;
  Index batch_size_;
  std::vector<Index> order_;
  detail::BatchMemory<S, Targets> memory_;
};

/// The data in random order, once, in batches of `batch_size`:
///
///     for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);
///
/// \throws OptionError if batch_size < 1; ShapeError if there are no examples
template <RealScalar S, class Targets>
Batches<S, Targets> batches(const Dataset<S, Targets>& data, Index batch_size, Rng& rng) {
  return {data, batch_size, rng};
}
/// The data must outlive the pass.
template <RealScalar S, class Targets>
void batches(const Dataset<S, Targets>&& data, Index batch_size, Rng& rng) = delete;

}  // namespace kfac
