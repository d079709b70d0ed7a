#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <kfac/posterior/links.hpp>
#include <kfac/posterior/predictive_memory.hpp>

namespace kfac {

/// What the outputs of a network for classification are the logits of.
enum class Classes {
  Exclusive,    ///< one class of several: `SoftmaxCrossEntropy`
  Independent,  ///< yes or no, each by itself: `BinaryCrossEntropy`
};

struct PredictOptions {
  /// Of classification. With the evidence's prior precision `Probit` or `MonteCarlo`; whichever it
  /// is, tune what is tuned on held-out data with the link that predicts.
  Link link = Link::Probit;
  Classes outputs = Classes::Exclusive;  ///< likewise; independent ones take no bridge
  /// How many of the outputs are one position's, as in `CrossEntropyOptions`; >= 0. 0: all.
  Index classes = 0;
  Index samples = 200;     ///< of the Monte-Carlo link, for each example; >= 1
  std::uint64_t seed = 0;  ///< of those: with the same seed they are the same
  /// Of the outputs f. `Variances` is all that `Probit` and regression use, and the cheapest; of
  /// other links it makes outputs independent.
  OutputCovariance covariance = OutputCovariance::PerExample;
  /// Of regression: whether `Prediction::variances` are those of observations, which contain
  /// sigma^2, or of the function alone.
  bool observation_noise = true;
  /// Bytes that may be taken at once, > 0. A large batch goes through in pieces that fit (with the
  /// same results, unless the covariance is joint); where nothing fits, a MemoryError.
  double memory_limit = std::numeric_limits<double>::infinity();

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(classes >= 0, where, "classes", classes, ">= 0");
    detail::check_option(samples >= 1, where, "samples", samples, ">= 1");
    detail::check_option(memory_limit > 0, where, "memory_limit", memory_limit, "> 0");
    if (outputs == Classes::Independent && (link == Link::Bridge || link == Link::NormalizedBridge))
      raise<OptionError>(std::string(where) +
                         ": 'link' is a bridge, expected another for independent classes");
  }
};

/// What is predicted for a batch.
template <RealScalar S>
struct Prediction {
  OutputDistribution<S> f;  ///< the network's outputs, without noise
  /// Of classification: of the classes (`Exclusive`, each position's sum to 1) or of 1
  /// (`Independent`), `outputs x examples`. Empty for regression, whose mean is `f.mean`.
  Matrix<S> probabilities;
  /// Of regression: of observations, or of f where the options say so, `outputs x examples`.
  Matrix<S> variances;
};

namespace detail {

/// The probabilities of outputs that are so distributed. The options are valid.
template <RealScalar S>
Matrix<S> probabilities_of(const char* where, const OutputDistribution<S>& f,
                           const PredictOptions& options) {
  if (options.outputs == Classes::Independent) {
    switch (options.link) {
      case Link::MonteCarlo:
        return sigmoid_monte_carlo_probabilities(
            f, link_draws(f.outputs(), options.samples, options.seed));
      case Link::Plugin:
        return f.mean.array().logistic();
      default:
        return sigmoid_probit_probabilities(f);
    }
  }
  const OutputDistribution<S> positions = by_position(where, f, options.classes);
  const Matrix<S> probabilities = [&]() -> Matrix<S> {
    switch (options.link) {
      case Link::MonteCarlo:
        return monte_carlo_probabilities(
            positions, link_draws(positions.outputs(), options.samples, options.seed));
      case Link::Bridge:
        return bridge_probabilities(positions);
      case Link::NormalizedBridge:
        return bridge_probabilities(positions, true);
      case Link::Plugin:
        return softmax(positions.mean);
      case Link::Probit:
        break;
    }
    return probit_probabilities(positions);
  }();
  return probabilities.reshaped(f.outputs(), f.examples());
}

/// What is predicted of outputs that are so distributed.
template <RealScalar S>
Prediction<S> prediction_of(const char* where, OutputDistribution<S> f, const Laplace<S>& posterior,
                            const PredictOptions& options) {
  Prediction<S> prediction;
  if (posterior.likelihood() == Likelihood::Classification) {
    prediction.probabilities = probabilities_of(where, f, options);
  } else {
    const S noise = posterior.observation_noise();
    prediction.variances = f.variances;
    if (options.observation_noise) prediction.variances.array() += noise * noise;
  }
  prediction.f = std::move(f);
  return prediction;
}

}  // namespace detail

/// The distribution of a network's outputs under a posterior of its parameters, the network being
/// taken as linear in them around their mean: f ~ N(f(x, mean), J P^-1 J^T). No Jacobian is formed:
/// one forward pass and a backward pass for each output (none if only the last layer is random),
/// and memory of outputs times the layers' widths. `x` is `features x examples`, `shape` that of
/// one example, `{features}` where it is not given. The network's parameters must be the
/// posterior's mean; it is evaluated without dropout. \throws StateError if the network has other
/// parameters; ShapeError if the posterior is of
///         another network, or as `forward`; ValueError as that; OptionError; MemoryError
/// \source MacKay, The evidence framework applied to classification networks, 1992; Immer, Korzepa
///         and Bauer 2021, arXiv 2008.08400
template <class Model, class S = typename Model::Scalar>
OutputDistribution<S> output_distribution(
    Model& model, const Laplace<typename Model::Scalar>& posterior,
    const ConstMatrixRef<typename Model::Scalar>& x, const Shape& shape,
    OutputCovariance covariance = OutputCovariance::PerExample,
    double memory_limit = std::numeric_limits<double>::infinity()) {
  static constexpr const char* kWhere = "kfac::output_distribution";
  detail::check_posterior(kWhere, model, posterior);
  if (x.cols() == 0)
    raise<ShapeError>(std::string(kWhere) + ": 'x' has 0 examples, expected at least 1");
  BlockPasses<Model> passes(model);
  const Index piece = detail::predictive_piece(kWhere, passes, posterior, shape, x.cols(),
                                               covariance, memory_limit);
  OutputDistribution<S> all;
  for (Index first = 0; first < x.cols(); first += piece) {
    const Index count = std::min(piece, x.cols() - first);
    OutputDistribution<S> part = detail::distribution_of(
        detail::OutputGradients<S>(passes, posterior, x.middleCols(first, count), shape), posterior,
        covariance);
    if (count == x.cols()) return part;
    if (first == 0) {
      all.mean.resize(part.outputs(), x.cols());
      all.variances.resize(part.outputs(), x.cols());
      all.covariances.resize(part.covariances.rows(),
                             part.covariances.size() == 0 ? 0 : part.outputs() * x.cols());
    }
    all.mean.middleCols(first, count) = part.mean;
    all.variances.middleCols(first, count) = part.variances;
    if (part.covariances.size() > 0)
      all.covariances.middleCols(first * part.outputs(), count * part.outputs()) = part.covariances;
  }
  return all;
}

/// What a network and a posterior of its parameters predict:
///
///     const auto prediction = kfac::predict(model, posterior, x, {.link =
///     kfac::Link::MonteCarlo}); prediction.probabilities;  // classes x examples
///
/// \throws as `output_distribution`
template <class Model>
Prediction<typename Model::Scalar> predict(Model& model,
                                           const Laplace<typename Model::Scalar>& posterior,
                                           const ConstMatrixRef<typename Model::Scalar>& x,
                                           const Shape& shape, const PredictOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::predict";
  options.validate(kWhere);
  return detail::prediction_of(
      kWhere,
      output_distribution(model, posterior, x, shape, options.covariance, options.memory_limit),
      posterior, options);
}
template <class Model>
Prediction<typename Model::Scalar> predict(Model& model,
                                           const Laplace<typename Model::Scalar>& posterior,
                                           const ConstMatrixRef<typename Model::Scalar>& x,
                                           const PredictOptions& options = {}) {
  return predict(model, posterior, x, Shape{x.rows()}, options);
}

}  // namespace kfac
