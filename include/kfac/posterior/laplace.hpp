#pragma once

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/posterior/laplace_curvature.hpp>
#include <kfac/posterior/posterior_block.hpp>

namespace kfac {

/// The Laplace approximation of the posterior of a network's parameters: normal around their mean
/// (the optimum of the loss and the prior) with the precision
///
///     P = kappa K + delta,   kappa = 1 / (sigma^2 T),
///
/// where K is the curvature of the sum of the examples' criteria, whatever the scale of the loss
/// that it was estimated with, delta the prior precision, sigma the observation noise (1 for
/// labels) and T the temperature. `fit_laplace` makes one of a network and data.
///
/// Flat vectors are of all parameters in the order of `model.layers()`; those of blocks that are
/// not random have no variance. A copy shares the curvature.
/// \source MacKay, A practical Bayesian framework for backpropagation networks, 1992; Ritter,
///         Botev and Barber, A scalable Laplace approximation for neural networks, 2018
template <RealScalar S>
class Laplace {
 public:
  using Scalar = S;

  /// Of an estimate of any structure (decomposed here if it is not yet); `data` is what the
  /// evidence needs.
  /// \throws OptionError, ShapeError, ValueError; StateError if a random block has no curvature;
  ///         SingularError, naming the layer, if a precision is singular
  Laplace(CurvatureEstimate<S> curvature, Vector<S> mean, LaplaceOptions<S> options = {},
          LaplaceData<S> data = {})
      : Laplace(std::move(curvature), Matrix<S>(), std::move(mean), std::move(options),
                std::move(data)) {}
  /// Of dense curvature of all random parameters. \throws likewise
  Laplace(JointCurvature<S> curvature, Vector<S> mean, LaplaceOptions<S> options = {},
          LaplaceData<S> data = {})
      : Laplace(detail::estimate_of(curvature), std::move(curvature.matrix), std::move(mean),
                std::move(options), std::move(data)) {}

  /// In the order of the flat parameters, also those that are not random.
  const std::vector<PosteriorBlock<S>>& blocks() const { return blocks_; }
  const Vector<S>& mean() const { return mean_; }
  /// As given, with the hyperparameters there are now.
  const LaplaceOptions<S>& options() const { return options_; }
  Likelihood likelihood() const { return options_.likelihood; }
  const Prior<S>& prior() const { return prior_; }
  S observation_noise() const { return static_cast<S>(options_.observation_noise); }
  S temperature() const { return static_cast<S>(options_.temperature); }
  /// kappa = 1 / (sigma^2 T)
  double likelihood_precision() const {
    return 1 / (options_.observation_noise * options_.observation_noise * options_.temperature);
  }
  /// At the scale of the sum of the criteria (`record.loss_scale` is 1); nothing of blocks that are
  /// not random.
  const CurvatureEstimate<S>& curvature() const { return *curvature_; }
  /// Whether the posterior is that of all random parameters together.
  bool is_full() const { return joint_->size() > 0; }
  /// K of it.
  const Matrix<S>& joint_curvature() const { return *joint_; }
  const LaplaceData<S>& data() const { return data_; }

  Index parameters() const { return mean_.size(); }
  Index random_parameters() const { return static_cast<Index>(prior_.sizes().sum()); }

  // Hyperparameters. All throw as the constructor, and leave all as it was then:

  /// delta, an entry for each group.
  void set_prior_precision(const Vector<double>& precision) {
    set_hyperparameters(precision, options_.observation_noise, options_.temperature);
  }
  void set_prior_precision(double precision) {
    set_prior_precision(Vector<double>::Constant(prior_.groups(), precision));
  }
  void set_observation_noise(double noise) {
    set_hyperparameters(prior_.precision(), noise, options_.temperature);
  }
  void set_temperature(double temperature) {
    set_hyperparameters(prior_.precision(), options_.observation_noise, temperature);
  }
  void set_hyperparameters(const Vector<double>& precision, double noise, double temperature) {
    static constexpr const char* kWhere = "kfac::Laplace::set_hyperparameters";
    LaplaceOptions<S> options = options_;
    options.observation_noise = noise;
    options.temperature = temperature;
    options.prior_precision.assign(precision.begin(), precision.end());
    options.validate(kWhere);
    Laplace next = *this;
    next.options_ = std::move(options);
    next.prior_.set_precision(kWhere, precision);
    next.refresh(kWhere);
    *this = std::move(next);
  }
  /// Moves the mean, where the data are as given. The curvature stays.
  void set_mean(Vector<S> mean, LaplaceData<S> data) {
    check_mean("kfac::Laplace::set_mean", mean, data);
    mean_ = std::move(mean);
    data_ = std::move(data);
  }
  /// Of all parameters, flat.
  void set_prior_mean(const Vector<S>& mean) {
    prior_.set_mean("kfac::Laplace::set_prior_mean", mean);
    options_.prior_mean = mean;
  }

  /// Moves the mean to the mode of the posterior that the quadratic model of the loss at the mean
  /// gives, with K for its Hessian: exact for a linear model of normal outputs, with full
  /// curvature. Loss and gradient follow by the same model. The precision stays, as K does.
  /// \throws StateError if the gradient of the data is not known
  /// \source Antoran et al. 2022, Adapting the linearised Laplace model evidence
  void recentre() {
    if (data_.gradient.size() == 0)
      raise<StateError>(
          "kfac::Laplace::recentre: 'data' has no gradient, expected that of fit_laplace");
    const Vector<S> precision = prior_.flat_precision().template cast<S>();
    Vector<S> step = static_cast<S>(likelihood_precision()) * data_.gradient +
                     precision.cwiseProduct(mean_ - prior_.mean());
    multiply_covariance(step);
    step *= S(-1);
    Vector<S> change = step;
    multiply_curvature(change);
    data_.loss +=
        static_cast<double>(step.dot(data_.gradient)) + 0.5 * static_cast<double>(step.dot(change));
    data_.gradient += change;
    mean_ += step;
  }

  // Products, in place. What is not random becomes 0. All throw ShapeError:

  /// v <- P^-1 v
  void multiply_covariance(VectorRef<S> v) const {
    for_each_part(
        "kfac::Laplace::multiply_covariance", v,
        [](const PosteriorBlock<S>& block, MatrixRef<S> part) { block.multiply_covariance(part); },
        [&](VectorRef<S> all) { dense_.multiply_covariance(all); });
  }
  /// v <- L v, where L L^T = P^-1.
  void multiply_covariance_sqrt(VectorRef<S> v) const {
    for_each_part(
        "kfac::Laplace::multiply_covariance_sqrt", v,
        [](const PosteriorBlock<S>& block, MatrixRef<S> part) {
          block.multiply_covariance_sqrt(part);
        },
        [&](VectorRef<S> all) { dense_.multiply_covariance_sqrt(all); });
  }
  /// v <- L^T v
  void multiply_covariance_sqrt_transposed(VectorRef<S> v) const {
    for_each_part(
        "kfac::Laplace::multiply_covariance_sqrt_transposed", v,
        [](const PosteriorBlock<S>& block, MatrixRef<S> part) {
          block.multiply_covariance_sqrt_transposed(part);
        },
        [&](VectorRef<S> all) { dense_.multiply_covariance_sqrt_transposed(all); });
  }
  /// v <- P v
  void multiply_precision(VectorRef<S> v) const {
    for_each_part(
        "kfac::Laplace::multiply_precision", v,
        [](const PosteriorBlock<S>& block, MatrixRef<S> part) { block.multiply_precision(part); },
        [&](VectorRef<S> all) { dense_.multiply_precision(all); });
  }
  /// v <- K v
  void multiply_curvature(VectorRef<S> v) const {
    for_each_part(
        "kfac::Laplace::multiply_curvature", v,
        [](const PosteriorBlock<S>& block, MatrixRef<S> part) { block.multiply_curvature(part); },
        [&](VectorRef<S> all) {
          const Vector<S> before = all;
          all = joint_->template selfadjointView<Eigen::Lower>() * before;
        });
  }

  /// The variance of each parameter.
  Vector<S> variances() const {
    Vector<S> result = Vector<S>::Zero(parameters());
    if (is_full()) scatter(dense_.variances(), result);
    for (const PosteriorBlock<S>& block : blocks_)
      if (block.form() == PosteriorForm::Rows || block.form() == PosteriorForm::Dense)
        block.block().of(result) = block.variances();
    return result;
  }

  /// Parameters drawn from the posterior; those that are not random are the mean's.
  Vector<S> sample(Rng& rng) const {
    Vector<S> normal(random_parameters());
    rng.fill_normal(normal);
    Vector<S> result = Vector<S>::Zero(parameters());
    scatter(normal, result);
    multiply_covariance_sqrt(result);
    return mean_ + result;
  }

  /// The logarithm of the posterior density of the random ones among these parameters.
  /// \throws ShapeError
  double log_probability(const ConstVectorRef<S>& parameters) const {
    detail::check_size("kfac::Laplace::log_probability", "parameters", parameters.size(),
                       this->parameters(), "entries");
    const Vector<S> distance = parameters - mean_;
    Vector<S> product = distance;
    multiply_precision(product);
    const auto square = static_cast<double>(distance.dot(product));
    return 0.5 * (log_determinant() - square -
                  static_cast<double>(random_parameters()) * std::log(2 * std::numbers::pi));
  }

  // The evidence:

  /// log det P and its derivatives by the logarithms of the prior precisions.
  DeterminantTerms determinant_terms(bool with_second = false) const {
    DeterminantTerms terms(prior_.groups(), with_second);
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i].add_to(terms, prior_, i);
    if (is_full()) {
      const Groups groups = random_groups();
      dense_.add_to(terms, random_precision(),
                    [&](Index i) { return groups[static_cast<std::size_t>(i)]; });
    }
    return terms;
  }
  /// log det P
  double log_determinant() const { return determinant_terms().log_determinant; }
  /// log det P less that of the prior precision.
  double log_determinant_ratio() const { return log_determinant() - prior_.log_determinant(); }

  /// log p(data | mean), the criteria's constants included: -kappa loss, for regression less
  /// log(sigma sqrt(2 pi)) of each observation. \throws StateError if the data are not known
  double log_likelihood() const {
    if (!data_.known())
      raise<StateError>(
          "kfac::Laplace::log_likelihood: 'data' is not known, expected that of "
          "fit_laplace");
    double constant = 0;
    if (likelihood() == Likelihood::Regression)
      constant = static_cast<double>(data_.observations) *
                 std::log(options_.observation_noise * std::sqrt(2 * std::numbers::pi));
    return -likelihood_precision() * data_.loss - constant;
  }
  /// The logarithm of the evidence (the marginal likelihood),
  ///
  ///     log p(data | mean) - 1/2 (log det P - log det delta + sum delta (mean - prior mean)^2).
  ///
  /// \throws StateError if the data are not known
  double log_marginal_likelihood() const {
    const double distance = prior_.precision().dot(prior_.square_distances(mean_));
    return log_likelihood() - 0.5 * (log_determinant_ratio() + distance);
  }

 private:
  using Groups = std::vector<Index>;

  Laplace(CurvatureEstimate<S> curvature, Matrix<S> joint, Vector<S> mean,
          LaplaceOptions<S> options, LaplaceData<S> data)
      : options_((options.validate(kName), std::move(options))),
        random_(detail::random_blocks(kName, detail::shapes(curvature), options_)),
        prior_(kName, detail::shapes(curvature), random_, options_),
        joint_(std::make_shared<const Matrix<S>>(std::move(joint))) {
    check_mean(kName, mean, data);
    mean_ = std::move(mean);
    data_ = std::move(data);
    adopt(std::move(curvature));
    refresh(kName);
  }

  void check_mean(const char* where, const Vector<S>& mean, const LaplaceData<S>& data) const {
    detail::check_size(where, "mean", mean.size(), prior_.mean().size(), "entries");
    detail::check_finite(where, "mean", mean);
    if (data.gradient.size() > 0)
      detail::check_size(where, "data.gradient", data.gradient.size(), mean.size(), "entries");
    detail::check_finite(where, "data.gradient", data.gradient);
    if (!std::isfinite(data.loss))
      raise<ValueError>(std::string(where) + ": 'data.loss' is " + detail::text(data.loss) +
                        ", expected a finite number");
  }

  /// Takes the curvature, at the scale of the sum of the criteria.
  void adopt(CurvatureEstimate<S> curvature) {
    const bool full = is_full();
    if (full) {
      detail::check_shape(kName, "curvature.matrix", joint_->rows(), joint_->cols(),
                          random_parameters(), random_parameters());
      detail::check_finite(kName, "curvature.matrix", *joint_);
      if (curvature.record.loss_scale != 1)
        joint_ = std::make_shared<const Matrix<S>>(*joint_ /
                                                   static_cast<S>(curvature.record.loss_scale));
    }
    if (!full)
      detail::check_structure(kName, curvature, random_, prior_,
                              options_.prior_damping == PriorDamping::Multiplicative);
    for (std::size_t i = 0; i < random_.size(); ++i) {
      BlockEstimate<S>& block = curvature.blocks[i];
      if (random_[i] && !full) {
        detail::prepare_curvature(kName, block, curvature.record.loss_scale);
      } else {
        BlockEstimate<S> empty;
        empty.block = block.block;
        block = std::move(empty);
      }
    }
    curvature.record.loss_scale = 1;
    curvature.record.averages = false;
    curvature_ = std::make_shared<const CurvatureEstimate<S>>(std::move(curvature));
    for (std::size_t i = 0; i < random_.size(); ++i)
      blocks_.emplace_back(
          std::shared_ptr<const BlockEstimate<S>>(curvature_, &curvature_->blocks[i]), random_[i],
          full);
  }

  /// Makes the covariance for the hyperparameters there are.
  void refresh(const char* where) {
    if (!is_full()) {
      for (std::size_t i = 0; i < blocks_.size(); ++i)
        blocks_[i].refresh(where, likelihood_precision(), prior_, i, options_.prior_damping);
      return;
    }
    if (!dense_.compute(*joint_, likelihood_precision(), random_precision()))
      raise<SingularError>(std::string(where) +
                           ": the posterior precision is singular, expected 'prior_precision' > 0 "
                           "where the curvature is singular");
  }

  Groups random_groups() const {
    Groups groups;
    prior_.for_each([&](Index, Index group) { groups.push_back(group); });
    return groups;
  }
  Vector<double> random_precision() const {
    Vector<double> delta(random_parameters());
    Index i = 0;
    prior_.for_each([&](Index, Index group) { delta(i++) = prior_.precision()(group); });
    return delta;
  }

  void scatter(const Vector<S>& random, Vector<S>& flat) const {
    Index i = 0;
    prior_.for_each([&](Index parameter, Index) { flat(parameter) = random(i++); });
  }

  /// Calls `of_block` with each random block's part of v or, of a full posterior, `of_all` with the
  /// random parameters'.
  template <class OfBlock, class OfAll>
  void for_each_part(const char* where, VectorRef<S> v, OfBlock&& of_block, OfAll&& of_all) const {
    detail::check_size(where, "v", v.size(), parameters(), "entries");
    Index i = 0;
    Vector<S> all(is_full() ? random_parameters() : 0);
    for (const PosteriorBlock<S>& block : blocks_) {
      const ParameterBlock& shape = block.block();
      MatrixMap<S> part(v.data() + shape.offset, shape.outputs, shape.columns());
      if (!block.random()) {
        part.setZero();
      } else if (!is_full()) {
        of_block(block, part);
      } else {
        all.segment(i, shape.size()) = v.segment(shape.offset, shape.size());
        i += shape.size();
      }
    }
    if (!is_full()) return;
    of_all(all);
    i = 0;
    prior_.for_each([&](Index parameter, Index) { v(parameter) = all(i++); });
  }

  static constexpr const char* kName = "kfac::Laplace";

  LaplaceOptions<S> options_;
  std::vector<bool> random_;
  Prior<S> prior_;
  std::shared_ptr<const CurvatureEstimate<S>> curvature_;
  std::shared_ptr<const Matrix<S>> joint_;
  Vector<S> mean_;
  LaplaceData<S> data_;
  std::vector<PosteriorBlock<S>> blocks_;
  DensePrecision<S> dense_;  // of a full posterior
};

}  // namespace kfac
