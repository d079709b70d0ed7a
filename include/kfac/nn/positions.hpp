#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/one_hot_source.hpp>

namespace kfac {

struct PositionOptions {
  /// Standard deviation of the first vectors; >= 0, finite. (Of 0.02 as in GPT-2 and ViT; an
  /// Embedding of positions has 1.)
  double deviation = 0.02;
};

/// Adds a learned vector to each token of `{tokens, features}`, another for each position, of which
/// there are at most `max_tokens`. Parameter: "weight", `features x max_tokens` here, so that a
/// position is a column; in memory PyTorch's `[max_tokens, features]`. Its curvature is that of an
/// Embedding of the positions: the input factor A is diagonal.
/// \source Gehring et al., Convolutional sequence to sequence learning, 2017, arXiv 1705.03122
template <RealScalar S>
class LearnedPositions {
 public:
  using Scalar = S;
  struct Scratch {
    detail::OneHotSource<S> columns;
    Buffer<S> rows;  ///< the position of each token of the batch
  };
  static const char* kind() { return "LearnedPositions"; }

  /// \throws OptionError
  LearnedPositions(Index max_tokens, Index features, Rng& rng, PositionOptions options = {})
      : weight_((check(max_tokens, features, options), features), max_tokens) {
    rng.fill_normal(weight_);
    weight_ *= static_cast<S>(options.deviation);
  }

  Index max_tokens() const { return weight_.cols(); }
  Index features() const { return weight_.rows(); }

  /// `features x max_tokens`.
  MatrixMap<S> weight() { return {weight_.data(), weight_.rows(), weight_.cols()}; }
  Index parameter_count() const { return weight_.size(); }
  VectorMap<S> parameters() { return {weight_.data(), weight_.size()}; }
  std::vector<ParameterInfo> parameter_info() const {
    return {{"weight", 0, features(), max_tokens()}};
  }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return {.unitwise = false, .diagonal_input = true}; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 2 || shape[0] > max_tokens() || shape[1] != features())
      raise<ShapeError>(std::string(kWhere) + ": 'input' has shape " + shape.to_string() +
                        ", expected at most " + std::to_string(max_tokens()) + " tokens x " +
                        std::to_string(features()) + " features");
    return shape;
  }

  Index scratch_size(const Shape& shape, Index examples) const { return shape[0] * examples; }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    const Index tokens = x.shape[0];
    MatrixMap<S> rows = scratch.rows.map(tokens, x.examples());
    for (Index t = 0; t < tokens; ++t) rows.row(t).setConstant(static_cast<S>(t));
    scratch.columns.begin(max_tokens(), tokens, {rows.data(), rows.size()});
    y.values = x.values.colwise() + ConstVectorMap<S>(weight_.data(), x.values.rows());
  }

  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = grad_output.values;
    if (!grad_parameters) return;
    const Index seen = grad_output.values.rows();
    grad_parameters->head(seen) = grad_output.values.rowwise().sum();
    grad_parameters->tail(grad_parameters->size() - seen).setZero();
  }

  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch&) const {
    if (x_tangent)
      y_tangent.values = x_tangent->values;
    else
      y_tangent.values.setZero();
    if (parameter_tangent)
      y_tangent.values.colwise() += parameter_tangent->head(y_tangent.values.rows());
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>&, const ConstBatchView<S>*,
                        const ConstVectorMap<S>*, const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    backward(x, y, grad_output_tangent, grad_input_tangent, grad_parameters_tangent, scratch, {});
  }

  KroneckerStructure kronecker_structure() const {
    return {max_tokens(), features(), false, 1, true};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>&, const Scratch& scratch) const {
    return scratch.columns.shared();
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch&) const {
    return {grad_output.values.data(), features(), grad_output.values.size() / features(),
            grad_output.shape[0], SharedBatch<S>::Order::ColumnMajor};
  }

 private:
  static constexpr const char* kWhere = "kfac::LearnedPositions";

  static void check(Index max_tokens, Index features, const PositionOptions& options) {
    detail::check_option(max_tokens >= 1, kWhere, "max_tokens", max_tokens, ">= 1");
    detail::check_option(features >= 1, kWhere, "features", features, ">= 1");
    detail::check_option(options.deviation >= 0 && std::isfinite(options.deviation), kWhere,
                         "deviation", options.deviation, ">= 0 and finite");
  }

  Matrix<S> weight_;
};

/// Adds a fixed vector to each token of `{tokens, features}`, another for each position t: sin(t w)
/// and cos(t w) on features 2i and 2i + 1, with w = 10000^(-2i / features).
/// \source Vaswani et al., Attention is all you need, 2017, arXiv 1706.03762, section 3.5
template <RealScalar S>
class SinusoidalPositions : public ParameterFree<S>,
                            public LocallyLinear<SinusoidalPositions<S>, S> {
 public:
  struct Scratch {
    Matrix<S> waves;  ///< `features x tokens`
  };
  static const char* kind() { return "SinusoidalPositions"; }

  static constexpr MemoryUse memory_use() { return {InPlace::Replaces, false}; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 2)
      raise<ShapeError>("kfac::SinusoidalPositions: 'input' has shape " + shape.to_string() +
                        ", expected tokens x features");
    return shape;
  }

  Index scratch_size(const Shape& shape, Index) const { return shape.size(); }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    if (scratch.waves.rows() != x.shape[1] || scratch.waves.cols() != x.shape[0])
      scratch.waves = waves(x.shape[1], x.shape[0]);
    y.values = x.values.colwise() + ConstVectorMap<S>(scratch.waves.data(), x.values.rows());
  }
  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (grad_input) copy(grad_output, *grad_input);
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      copy(*x_tangent, y_tangent);
    else
      y_tangent.values.setZero();
  }

 private:
  static Matrix<S> waves(Index features, Index tokens) {
    Matrix<S> result(features, tokens);
    for (Index j = 0; j < features; ++j) {
      const auto exponent = static_cast<double>(j - j % 2) / static_cast<double>(features);
      const double frequency = std::pow(10000.0, -exponent);
      for (Index t = 0; t < tokens; ++t) {
        const double phase = static_cast<double>(t) * frequency;
        result(j, t) = static_cast<S>(j % 2 == 0 ? std::sin(phase) : std::cos(phase));
      }
    }
    return result;
  }
  static void copy(const ConstBatchView<S>& from, BatchView<S> to) {
    if (to.values.data() != from.values.data()) to.values = from.values;
  }
};

}  // namespace kfac
