#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kfac/linalg/nearest_kronecker.hpp>
#include <kfac/posterior/fit_laplace.hpp>

namespace kfac {

/// How the Kronecker products of old and new data become one; diagonal and dense curvature add up.
enum class KroneckerAddition {
  /// A: the mean of the factors over all examples; G: the sum. Exact where either is the same for
  /// both, and the cheapest.
  FactorSum,
  Nearest,  ///< the product nearest to the sum in the Frobenius norm
};

struct OnlineOptions {
  KroneckerAddition addition = KroneckerAddition::FactorSum;
  /// Bytes that the new curvature may take, > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

namespace detail {

/// `grid` in the eigenbases `from`, as the diagonal of the same matrix in the bases `to`.
template <RealScalar S>
Matrix<S> carried_grid(const linalg::KroneckerEigen<S>& from, const linalg::KroneckerEigen<S>& to) {
  const Matrix<S> output =
      (to.output_basis().vectors.transpose() * from.output_basis().vectors).cwiseAbs2();
  const Matrix<S> input =
      (to.input_basis().vectors.transpose() * from.input_basis().vectors).cwiseAbs2();
  const Matrix<S> half = output * from.grid();
  return half * input.transpose();
}

/// The sum of the curvature of old and new data, both at the scale of the sum of the criteria.
template <RealScalar S>
BlockEstimate<S> added(const char* where, const BlockEstimate<S>& before,
                       const BlockEstimate<S>& fresh, double share, KroneckerAddition addition) {
  BlockEstimate<S> sum;
  sum.block = before.block;
  if (!before.has_factors()) {
    sum.diagonal = before.diagonal + fresh.diagonal;
    sum.full = before.full + fresh.full;
    return sum;
  }
  if (addition == KroneckerAddition::Nearest) {
    const std::array<linalg::KroneckerTerm<S>, 2> terms{before.factors, fresh.factors};
    linalg::NearestKronecker<S> nearest =
        linalg::nearest_kronecker<S>(std::span<const linalg::KroneckerTerm<S>>(terms));
    sum.factors = {std::move(nearest.a), std::move(nearest.g)};
  } else {
    sum.factors = {
        static_cast<S>(share) * before.factors.a + static_cast<S>(1 - share) * fresh.factors.a,
        before.factors.g + fresh.factors.g};
  }
  if (!sum.eigen.compute(sum.factors.a, sum.factors.g))
    raise<ValueError>(std::string(where) + ": 'slices' give a factor that is not finite (layer '" +
                      before.block.name() + "')");
  return sum;
}

/// Adds the curvature of new data, block by block, as the posterior's is.
template <class Model, Loss L>
CurvatureEstimate<typename L::Scalar> with_new_curvature(
    const char* where, const Laplace<typename L::Scalar>& posterior, Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const OnlineOptions& options) {
  using S = typename L::Scalar;
  const CurvatureEstimate<S>& before = posterior.curvature();
  std::vector<ParameterBlock> blocks;
  std::vector<bool> random;
  for (const PosteriorBlock<S>& block : posterior.blocks()) {
    blocks.push_back(block.block());
    random.push_back(block.random());
  }
  const bool ekfac = before.record.structure == CurvatureStructure::Ekfac;
  CurvatureEstimate<S> fresh = estimate_curvature(
      model, loss, slices,
      {.structure = ekfac ? CurvatureStructure::Kronecker : before.record.structure,
       .fisher = before.record.fisher,
       .samples = before.record.samples,
       .seed = before.record.seed,
       .sharing = before.record.sharing,
       .layers = random_layers(blocks, random),
       .memory_limit = options.memory_limit});
  const double loss_scale = fresh.record.loss_scale;
  const auto old_examples = static_cast<double>(before.record.examples);
  const double share = old_examples / (old_examples + static_cast<double>(fresh.record.examples));
  CurvatureEstimate<S> sum;
  sum.record = before.record;
  sum.record.examples += fresh.record.examples;
  for (std::size_t i = 0; i < fresh.blocks.size(); ++i) {
    if (random[i]) {
      scale_curvature(fresh.blocks[i], 1 / loss_scale);
      sum.blocks.push_back(
          added(where, before.blocks[i], fresh.blocks[i], share, options.addition));
    } else {
      sum.blocks.emplace_back().block = fresh.blocks[i].block;
    }
  }
  if (!ekfac) return sum;

  CurvatureEstimate<S> moments = sum;  // of the new data, in the new bases
  moments.record = fresh.record;
  fit_moments(moments, model, loss, slices);
  for (std::size_t i = 0; i < sum.blocks.size(); ++i) {
    BlockEstimate<S>& block = sum.blocks[i];
    if (!block.has_factors()) continue;
    block.eigen.set_grid(Matrix<S>(moments.blocks[i].eigen.grid() / static_cast<S>(loss_scale) +
                                   carried_grid(before.blocks[i].eigen, block.eigen)));
    block.has_moments = true;
  }
  sum.record.moment_examples = sum.record.examples;
  return sum;
}

}  // namespace detail

/// Takes new data into a posterior, without the old ones. Before this the network is to be trained
/// on the new data with the old posterior in the place of the prior: that is, on kappa times the
/// sum of the new criteria plus 1/2 (theta - mean)^T P (theta - mean), whose gradient is
/// `multiply_precision(theta - mean)`. The new posterior is around the network's parameters, and
/// its precision is the old one's plus kappa times the new data's curvature there.
///
/// The prior, and what else the evidence is made of, stay: the old data's loss and gradient move to
/// the new mean by their quadratic model, so that hyperparameters can be tuned as if all data had
/// come at once. For a linear model of normal outputs all of it is as if they had. Curvature that
/// was fitted in an eigenbasis (EKFAC) moves to the new one as its diagonal there.
/// \throws ShapeError if the posterior is of another network; ValueError if parameters that are not
///         random have changed; StateError if it does not know how many examples there were; as
///         `fit_laplace`. The posterior is as it was then
/// \source Ritter, Botev and Barber, Online structured Laplace approximations, 2018, arXiv
///         1805.07810
template <class Model, Loss L>
void update_laplace(Laplace<typename L::Scalar>& posterior, Model& model, const L& loss,
                    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
                    const OnlineOptions& options = {}) {
  using S = typename L::Scalar;
  static constexpr const char* kWhere = "kfac::update_laplace";
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  detail::check_estimate(kWhere, posterior.curvature(), blocks);
  if (posterior.curvature().record.examples < 1)
    raise<StateError>(std::string(kWhere) +
                      ": 'posterior' is of 0 examples, expected their number in its record");
  const Vector<S> mean = flat_parameters(model);
  for (const PosteriorBlock<S>& block : posterior.blocks())
    if (!block.random() && block.block().of(mean) != block.block().of(posterior.mean()))
      raise<ValueError>(std::string(kWhere) +
                        ": 'model' has other parameters than the posterior's mean, expected that "
                        "those that are not random stay (layer '" +
                        block.block().name() + "')");
  const Likelihood likelihood = posterior.likelihood();
  detail::check_likelihood(kWhere, loss, likelihood);

  detail::Linearization<Model> at(kWhere, model, slices);
  LaplaceData<S> data;
  const auto moved = [&] {  // with what is known of the old data, at the new mean
    const LaplaceData<S>& before = posterior.data();
    if (!before.known() || before.gradient.size() == 0) {
      data = {};
      return;
    }
    const Vector<S> step = mean - posterior.mean();
    Vector<S> change = step;
    posterior.multiply_curvature(change);
    data.loss += before.loss + static_cast<double>(step.dot(before.gradient)) +
                 0.5 * static_cast<double>(step.dot(change));
    data.gradient += before.gradient + change;
    data.observations += before.observations;
  };
  if (posterior.is_full()) {
    const std::vector<bool> random = detail::random_blocks(kWhere, blocks, posterior.options());
    Index largest = 0;
    for (Index batch = 0; batch < at.batches(); ++batch)
      largest = std::max(largest, at.examples(batch));
    detail::check_memory(
        kWhere, full_laplace_memory<S>(blocks, posterior.options(), at.outputs() * largest),
        options.memory_limit);
    JointCurvature<S> joint{.record = posterior.curvature().record, .blocks = blocks};
    joint.matrix = posterior.joint_curvature() +
                   detail::joint_ggn(at, loss, slices, blocks, random, likelihood, data);
    joint.record.examples += at.examples();
    moved();
    posterior = Laplace<S>(std::move(joint), mean, posterior.options(), std::move(data));
    return;
  }
  CurvatureEstimate<S> curvature =
      detail::with_new_curvature(kWhere, posterior, model, loss, slices, options);
  data = detail::measure_data(at, loss, slices, likelihood, [](Index, const Matrix<S>&) {});
  moved();
  posterior = Laplace<S>(std::move(curvature), mean, posterior.options(), std::move(data));
}

}  // namespace kfac
