#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/curvature/linearization.hpp>
#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/posterior/laplace.hpp>
#include <kfac/posterior/laplace_memory.hpp>

namespace kfac {
namespace detail {

/// Raises an OptionError if the likelihood is not that of one of the losses here.
template <Loss L>
void check_likelihood(const char* where, const L&, Likelihood likelihood) {
  using S = typename L::Scalar;
  constexpr bool kSquares = std::is_same_v<L, MeanSquaredError<S>>;
  constexpr bool kLabels =
      std::is_same_v<L, SoftmaxCrossEntropy<S>> || std::is_same_v<L, BinaryCrossEntropy<S>>;
  if (kSquares && likelihood != Likelihood::Regression)
    raise<OptionError>(std::string(where) +
                       ": 'likelihood' is Classification, expected Regression with "
                       "kfac::MeanSquaredError");
  if (kLabels && likelihood != Likelihood::Classification)
    raise<OptionError>(std::string(where) +
                       ": 'likelihood' is Regression, expected Classification with a "
                       "cross-entropy");
}

/// What is known of the data at the network's parameters: sums over the slices, each of which is
/// loaded for `body(batch, outputs)` too.
template <class Model, Loss L, class Body>
LaplaceData<typename L::Scalar> measure_data(
    Linearization<Model>& at, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    Likelihood likelihood, Body&& body) {
  using S = typename L::Scalar;
  LaplaceData<S> data;
  data.gradient = Vector<S>::Zero(at.parameters());
  for (Index batch = 0; batch < at.batches(); ++batch) {
    at.load(batch);
    const Matrix<S> outputs = at.batch_outputs();
    const auto& targets = slices[static_cast<std::size_t>(batch)].targets;
    const S scale = loss.scale(outputs.rows(), outputs.cols());
    data.loss += static_cast<double>(loss.value(outputs, targets) / scale);
    Matrix<S> gradient(outputs.rows(), outputs.cols());
    loss.gradient(outputs, targets, gradient);
    gradient /= scale;
    data.gradient += at.pull_back(gradient);
    body(batch, outputs);
  }
  data.observations =
      at.examples() * (likelihood == Likelihood::Regression ? at.outputs() : Index(1));
  return data;
}

/// The exact curvature sum_n J_n^T H_n J_n of the random parameters.
template <class Model, Loss L>
Matrix<typename L::Scalar> joint_ggn(
    Linearization<Model>& at, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const std::vector<ParameterBlock>& blocks, const std::vector<bool>& random,
    Likelihood likelihood, LaplaceData<typename L::Scalar>& data) {
  using S = typename L::Scalar;
  std::vector<Index> parameters;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    for (Index k = 0; random[i] && k < blocks[i].size(); ++k)
      parameters.push_back(blocks[i].offset + k);
  const auto count = static_cast<Index>(parameters.size());
  Matrix<S> sum = Matrix<S>::Zero(count, count);
  Matrix<S> jacobian, curved;
  Vector<S> direction = Vector<S>::Zero(at.parameters());
  data = measure_data(at, loss, slices, likelihood, [&](Index, const Matrix<S>& outputs) {
    jacobian.resize(outputs.size(), count);
    curved.resize(outputs.size(), count);
    for (Index j = 0; j < count; ++j) {
      const Index parameter = parameters[static_cast<std::size_t>(j)];
      direction(parameter) = 1;
      const ConstMatrixMap<S> tangent = at.tangent(direction);
      direction(parameter) = 0;
      jacobian.col(j) = tangent.reshaped();
      loss.hessian_product(outputs, tangent,
                           MatrixMap<S>(curved.col(j).data(), outputs.rows(), outputs.cols()));
    }
    sum.noalias() += jacobian.transpose() * curved;
  });
  return sum;
}

}  // namespace detail

/// The Laplace approximation of a trained network's posterior:
///
///     auto posterior = kfac::fit_laplace(model, loss, kfac::slices(train, 500),
///                                        {.prior_precision = {10}, .last_layer = true});
///
/// The parameters should be at the optimum of the loss and the prior; that is, of the loss with
/// weight decay R delta / kappa, with R as in `CurvatureRecord`. It does not matter how the loss is
/// reduced. The curvature is the type-2 K-FAC of the layers that are random, unless `estimate` says
/// otherwise.
/// \throws OptionError; ShapeError or ValueError (not finite, naming the layer); SingularError,
///         naming the layer, where a precision is singular; MemoryError
template <class Model, Loss L>
Laplace<typename L::Scalar> fit_laplace(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const LaplaceOptions<typename L::Scalar>& options = {}, EstimateOptions estimate = {}) {
  using S = typename L::Scalar;
  static constexpr const char* kWhere = "kfac::fit_laplace";
  options.validate(kWhere);
  detail::check_likelihood(kWhere, loss, options.likelihood);
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const std::vector<bool> random = detail::random_blocks(kWhere, blocks, options);
  if (!estimate.layers) estimate.layers = detail::random_layers(blocks, random);
  detail::check_memory(kWhere, laplace_memory<S>(blocks, estimate.structure, options),
                       estimate.memory_limit);
  CurvatureEstimate<S> curvature = estimate_curvature(model, loss, slices, estimate);
  detail::Linearization<Model> at(kWhere, model, slices);
  LaplaceData<S> data =
      detail::measure_data(at, loss, slices, options.likelihood, [](Index, const Matrix<S>&) {});
  return {std::move(curvature), flat_parameters(model), options, std::move(data)};
}

/// The same with the exact generalised Gauss-Newton matrix of all random parameters, dense, with
/// the terms between layers: for small networks, or small subsets of them. Time and memory of the
/// random parameters squared; more than `memory_limit` bytes are refused.
/// \throws as `fit_laplace`
template <class Model, Loss L>
Laplace<typename L::Scalar> fit_full_laplace(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const LaplaceOptions<typename L::Scalar>& options = {},
    double memory_limit = std::numeric_limits<double>::infinity()) {
  using S = typename L::Scalar;
  static constexpr const char* kWhere = "kfac::fit_full_laplace";
  options.validate(kWhere);
  detail::check_likelihood(kWhere, loss, options.likelihood);
  detail::Linearization<Model> at(kWhere, model, slices);
  JointCurvature<S> curvature{.blocks = parameter_blocks(model)};
  curvature.record.structure = CurvatureStructure::Full;
  curvature.record.averages = false;
  curvature.record.examples = at.examples();
  const std::vector<bool> random = detail::random_blocks(kWhere, curvature.blocks, options);
  Index largest = 0;
  for (Index batch = 0; batch < at.batches(); ++batch)
    largest = std::max(largest, at.examples(batch));
  detail::check_memory(kWhere,
                       full_laplace_memory<S>(curvature.blocks, options, at.outputs() * largest),
                       memory_limit);
  LaplaceData<S> data;
  curvature.matrix =
      detail::joint_ggn(at, loss, slices, curvature.blocks, random, options.likelihood, data);
  return {std::move(curvature), flat_parameters(model), options, std::move(data)};
}

}  // namespace kfac
