#pragma once

#include <array>
#include <initializer_list>
#include <string>

#include <kfac/core/errors.hpp>

namespace kfac {

/// The shape of one example, slowest axis first, as PyTorch prints it without the batch axis:
/// `{features}`, `{tokens, features}` or `{channels, height, width}`. At most four axes; no
/// allocation. A batch stores each example contiguously in one column.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  /// \throws ShapeError for more than four axes or an axis below 1.
  Shape(std::initializer_list<Index> axes) {
    if (axes.size() > static_cast<std::size_t>(kMaxRank))
      raise<ShapeError>("kfac::Shape: 'axes' has " + std::to_string(axes.size()) +
                        " entries, expected at most " + std::to_string(kMaxRank));
    for (const Index axis : axes) push_back(axis);
  }

  /// Appends a faster axis. \throws ShapeError if it is below 1 or there are four already.
  void push_back(Index axis) {
    if (axis < 1)
      raise<ShapeError>("kfac::Shape: an axis is " + std::to_string(axis) +
                        ", expected at least 1");
    if (rank_ == kMaxRank) raise<ShapeError>("kfac::Shape: more than four axes");
    axes_[static_cast<std::size_t>(rank_++)] = axis;
  }

  int rank() const { return rank_; }
  Index operator[](int axis) const { return axes_[static_cast<std::size_t>(axis)]; }
  /// The fastest axis: the features of a vector or token.
  Index back() const { return axes_[static_cast<std::size_t>(rank_ - 1)]; }
  /// The number of entries of one example; 0 for the empty shape.
  Index size() const {
    if (rank_ == 0) return 0;
    Index product = 1;
    for (int axis = 0; axis < rank_; ++axis) product *= (*this)[axis];
    return product;
  }

  /// The same shape with its fastest axis replaced.
  Shape with_back(Index axis) const {
    Shape result = *this;
    result.axes_[static_cast<std::size_t>(rank_ - 1)] = axis;
    return result;
  }

  friend bool operator==(const Shape&, const Shape&) = default;

  /// Such as "3x28x28".
  std::string to_string() const {
    std::string text;
    for (int axis = 0; axis < rank_; ++axis)
      text += (axis ? "x" : "") + std::to_string((*this)[axis]);
    return text.empty() ? "empty" : text;
  }

 private:
  std::array<Index, kMaxRank> axes_{};
  int rank_ = 0;
};

}  // namespace kfac
