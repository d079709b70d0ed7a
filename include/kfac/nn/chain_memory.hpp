#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {
namespace detail {

/// How a layer of a chain uses memory.
struct Placement {
  enum class Memory { Input, Own, Output };

  Memory output = Memory::Own;  ///< where its output is: in the chain's x, memory of its own, or y
  bool forward_in_place = false;  ///< its output is where its input is
  bool can_work_in_place = false;
  bool keeps = false;              ///< its output is its input
  bool reads_output = true;        ///< passes after `forward` do
  bool tangent_to_output = false;  ///< all layers above work in place: likewise, its tangent
};

/// Decides it for layers run one after another, of which `uses` says what they need.
template <class Uses, class Placements>
constexpr void place_layers(const Uses& uses, Placements& placements) {
  const std::size_t count = uses.size();
  bool is_read = true;   // what is at the output so far, by the passes after `forward`
  bool in_input = true;  // that is the chain's input, which is not ours: so it counts as read
  for (std::size_t i = 0; i < count; ++i) {
    const InPlace in_place = uses[i].in_place;
    bool stays = in_place == InPlace::Keeps || (in_place == InPlace::Replaces && !is_read);
    if (i + 1 == count && in_input) stays = false;  // the chain's output is not its input
    in_input = in_input && stays;
    is_read = uses[i].reads_output || (is_read && stays && in_place == InPlace::Keeps);
    placements[i].forward_in_place = stays;
    placements[i].can_work_in_place = in_place != InPlace::Never;
    placements[i].keeps = in_place == InPlace::Keeps;
    placements[i].reads_output = uses[i].reads_output;
    placements[i].output = in_input ? Placement::Memory::Input : Placement::Memory::Own;
  }
  bool in_output = true;
  bool tangent_in_output = true;
  for (std::size_t i = count; i-- > 0;) {
    if (in_output) placements[i].output = Placement::Memory::Output;
    placements[i].tangent_to_output = tangent_in_output;
    in_output = in_output && placements[i].forward_in_place;
    tangent_in_output = tangent_in_output && placements[i].can_work_in_place;
  }
}

/// Whether the passes of a chain read its output.
template <class Uses, class Placements>
constexpr bool reads_chain_output(const Uses& uses, const Placements& placements) {
  for (std::size_t i = uses.size(); i-- > 0;) {
    if (uses[i].reads_output) return true;
    if (!placements[i].forward_in_place || uses[i].in_place != InPlace::Keeps) return false;
  }
  return false;
}

/// So many numbers that what comes after them in memory is aligned as large vectors want it.
constexpr Index padded(Index size) {
  return (size + 15) / 16 * 16;
}

/// The output of a layer in a batch: its shape, and where it is (and its tangent) if that is memory
/// of its own.
struct Place {
  Shape shape;
  Index offset = 0;
  Index tangent_offset = 0;
};

/// Memory for outputs of layers and for the gradients that replace them, where it is the same.
struct SharedMemory {
  Index size = 0;
  bool begins_at_end = false;  ///< the first gradient is at its end
};

}  // namespace detail

/// The scratch of layers run one after another: theirs, and what flows between them.
template <RealScalar S, class LayerScratches, class Places, class Sizes>
struct ChainScratch {
  LayerScratches layers;
  Places places;                                ///< of the output of every layer
  Buffer<S, Sizes::kActivations> activations;   ///< that are memory of their own
  detail::SharedMemory shared;                  ///< of them with gradients (`Mode::once`)
  std::array<Buffer<S, Sizes::kFlow>, 2> flow;  ///< gradients (or tangents) between layers
  // Used by `backward_tangent` alone:
  Buffer<S> tangents;                     ///< of every activation but the last
  std::array<Buffer<S>, 2> tangent_flow;  ///< tangents of the gradients between layers
};

namespace detail {

/// What flows from layer to layer: it is written to two buffers in turn, or over itself.
template <RealScalar S, class Buffers>
class Flow {
 public:
  Flow(const S* begin, Buffers& buffers) : data_(begin), buffers_(buffers) {}

  const S* data() const { return data_; }
  /// Where to write what comes next, of `size` numbers: over what there is now, where that is
  /// `in_place` and not the caller's; else what there is stays until the next but one.
  S* next(Index size, bool in_place) {
    if (in_place && own_) return own_;
    turn_ = 1 - turn_;
    return next(buffers_[turn_].map(size, 1).data());
  }
  /// The same somewhere else.
  S* next(S* data) {
    data_ = own_ = data;
    return data;
  }

 private:
  const S* data_;
  Buffers& buffers_;
  S* own_ = nullptr;
  std::size_t turn_ = 0;
};

/// What flows backward, in the memory of outputs that are not needed any more: beyond those that
/// are, at the one end of it and the other in turn.
template <RealScalar S>
class ReplacingFlow {
 public:
  /// `memory` may be null, if only the size is asked for.
  ReplacingFlow(const S* begin, S* memory, const SharedMemory& shared)
      : data_(begin), memory_(memory), end_(shared.size), at_end_(!shared.begins_at_end) {}

  const S* data() const { return data_; }
  /// As `Flow`, where the first `needed` numbers are to stay.
  S* next(Index size, bool in_place, Index needed) {
    if (in_place && has_own_) return place();
    const Index room = padded(size);
    at_end_ = !at_end_;
    if (at_end_) {
      size_ = std::max(size_, std::max(needed, has_own_ ? last_ : 0) + room);
      last_ = room;
      offset_ = end_ - room;
    } else {
      offset_ = needed;
      size_ = std::max(size_, needed + room + (has_own_ ? last_ : 0));
      last_ = needed + room;
    }
    has_own_ = true;
    if (memory_) data_ = place();
    return place();
  }
  /// How much memory it takes.
  Index size() const { return size_; }

 private:
  S* place() const { return memory_ ? memory_ + offset_ : nullptr; }

  const S* data_;
  S* memory_;
  Index end_;
  bool at_end_;
  bool has_own_ = false;
  Index offset_ = 0;
  Index last_ = 0;  // of what there is: how much of the end it takes, or where it ends
  Index size_ = 0;
};

/// In the place of a buffer of a Flow of which only the sizes are asked for.
template <RealScalar S>
class FlowSize {
 public:
  MatrixMap<S> map(Index rows, Index columns) {
    size_ = std::max(size_, rows * columns);
    return {&some_, rows, columns};
  }
  /// As large as it was ever mapped.
  Index size() const { return size_; }

 private:
  Index size_ = 0;
  S some_{};
};

}  // namespace detail
}  // namespace kfac
