#pragma once

#include <cmath>
#include <vector>

#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

/// What the tests share in which a batch in slices is stepped on as all of it at once.
namespace kfac::test::accumulation {

using Model = DynamicSequential<double>;
using CrossEntropy = SoftmaxCrossEntropy<double>;
using SquaredError = MeanSquaredError<double>;
using Options = KfacOptions<double>;
using testing::relative_error;

constexpr Index kExamples = 8;
inline const std::vector<std::vector<Index>> kSizes{
    {4, 4}, {1, 5, 2}, {8}, {1, 1, 1, 1, 1, 1, 1, 1}};

inline Model dense_network() {
  Rng rng(1);
  Model model;
  model.push_back(Linear<double>(4, 5, rng));
  model.push_back(Tanh<double>{});
  model.push_back(Linear<double>(5, 6, rng));
  return model;
}
inline const Shape kDense{4};

inline Vector<double> parameters_of(Model& model) {
  Vector<double> flat(model.gradient().size());
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

inline Labels random_targets(const CrossEntropy&, Index count, Index classes, Index, Rng& rng) {
  Labels labels(count);
  for (int& label : labels) label = static_cast<int>(rng.below(classes));
  return labels;
}
inline Matrix<double> random_targets(const SquaredError&, Index, Index, Index outputs, Rng& rng) {
  return normal<double>(outputs, kExamples, rng);
}

template <class LossType>
auto cut(const Matrix<double>& x, const typename LossType::Targets& y, const Shape& shape,
         const std::vector<Index>& sizes) {
  typename KfacOptimizer<Model, LossType>::Slices slices;
  Index first = 0;
  for (const Index size : sizes) {
    slices.emplace_back(ConstMatrixMap<double>(x.data() + first * x.rows(), x.rows(), size),
                        kfac::detail::targets_of(y, x.cols(), first, size), shape);
    first += size;
  }
  return slices;
}

/// Equal, or both NaN.
inline void check_near(double actual, double expected) {
  CHECK((std::isnan(actual) == std::isnan(expected)));
  if (!std::isnan(expected))
    CHECK(std::abs(actual - expected) <= 1e-9 * std::abs(expected) + 1e-14);
}

/// Trains on whole batches and on slices of them, of `labels` labels an example and that many
/// classes, and compares all that can be seen of it.
template <class LossType>
void check_slices(const LossType& loss, const Model& start, const Shape& shape,
                  const Options& options, Index labels = 1, Index classes = 3,
                  const BlockFactory<double>& blocks = block_factory<KroneckerBlock<double>>()) {
  const Index outputs = start.output_shape(shape).size();
  for (const std::vector<Index>& sizes : kSizes) {
    CAPTURE(sizes);
    Model whole_model = start, cut_model = start;
    KfacOptimizer whole(whole_model, loss, options, blocks);
    KfacOptimizer in_slices(cut_model, loss, options, blocks);
    Rng rng(3);
    for (int step = 0; step < 6; ++step) {
      const Matrix<double> x = normal<double>(shape.size(), kExamples, rng);
      const auto y = random_targets(loss, labels * kExamples, classes, outputs, rng);
      const StepReport<double>& expected = whole.step(x, y, shape);
      const StepReport<double>& report = in_slices.step(cut<LossType>(x, y, shape, sizes));
      REQUIRE(expected.ok());
      REQUIRE(report.ok());
      check_near(report.loss, expected.loss);
      check_near(report.new_loss, expected.new_loss);
      check_near(report.learning_rate, expected.learning_rate);
      check_near(report.momentum, expected.momentum);
      check_near(report.damping, expected.damping);
      check_near(report.predicted_change, expected.predicted_change);
      check_near(report.gradient_norm, expected.gradient_norm);
      check_near(report.kl_scale, expected.kl_scale);
      CHECK(report.rejected == expected.rejected);
      CHECK(report.shrinks == expected.shrinks);
      CHECK(relative_error(parameters_of(cut_model), parameters_of(whole_model)) < 1e-10);
    }
    check_near(in_slices.damping(), whole.damping());
  }
}

inline const Options kBase{
    .learning_rate = 0.3, .momentum = 0.5, .damping = 0.05, .inverse_every = 2};

}  // namespace kfac::test::accumulation
