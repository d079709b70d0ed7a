#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/nn/any_layer.hpp>
#include <kfac/testing/layer_check.hpp>
#include <kfac/testing/memory_use_check.hpp>
#include <kfac/testing/relative_error.hpp>

namespace kfac::testing {
namespace detail {

/// Keeps what one layer announces, of each use of its parameters.
template <RealScalar S>
struct AnnouncementKeeper : Observer<S> {
  std::vector<Matrix<S>> inputs;
  std::vector<Matrix<S>> gradients;
  Vector<S> example_gradients;  ///< their sum
  void on_input(const std::string&, const SharedBatch<S>& input) override { keep(input, inputs); }
  void on_output_gradient(const std::string&, const SharedBatch<S>& gradient) override {
    keep(gradient, gradients);
  }
  bool wants_example_gradients() const override { return true; }
  void on_example_gradients(const std::string&, const SharedBatch<S>& all) override {
    if (example_gradients.size() == 0) example_gradients.setZero(all.features());
    example_gradients += all.matrix().rowwise().sum();
  }

 private:
  static void keep(const SharedBatch<S>& batch, std::vector<Matrix<S>>& uses) {
    uses.resize(static_cast<std::size_t>(batch.uses()));
    uses[static_cast<std::size_t>(batch.use())] = batch.matrix();
  }
};

/// Runs the checks on one layer at one input. The layer is type-erased, so that this is compiled
/// once per scalar. Every pass that is compared with another starts from new scratch: a layer that
/// draws random numbers then draws the same ones.
template <RealScalar S>
class LayerBattery {
 public:
  LayerBattery(AnyLayer<S> layer, const Shape& shape, Matrix<S> x, Rng& rng)
      : layer_(std::move(layer)),
        shape_(shape),
        output_shape_(layer_.output_shape(shape)),
        x_(std::move(x)),
        cotangent_(output_shape_.size(), x_.cols()),
        cotangent_direction_(output_shape_.size(), x_.cols()),
        input_direction_(x_.rows(), x_.cols()),
        parameter_direction_(layer_.parameter_count()),
        unused_gradient_(layer_.parameter_count()) {
    layer_.rename("layer");
    layer_.append_layers(unused_gradient_.data(), views_);
    rng.fill_normal(cotangent_);
    rng.fill_normal(input_direction_);
    rng.fill_normal(parameter_direction_);
    rng.fill_normal(cotangent_direction_);
  }

  /// `twice_differentiable` as far as the type of the layer says.
  LayerCheck run(bool twice_differentiable, Rng& rng) {
    forward(x_, scratch_);
    const Pullback pullback = backward(true, true);
    const Matrix<S> input_tangent = tangent(true, false);
    const Matrix<S> parameter_tangent = tangent(false, true);

    LayerCheck check;
    check.input_gradient =
        relative_error(pullback.input.reshaped(), input_gradient_by_differences());
    check.parameter_gradient =
        relative_error(pullback.parameters, parameter_gradient_by_differences());
    check.input_tangent = relative_error(input_tangent, input_tangent_by_differences());
    check.parameter_tangent = relative_error(parameter_tangent, parameter_tangent_by_differences());
    check.adjointness =
        std::max(adjointness(input_tangent, pullback.input.reshaped(), input_direction_.reshaped()),
                 adjointness(parameter_tangent, pullback.parameters, parameter_direction_));
    check.null_requests = null_requests(pullback, input_tangent, parameter_tangent);
    check.repeatability = repeatability();
    check.kronecker = kronecker();
    twice_differentiable &= std::ranges::all_of(
        views_, [](const LayerView<S>& leaf) { return leaf.twice_differentiable; });
    check.memory_use = MemoryUseCheck<S>(layer_, shape_, x_, rng).error(twice_differentiable);
    if (twice_differentiable) check.backward_tangent = backward_tangent();
    return check;
  }

 private:
  struct Pullback {
    Matrix<S> input;
    Vector<S> parameters;
  };

  // What a layer must overwrite starts as NaN.
  static constexpr S kUnwritten = std::numeric_limits<S>::quiet_NaN();

  static ConstBatchView<S> view(const Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }
  static BatchView<S> view(Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }

  Matrix<S> forward(const Matrix<S>& x, AnyScratch& scratch, const Mode& mode = {}) {
    Matrix<S> y = Matrix<S>::Constant(output_shape_.size(), x.cols(), kUnwritten);
    layer_.forward(view(x, shape_), view(y, output_shape_), scratch, mode);
    if (&scratch == &scratch_) y_ = y;
    return y;
  }
  Matrix<S> forward_anew(const Matrix<S>& x, const Mode& mode = {}) {
    AnyScratch scratch;
    return forward(x, scratch, mode);
  }

  Pullback backward(bool input_wanted, bool parameters_wanted) {
    Pullback result{Matrix<S>::Constant(x_.rows(), x_.cols(), kUnwritten),
                    Vector<S>::Constant(layer_.parameter_count(), kUnwritten)};
    BatchView<S> input = view(result.input, shape_);
    VectorMap<S> parameters(result.parameters.data(), result.parameters.size());
    layer_.backward(view(std::as_const(x_), shape_), view(std::as_const(y_), output_shape_),
                    view(std::as_const(cotangent_), output_shape_), input_wanted ? &input : nullptr,
                    parameters_wanted ? &parameters : nullptr, scratch_, Mode{});
    return result;
  }

  Matrix<S> tangent(bool along_input, bool along_parameters) {
    Matrix<S> result = Matrix<S>::Constant(y_.rows(), y_.cols(), kUnwritten);
    const ConstBatchView<S> input = view(std::as_const(input_direction_), shape_);
    const ConstVectorMap<S> parameters(parameter_direction_.data(), parameter_direction_.size());
    layer_.tangent(view(std::as_const(x_), shape_), view(std::as_const(y_), output_shape_),
                   along_input ? &input : nullptr, along_parameters ? &parameters : nullptr,
                   view(result, output_shape_), scratch_);
    return result;
  }

  /// Of `backward`, when the input and the parameters move or not, and the cotangent moves.
  Pullback backward_tangent(bool along_input, bool along_parameters, bool input_wanted,
                            bool parameters_wanted) {
    Pullback result{Matrix<S>::Constant(x_.rows(), x_.cols(), kUnwritten),
                    Vector<S>::Constant(layer_.parameter_count(), kUnwritten)};
    BatchView<S> input = view(result.input, shape_);
    VectorMap<S> parameters(result.parameters.data(), result.parameters.size());
    const ConstBatchView<S> x_tangent = view(std::as_const(input_direction_), shape_);
    const ConstVectorMap<S> direction(parameter_direction_.data(), parameter_direction_.size());
    layer_.backward_tangent(
        view(std::as_const(x_), shape_), view(std::as_const(y_), output_shape_),
        view(std::as_const(cotangent_), output_shape_), along_input ? &x_tangent : nullptr,
        along_parameters ? &direction : nullptr,
        view(std::as_const(cotangent_direction_), output_shape_), input_wanted ? &input : nullptr,
        parameters_wanted ? &parameters : nullptr, scratch_);
    return result;
  }

  /// The step that balances truncation and rounding errors of central differences.
  static S step() { return std::cbrt(std::numeric_limits<S>::epsilon()); }

  /// The derivative of `outputs_at(t)` at t = 0.
  template <class OutputsAt>
  static Matrix<S> derivative(OutputsAt&& outputs_at) {
    return (outputs_at(step()) - outputs_at(-step())) / (2 * step());
  }

  /// What `body` returns with the parameters moved by `distance` along `direction`.
  template <class Body>
  auto at_parameters(S distance, const Vector<S>& direction, Body&& body) {
    std::vector<Vector<S>> before;
    Index offset = 0;
    for (LayerView<S>& leaf : views_) {
      before.emplace_back(leaf.parameters);
      leaf.parameters += distance * direction.segment(offset, leaf.parameters.size());
      offset += leaf.parameters.size();
    }
    const auto result = body();
    for (std::size_t i = 0; i < views_.size(); ++i) views_[i].parameters = before[i];
    return result;
  }
  Matrix<S> outputs_at_parameters(S distance, const Vector<S>& direction) {
    return at_parameters(distance, direction, [&] { return forward_anew(x_); });
  }

  Matrix<S> input_tangent_by_differences() {
    return derivative([&](S t) { return forward_anew(x_ + t * input_direction_); });
  }
  Matrix<S> parameter_tangent_by_differences() {
    return derivative([&](S t) { return outputs_at_parameters(t, parameter_direction_); });
  }

  Vector<S> input_gradient_by_differences() {
    Vector<S> result(x_.size());
    for (Index i = 0; i < x_.size(); ++i) {
      const Matrix<S> column = derivative([&](S t) {
        Matrix<S> x = x_;
        x.data()[i] += t;
        return forward_anew(x);
      });
      result[i] = column.cwiseProduct(cotangent_).sum();
    }
    return result;
  }
  Vector<S> parameter_gradient_by_differences() {
    Vector<S> result(layer_.parameter_count());
    for (Index i = 0; i < result.size(); ++i) {
      const Vector<S> direction = Vector<S>::Unit(result.size(), i);
      const Matrix<S> column = derivative([&](S t) { return outputs_at_parameters(t, direction); });
      result[i] = column.cwiseProduct(cotangent_).sum();
    }
    return result;
  }

  /// Both gradients with x, the parameters and the cotangent moved by `distance`, in one column.
  Vector<S> gradients_at(S distance, bool along_input, bool along_parameters) {
    Matrix<S> x = x_;
    if (along_input) x += distance * input_direction_;
    const Matrix<S> cotangent = cotangent_ + distance * cotangent_direction_;
    return at_parameters(along_parameters ? distance : S(0), parameter_direction_, [&] {
      AnyScratch scratch;
      const Matrix<S> y = forward(x, scratch);
      Vector<S> result = Vector<S>::Constant(x.size() + layer_.parameter_count(), kUnwritten);
      BatchView<S> input{{result.data(), x.rows(), x.cols()}, shape_};
      VectorMap<S> parameters(result.data() + x.size(), layer_.parameter_count());
      layer_.backward(view(std::as_const(x), shape_), view(y, output_shape_),
                      view(cotangent, output_shape_), &input, &parameters, scratch, Mode{});
      return result;
    });
  }

  double backward_tangent() {
    double worst = 0;
    scratch_ = AnyScratch{};
    forward(x_, scratch_);
    for (const bool along_input : {true, false})
      for (const bool along_parameters : {true, false}) {
        const Matrix<S> expected =
            derivative([&](S t) { return gradients_at(t, along_input, along_parameters); });
        const Pullback both = backward_tangent(along_input, along_parameters, true, true);
        const Pullback input = backward_tangent(along_input, along_parameters, true, false);
        const Pullback parameters = backward_tangent(along_input, along_parameters, false, true);
        backward_tangent(along_input, along_parameters, false, false);
        worst = std::max(
            {worst, relative_error(both.input.reshaped(), expected.topRows(x_.size())),
             relative_error(both.parameters, expected.bottomRows(layer_.parameter_count())),
             relative_error(input.input, both.input),
             relative_error(parameters.parameters, both.parameters)});
      }
    return worst;
  }

  double adjointness(const Matrix<S>& output_tangent, const Vector<S>& gradient,
                     const Vector<S>& direction) const {
    const S forwards = cotangent_.cwiseProduct(output_tangent).sum();
    const S backwards = gradient.dot(direction);
    const S scale =
        std::max(cotangent_.norm() * output_tangent.norm(), gradient.norm() * direction.norm());
    return relative_error(static_cast<double>(std::abs(forwards - backwards)),
                          static_cast<double>(scale));
  }

  double null_requests(const Pullback& pullback, const Matrix<S>& input_tangent,
                       const Matrix<S>& parameter_tangent) {
    backward(false, false);
    return std::max({relative_error(backward(true, false).input, pullback.input),
                     relative_error(backward(false, true).parameters, pullback.parameters),
                     relative_error(tangent(true, true), input_tangent + parameter_tangent),
                     relative_error(tangent(false, false), Matrix<S>::Zero(y_.rows(), y_.cols()))});
  }

  double repeatability() {
    const Mode evaluation{.training = false, .tracking = false};
    const Matrix<S> one = x_.col(0);
    AnyScratch used;
    forward(x_, used);
    return std::max({relative_error(forward_anew(x_), y_),
                     relative_error(forward(one, used, evaluation), forward_anew(one, evaluation)),
                     relative_error(forward(x_, used, evaluation), forward_anew(x_, evaluation))});
  }

  /// The gradient of [W b] is the sum over uses and columns of g [a; 1]^T, in every leaf with
  /// curvature; that of units is the sum of the examples' own.
  std::optional<double> kronecker() {
    std::optional<double> worst;
    Index offset = 0;
    for (LayerView<S>& leaf : views_) {
      if (leaf.kronecker || leaf.units > 0) {
        AnnouncementKeeper<S> keeper;
        leaf.hooks->attach(keeper);
        forward(x_, scratch_);
        const Vector<S> gradient =
            backward(true, true).parameters.segment(offset, leaf.parameters.size());
        const Vector<S> announced =
            leaf.kronecker ? rebuilt(*leaf.kronecker, keeper) : keeper.example_gradients;
        worst = std::max(worst.value_or(0), relative_error(announced, gradient));
      }
      offset += leaf.parameters.size();
    }
    return worst;
  }

  /// Empty, which equals no gradient, if the announcements do not fit the structure.
  Vector<S> rebuilt(const KroneckerStructure& sizes, const AnnouncementKeeper<S>& kept) const {
    if (kept.inputs.empty() || kept.inputs.size() != kept.gradients.size()) return {};
    Vector<S> result = Vector<S>::Zero(sizes.groups * sizes.outputs * sizes.columns());
    for (std::size_t use = 0; use < kept.inputs.size(); ++use) {
      const Matrix<S>& inputs = kept.inputs[use];
      const Matrix<S>& gradients = kept.gradients[use];
      if (inputs.rows() != sizes.groups * sizes.inputs ||
          gradients.rows() != sizes.groups * sizes.outputs || inputs.cols() != gradients.cols() ||
          inputs.cols() % x_.cols() != 0)
        return {};
      for (Index group = 0; group < sizes.groups; ++group) {
        const Matrix<S> g = gradients.middleRows(group * sizes.outputs, sizes.outputs);
        MatrixMap<S> block(result.data() + group * sizes.outputs * sizes.columns(), sizes.outputs,
                           sizes.columns());
        // Small, so not worth compiling a matrix product for.
        block.leftCols(sizes.inputs) +=
            g.lazyProduct(inputs.middleRows(group * sizes.inputs, sizes.inputs).transpose());
        if (sizes.bias) block.col(sizes.inputs) += g.rowwise().sum();
      }
    }
    return result;
  }

  AnyLayer<S> layer_;
  Shape shape_;
  Shape output_shape_;
  Matrix<S> x_;
  Matrix<S> y_;
  Matrix<S> cotangent_;
  Matrix<S> cotangent_direction_;
  Matrix<S> input_direction_;
  Vector<S> parameter_direction_;
  Vector<S> unused_gradient_;
  std::vector<LayerView<S>> views_;
  AnyScratch scratch_;
};

}  // namespace detail

/// Checks that `layer` is what the Layer concept says, at the batch `x` (`shape.size() x
/// examples`): its gradients and tangents, and the tangents of its gradients if it has them,
/// against central differences and each other, requests for some results only, and what it
/// announces, and what it says of its use of memory. Also for containers. Give a layer with kinks
/// an `x` away from them. \throws what the layer throws for `shape`
template <Layer L>
LayerCheck check_layer(L layer, const Shape& shape, const Matrix<typename L::Scalar>& x, Rng& rng) {
  using S = typename L::Scalar;
  return detail::LayerBattery<S>(AnyLayer<S>(std::move(layer)), shape, x, rng)
      .run(TwiceDifferentiableLayer<L>, rng);
}

/// The same at `batch` random examples. Their entries are distinct, none is zero, and they are as
/// far apart as they can be in [-2, 2], so that differences do not cross a kink of ReLU or
/// MaxPool2d.
template <Layer L>
LayerCheck check_layer(L layer, const Shape& shape, Index batch, Rng& rng) {
  using S = typename L::Scalar;
  const Index size = shape.size() * batch;
  Vector<S> entries(size);
  for (Index i = 0; i < size; ++i)
    entries[i] =
        static_cast<S>(4 * (static_cast<double>(i) + 0.25) / static_cast<double>(size) - 2);
  rng.shuffle(entries);
  return check_layer(std::move(layer), shape, Matrix<S>(entries.reshaped(shape.size(), batch)),
                     rng);
}

}  // namespace kfac::testing
