#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/nn/any_layer.hpp>
#include <kfac/testing/relative_error.hpp>

namespace kfac::testing::detail {

/// Checks what a layer says in `memory_use()`: that it computes the same where a network makes use
/// of it as where everything has memory of its own.
template <RealScalar S>
class MemoryUseCheck {
 public:
  MemoryUseCheck(const AnyLayer<S>& layer, const Shape& shape, const Matrix<S>& x, Rng& rng)
      : layer_(layer),
        shape_(shape),
        output_shape_(layer.output_shape(shape)),
        x_(x),
        x_tangent_(x.rows(), x.cols()),
        gradient_(output_shape_.size(), x.cols()),
        gradient_tangent_(output_shape_.size(), x.cols()) {
    rng.fill_normal(x_tangent_);
    rng.fill_normal(gradient_);
    rng.fill_normal(gradient_tangent_);
  }

  /// The largest relative error, with second derivatives or without.
  double error(bool twice_differentiable) const {
    const MemoryUse use = layer_.memory_use();
    if (use.in_place == InPlace::Never && use.reads_output) return 0;
    const bool in_place = use.in_place != InPlace::Never;
    if (in_place && output_shape_.size() != shape_.size())
      return std::numeric_limits<double>::infinity();
    const std::vector<Matrix<S>> expected = results({}, twice_differentiable);
    const std::vector<Matrix<S>> actual = results(use, twice_differentiable);
    double worst = use.in_place == InPlace::Keeps ? relative_error(expected.front(), x_) : 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      worst = std::max(worst, relative_error(actual[i], expected[i]));
    return worst;
  }

 private:
  static ConstBatchView<S> view(const Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }
  static BatchView<S> writable(Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }

  /// Outputs, gradients, tangents and tangents of gradients, with memory as `use` allows.
  std::vector<Matrix<S>> results(const MemoryUse& use, bool twice_differentiable) const {
    const bool in_place = use.in_place != InPlace::Never;
    AnyScratch scratch;
    Matrix<S> input = x_;
    Matrix<S> own = Matrix<S>::Zero(output_shape_.size(), x_.cols());
    Matrix<S>& output = in_place ? input : own;
    layer_.forward(view(input, shape_), writable(output, output_shape_), scratch, Mode{});
    std::vector<Matrix<S>> all{output};
    // The layer above may have replaced it.
    if (!use.reads_output) output.setConstant(std::numeric_limits<S>::quiet_NaN());
    const ConstBatchView<S> x = view(input, shape_);
    const ConstBatchView<S> y = view(output, output_shape_);

    /// Calls `pass(from, to)`, where `to` becomes the next result.
    const auto add = [&](const Matrix<S>& from, const Shape& from_shape, const Shape& to_shape,
                         auto&& pass) {
      Matrix<S> before = from;
      Matrix<S> after(to_shape.size(), from.cols());
      Matrix<S>& to = in_place ? before : after;
      pass(view(before, from_shape), writable(to, to_shape));
      all.push_back(to);
    };
    add(x_tangent_, shape_, output_shape_, [&](const auto& from, const auto& to) {
      layer_.tangent(x, y, &from, nullptr, to, scratch);
    });
    if (twice_differentiable)
      add(gradient_tangent_, output_shape_, shape_, [&](const auto& from, auto to) {
        const ConstBatchView<S> x_tangent = view(x_tangent_, shape_);
        Vector<S> parameters = Vector<S>::Zero(layer_.parameter_count());
        VectorMap<S> into(parameters.data(), parameters.size());
        layer_.backward_tangent(x, y, view(gradient_, output_shape_), &x_tangent, nullptr, from,
                                &to, &into, scratch);
        all.emplace_back(parameters);
      });
    add(gradient_, output_shape_, shape_, [&](const auto& from, auto to) {
      Vector<S> parameters = Vector<S>::Zero(layer_.parameter_count());
      VectorMap<S> into(parameters.data(), parameters.size());
      layer_.backward(x, y, from, &to, &into, scratch, Mode{});
      all.emplace_back(parameters);
    });
    return all;
  }

  const AnyLayer<S>& layer_;
  Shape shape_;
  Shape output_shape_;
  Matrix<S> x_, x_tangent_, gradient_, gradient_tangent_;
};

}  // namespace kfac::testing::detail
