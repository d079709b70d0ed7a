#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/random.hpp"

/// What the tests of exact operators share: targets of each loss, and derivatives by differences.
namespace kfac::test {

using testing::relative_error;

inline Labels targets_for(const SoftmaxCrossEntropy<double>&, Index outputs, Index count,
                          Rng& rng) {
  Labels labels(count);
  for (Index i = 0; i < count; ++i) labels(i) = static_cast<int>(rng.below(outputs));
  return labels;
}
inline Matrix<double> targets_for(const MeanSquaredError<double>&, Index outputs, Index count,
                                  Rng& rng) {
  return normal<double>(outputs, count, rng);
}
inline Matrix<double> targets_for(const BinaryCrossEntropy<double>&, Index outputs, Index count,
                                  Rng& rng) {
  Matrix<double> targets(outputs, count);
  rng.fill_uniform(targets, 0, 1);
  return targets;
}

/// Calls `body(loss)` with each loss and reduction.
template <class Body>
void for_each_loss(Body&& body) {
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean}) {
    body(MeanSquaredError<double>({.reduction = reduction}));
    body(SoftmaxCrossEntropy<double>({.reduction = reduction}));
    body(BinaryCrossEntropy<double>({.reduction = reduction}));
  }
}

/// The derivative at 0, by central differences, of what `body()` returns while the model's
/// parameters move along a flat direction. The parameters are bit-identical afterwards.
template <class Model, class Body>
auto derivative_along(Model& model, const Vector<double>& direction, Body&& body) {
  constexpr double kStep = 1e-5;
  const auto at = [&](double distance) {
    std::vector<Vector<double>> before;
    Index offset = 0;
    auto layers = model.layers();
    for (auto& layer : layers) {
      before.emplace_back(layer.parameters);
      layer.parameters += distance * direction.segment(offset, layer.parameters.size());
      offset += layer.parameters.size();
    }
    const auto value = body();
    for (std::size_t i = 0; i < layers.size(); ++i) layers[i].parameters = before[i];
    return value;
  };
  return ((at(kStep) - at(-kStep)) / (2 * kStep)).eval();
}

/// Some examples of a larger batch.
inline Labels some(const Labels& targets, Index first, Index count) {
  return targets.segment(first, count);
}
inline Matrix<double> some(const Matrix<double>& values, Index first, Index count) {
  return values.middleCols(first, count);
}

}  // namespace kfac::test
