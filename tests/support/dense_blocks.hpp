#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <variant>
#include <vector>

#include "support/catch.hpp"
#include "support/networks.hpp"

/// What the tests of theorems share: networks chosen at run time, so that all are of one type, one
/// batch for them, and the blocks of all their layers, estimated and exact, as dense matrices.
namespace kfac::test {

using AnyModel = DynamicSequential<double>;

/// Linear layers from width to width.
inline void append_linear(AnyModel& model, std::initializer_list<Index> widths, Rng& rng,
                          bool bias) {
  for (const Index* width = widths.begin(); width + 1 != widths.end(); ++width)
    model.push_back(Linear<double>(width[0], width[1], rng, {.bias = bias}));
}

/// A loss chosen at run time. Labels are the numbers of a matrix of one row.
class AnyLoss {
  using CrossEntropy = SoftmaxCrossEntropy<double>;

  static Matrix<double> matrix_of(const Labels& targets) {
    return targets.cast<double>().transpose();
  }
  static const Matrix<double>& matrix_of(const Matrix<double>& targets) { return targets; }
  static Labels targets_of(const CrossEntropy&, const ConstMatrixRef<double>& targets) {
    return targets.reshaped().cast<int>();
  }
  template <class L>
  static const ConstMatrixRef<double>& targets_of(const L&, const ConstMatrixRef<double>& targets) {
    return targets;
  }

  template <class Body>
  auto visit(Body&& body) const {
    return std::visit(body, loss_);
  }
  template <class Body>
  auto visit(const ConstMatrixRef<double>& targets, Body&& body) const {
    return std::visit([&](const auto& loss) { return body(loss, targets_of(loss, targets)); },
                      loss_);
  }

 public:
  using Scalar = double;
  using Targets = Matrix<double>;
  using TargetsRef = ConstMatrixRef<double>;
  using Values = ConstMatrixRef<double>;

  template <class L>
  AnyLoss(const L& loss) : loss_(loss) {}  // NOLINT(google-explicit-constructor)

  void check(const Values& outputs, const TargetsRef& targets) const {
    visit(targets, [&](const auto& loss, const auto& y) { loss.check(outputs, y); });
  }
  double value(const Values& outputs, const TargetsRef& targets) const {
    return visit(targets, [&](const auto& loss, const auto& y) { return loss.value(outputs, y); });
  }
  void gradient(const Values& outputs, const TargetsRef& targets, MatrixRef<double> into) const {
    visit(targets, [&](const auto& loss, const auto& y) { loss.gradient(outputs, y, into); });
  }
  double scale(Index outputs, Index batch) const {
    return visit([&](const auto& loss) { return loss.scale(outputs, batch); });
  }
  void hessian_product(const Values& outputs, const Values& v, MatrixRef<double> into) const {
    visit([&](const auto& loss) { loss.hessian_product(outputs, v, into); });
  }
  Index hessian_sqrt_columns(Index outputs) const {
    return visit([&](const auto& loss) { return loss.hessian_sqrt_columns(outputs); });
  }
  void hessian_sqrt(const Values& outputs, Index column, MatrixRef<double> into) const {
    visit([&](const auto& loss) { loss.hessian_sqrt(outputs, column, into); });
  }
  void hessian_sqrt_product(const Values& outputs, const Values& u, MatrixRef<double> into) const {
    visit([&](const auto& loss) { loss.hessian_sqrt_product(outputs, u, into); });
  }
  Targets sample(const Values& outputs, Rng& rng) const {
    return visit([&](const auto& loss) -> Targets { return matrix_of(loss.sample(outputs, rng)); });
  }
  void sampled_gradient(const Values& outputs, Rng& rng, MatrixRef<double> into) const {
    visit([&](const auto& loss) { loss.sampled_gradient(outputs, rng, into); });
  }

 private:
  std::variant<MeanSquaredError<double>, CrossEntropy, BinaryCrossEntropy<double>> loss_;
};
static_assert(HessianSqrtLoss<AnyLoss>);

/// Each loss, reduced that way.
inline std::vector<AnyLoss> all_losses(LossOptions options) {
  return {MeanSquaredError<double>(options), SoftmaxCrossEntropy<double>(options),
          BinaryCrossEntropy<double>(options)};
}

/// A loss, inputs that are `shape` each, and targets.
struct Task {
  AnyLoss loss;
  Shape shape;
  Matrix<double> x, y;

  /// With random data for the model.
  Task(const AnyModel& model, const AnyLoss& loss_, const Shape& shape_, Index examples, Rng& rng)
      : loss(loss_),
        shape(shape_),
        x(random_matrix(shape_.size(), examples, rng)),
        y(loss.sample(Matrix<double>::Zero(model.output_shape(shape).size(), examples), rng)) {}

  Index examples() const { return x.cols(); }
};

using Samples = std::vector<Matrix<double>>;
using Estimator = CurvatureEstimator<AnyModel, AnyLoss>;
using Blocks = std::vector<Matrix<double>>;

/// An estimator that has seen the task; `samples` are used in place of drawn targets.
inline std::unique_ptr<Estimator> fitted(AnyModel& model, const Task& task,
                                         const EstimatorOptions<double>& options,
                                         const BlockFactory<double>& kind,
                                         const Samples& samples = {}) {
  auto estimator = std::make_unique<Estimator>(model, task.loss, options, kind);
  estimator->fit(task.x, task.y, {.shape = task.shape, .mask = nullptr, .samples = samples});
  return estimator;
}

/// Of each layer with curvature, and of each of its groups, undamped.
inline Blocks dense_blocks(const Estimator& estimator) {
  Blocks blocks;
  for (const auto& layer : estimator.layers())
    for (const auto& block : layer->blocks()) blocks.push_back(block->matrix()->dense());
  return blocks;
}

inline Blocks estimated_blocks(
    AnyModel& model, const Task& task, const EstimatorOptions<double>& options,
    const BlockFactory<double>& kind = block_factory<KroneckerBlock<double>>(),
    const Samples& samples = {}) {
  return dense_blocks(*fitted(model, task, options, kind, samples));
}

/// The diagonal blocks of a matrix of all parameters, in the same order.
inline Blocks diagonal_blocks(const Matrix<double>& full, AnyModel& model) {
  Blocks blocks;
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    if (layer.kronecker) {
      const Index size = layer.kronecker->outputs * layer.kronecker->columns();
      for (Index group = 0; group < layer.kronecker->groups; ++group)
        blocks.push_back(full.block(offset + group * size, offset + group * size, size, size));
    }
    offset += layer.parameters.size();
  }
  return blocks;
}

inline Blocks ggn_blocks(AnyModel& model, const Task& task) {
  return diagonal_blocks(Ggn<AnyModel, AnyLoss>(model, task.loss, task.x, task.shape).dense(),
                         model);
}

/// Of the outer products of each example's gradients at the given targets.
inline Blocks fisher_blocks(AnyModel& model, const Task& task, const Samples& samples) {
  const Ggn<AnyModel, AnyLoss> at(model, task.loss, task.x, task.shape);
  const Matrix<double> outputs = at.outputs();
  const double r = task.loss.scale(outputs.rows(), outputs.cols());
  std::vector<Matrix<double>> vectors;
  for (const Matrix<double>& targets : samples) {
    Matrix<double> v(outputs.rows(), outputs.cols());
    task.loss.gradient(outputs, targets, v);
    vectors.push_back(v / (r * std::sqrt(static_cast<double>(samples.size()))));
  }
  return diagonal_blocks(outer_products(at, vectors, r), model);
}

/// The relative errors, block by block.
inline std::vector<double> relative_errors(const Blocks& actual, const Blocks& expected) {
  REQUIRE(actual.size() == expected.size());
  std::vector<double> errors;
  for (std::size_t i = 0; i < actual.size(); ++i)
    errors.push_back(relative_error(actual[i], expected[i]));
  return errors;
}
inline double largest(const std::vector<double>& errors) {
  return *std::max_element(errors.begin(), errors.end());
}
inline double smallest(const std::vector<double>& errors) {
  return *std::min_element(errors.begin(), errors.end());
}
inline double largest_error(const Blocks& actual, const Blocks& expected) {
  return largest(relative_errors(actual, expected));
}

}  // namespace kfac::test
