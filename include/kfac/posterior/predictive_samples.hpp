#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/predictive.hpp>

namespace kfac {

/// Functions drawn from the distribution of a network's outputs, each `outputs x examples`: with
/// the joint covariance where there is one, else the examples (and, of variances alone, outputs)
/// independently.
/// \throws OptionError unless samples >= 1; ShapeError, ValueError if f is not as it is made
template <RealScalar S>
std::vector<Matrix<S>> sample_outputs(const OutputDistribution<S>& f, Index samples, Rng& rng) {
  static constexpr const char* kWhere = "kfac::sample_outputs";
  detail::check_option(samples >= 1, kWhere, "samples", samples, ">= 1");
  detail::check_distribution(kWhere, f);
  Matrix<double> roots;
  if (f.joint.size() > 0) {
    detail::check_shape(kWhere, "joint", f.joint.rows(), f.joint.cols(), f.mean.size(),
                        f.mean.size());
    roots = detail::semidefinite_root(f.joint.template cast<double>());
  } else {
    roots.resize(f.outputs(), f.outputs() * f.examples());
    for (Index n = 0; n < f.examples(); ++n)
      roots.middleCols(n * f.outputs(), f.outputs()) =
          detail::semidefinite_root(f.covariance(n).template cast<double>());
  }
  std::vector<Matrix<S>> drawn;
  Matrix<double> normal(f.outputs(), f.examples());
  for (Index sample = 0; sample < samples; ++sample) {
    rng.fill_normal(normal);
    if (f.joint.size() > 0) {
      const Vector<double> change = roots * normal.reshaped();
      normal = change.reshaped(f.outputs(), f.examples());
    } else {
      for (Index n = 0; n < f.examples(); ++n) {
        const Vector<double> change =
            roots.middleCols(n * f.outputs(), f.outputs()) * normal.col(n);
        normal.col(n) = change;
      }
    }
    drawn.emplace_back(f.mean + normal.template cast<S>());
  }
  return drawn;
}

/// What is observed if those are the network's outputs: of classification their probabilities, of
/// regression values with the observation noise, each by itself (none where the options leave it
/// out). \throws OptionError, ShapeError
template <RealScalar S>
void sample_observations(std::vector<Matrix<S>>& outputs, const Laplace<S>& posterior, Rng& rng,
                         const PredictOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::sample_observations";
  options.validate(kWhere);
  PredictOptions plugin = options;
  plugin.link = Link::Plugin;
  for (Matrix<S>& sample : outputs) {
    if (posterior.likelihood() == Likelihood::Classification) {
      sample = detail::probabilities_of(
          kWhere,
          OutputDistribution<S>{sample, Matrix<S>::Zero(sample.rows(), sample.cols()), {}, {}},
          plugin);
    } else if (options.observation_noise) {
      Matrix<S> noise(sample.rows(), sample.cols());
      rng.fill_normal(noise);
      sample += posterior.observation_noise() * noise;
    }
  }
}

namespace detail {

/// Gives a network its parameters back at the end of a scope.
template <class Model>
class WithParameters {
 public:
  explicit WithParameters(Model& model) : model_(model), before_(flat_parameters(model)) {}
  WithParameters(const WithParameters&) = delete;
  WithParameters& operator=(const WithParameters&) = delete;
  ~WithParameters() { set_flat_parameters(model_, before_); }

 private:
  Model& model_;
  Vector<typename Model::Scalar> before_;
};

}  // namespace detail

/// Calls `body(outputs)` with a batch's outputs, `outputs x examples`, of each of so many networks
/// whose parameters are drawn from the posterior. The network's own are the same afterwards, and
/// need not be the posterior's mean. Evaluated without dropout.
/// \throws OptionError unless samples >= 1; ShapeError if the posterior is of another network, or
/// as
///         `forward`; ValueError as that
template <class Model, class Body>
void for_each_sampled_network(Model& model, const Laplace<typename Model::Scalar>& posterior,
                              const ConstMatrixRef<typename Model::Scalar>& x, const Shape& shape,
                              Index samples, Rng& rng, Body&& body) {
  static constexpr const char* kWhere = "kfac::for_each_sampled_network";
  detail::check_option(samples >= 1, kWhere, "samples", samples, ">= 1");
  detail::check_estimate(kWhere, posterior.curvature(), parameter_blocks(model));
  const detail::WithParameters<Model> restored(model);
  const Evaluation<Model> evaluation(model);
  for (Index sample = 0; sample < samples; ++sample) {
    set_flat_parameters(model, posterior.sample(rng));
    body(model.forward(x, shape));
  }
}

/// The outputs of networks drawn from the posterior. \throws as `for_each_sampled_network`
template <class Model>
std::vector<Matrix<typename Model::Scalar>> sample_networks(
    Model& model, const Laplace<typename Model::Scalar>& posterior,
    const ConstMatrixRef<typename Model::Scalar>& x, const Shape& shape, Index samples, Rng& rng) {
  std::vector<Matrix<typename Model::Scalar>> outputs;
  for_each_sampled_network(model, posterior, x, shape, samples, rng,
                           [&](const auto& sample) { outputs.emplace_back(sample); });
  return outputs;
}

/// As `predict`, but by networks drawn from the posterior (`samples` of them, with the `seed` of
/// the options) in place of the linear one: the mean of their probabilities or, of regression, mean
/// and variance of their outputs. `f` has the mean and variances of the outputs; what the options
/// say of link, covariance and memory has no effect. Usually less accurate than `predict`: the
/// posterior is that of the linear network (Immer, Korzepa and Bauer 2021, arXiv 2008.08400).
/// \throws as `for_each_sampled_network`
template <class Model>
Prediction<typename Model::Scalar> predict_by_sampling(
    Model& model, const Laplace<typename Model::Scalar>& posterior,
    const ConstMatrixRef<typename Model::Scalar>& x, const Shape& shape,
    const PredictOptions& options = {}) {
  using S = typename Model::Scalar;
  static constexpr const char* kWhere = "kfac::predict_by_sampling";
  options.validate(kWhere);
  PredictOptions plugin = options;
  plugin.link = Link::Plugin;
  Rng rng(options.seed);
  const bool classifies = posterior.likelihood() == Likelihood::Classification;
  Matrix<double> first, mean, squares, probabilities;
  for_each_sampled_network(
      model, posterior, x, shape, options.samples, rng, [&](const ConstMatrixMap<S>& outputs) {
        const Matrix<double> f = outputs.template cast<double>();
        if (first.size() == 0) {
          first = f;
          mean = squares = probabilities = Matrix<double>::Zero(f.rows(), f.cols());
        }
        // From the first sample, so that a small variance is not lost in large outputs.
        mean += f - first;
        squares += (f - first).cwiseAbs2();
        if (!classifies) return;
        const OutputDistribution<S> certain{outputs, Matrix<S>::Zero(f.rows(), f.cols()), {}, {}};
        probabilities += detail::probabilities_of(kWhere, certain, plugin).template cast<double>();
      });
  const auto count = static_cast<double>(options.samples);
  mean /= count;
  const Matrix<double> variances = (squares / count - mean.cwiseAbs2()).cwiseMax(0.0);
  OutputDistribution<S> f{(first + mean).template cast<S>(), variances.template cast<S>(), {}, {}};
  Prediction<S> prediction;
  if (classifies)
    prediction.probabilities = (probabilities / count).template cast<S>();
  else
    prediction = detail::prediction_of(kWhere, f, posterior, options);
  prediction.f = std::move(f);
  return prediction;
}
template <class Model>
Prediction<typename Model::Scalar> predict_by_sampling(
    Model& model, const Laplace<typename Model::Scalar>& posterior,
    const ConstMatrixRef<typename Model::Scalar>& x, const PredictOptions& options = {}) {
  return predict_by_sampling(model, posterior, x, Shape{x.rows()}, options);
}

}  // namespace kfac
