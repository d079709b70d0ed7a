#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

#include <Eigen/Cholesky>

#include <kfac/core/random.hpp>
#include <kfac/loss/softmax.hpp>
#include <kfac/posterior/output_distribution.hpp>

namespace kfac {

/// How probabilities of classes are made of normally distributed logits f ~ N(m, S).
enum class Link {
  /// softmax(m / sqrt(1 + pi/8 diag S)): needs the variances alone.
  /// \source MacKay 1992, The evidence framework applied to classification networks; Gibbs 1997
  Probit,
  /// The mean of softmax(m + L e) over standard normal e, where L L^T = S.
  MonteCarlo,
  /// The mean of the Dirichlet distribution whose Laplace approximation in the logits that is.
  /// \source Hobbhahn, Kristiadi and Hennig 2022, arXiv 2003.01227
  Bridge,
  /// The same of logits that are scaled so that their mean variance is sqrt(classes / 2).
  NormalizedBridge,
  /// softmax(m): what the network itself says.
  Plugin,
};

namespace detail {

/// L with L L^T = S, for S positive semi-definite.
inline Matrix<double> semidefinite_root(const Matrix<double>& s) {
  const Eigen::LDLT<Matrix<double>> ldlt(s);
  Matrix<double> root = ldlt.matrixL();
  root *= ldlt.vectorD().cwiseMax(0.0).cwiseSqrt().asDiagonal();
  return ldlt.transpositionsP().transpose() * root;
}

inline double sigmoid(double f) {
  return f >= 0 ? 1 / (1 + std::exp(-f)) : std::exp(f) / (1 + std::exp(f));
}

template <RealScalar S>
void check_distribution(const char* where, const OutputDistribution<S>& f) {
  check_shape(where, "variances", f.variances.rows(), f.variances.cols(), f.outputs(),
              f.examples());
  if (f.covariances.size() > 0)
    check_shape(where, "covariances", f.covariances.rows(), f.covariances.cols(), f.outputs(),
                f.outputs() * f.examples());
  check_finite(where, "mean", f.mean);
  check_finite(where, "variances", f.variances);
  check_finite(where, "covariances", f.covariances);
  if (f.variances.size() > 0 && f.variances.minCoeff() < 0)
    raise<ValueError>(std::string(where) + ": 'variances' has an entry " +
                      text(f.variances.minCoeff()) + ", expected >= 0");
}

}  // namespace detail

/// Standard normal numbers for the Monte-Carlo links, `outputs x samples`, the second half of them
/// the first with the other sign, which makes odd moments exact. All examples share them: what is
/// predicted for one depends neither on the batch it comes in nor on its place there, and scores
/// are smooth functions of what they are tuned over.
inline Matrix<double> link_draws(Index outputs, Index samples, std::uint64_t seed) {
  Rng rng(seed);
  Matrix<double> draws(outputs, samples);
  Eigen::Ref<Matrix<double>> drawn = draws.leftCols((samples + 1) / 2);
  rng.fill_normal(drawn);
  draws.rightCols(samples / 2) = -draws.leftCols(samples / 2);
  return draws;
}

// Probabilities, `outputs x examples`, which sum to 1 in each column.
// \throws ShapeError; ValueError for what is not finite, or a negative variance

template <RealScalar S>
Matrix<S> probit_probabilities(const OutputDistribution<S>& f) {
  detail::check_distribution("kfac::probit_probabilities", f);
  constexpr S kFactor = std::numbers::pi_v<S> / S(8);
  return softmax((f.mean.array() / (S(1) + kFactor * f.variances.array()).sqrt()).matrix());
}

/// `draws` are `outputs x samples`, as of `link_draws`. Where only variances are known the outputs
/// are drawn independently.
template <RealScalar S>
Matrix<S> monte_carlo_probabilities(const OutputDistribution<S>& f, const Matrix<double>& draws) {
  static constexpr const char* kWhere = "kfac::monte_carlo_probabilities";
  detail::check_distribution(kWhere, f);
  detail::check_size(kWhere, "draws", draws.rows(), f.outputs(), "rows");
  if (draws.cols() == 0)
    raise<ShapeError>(std::string(kWhere) + ": 'draws' has 0 samples, expected at least 1");
  Matrix<S> result(f.outputs(), f.examples());
  Matrix<double> sampled(draws.rows(), draws.cols());
  for (Index n = 0; n < f.examples(); ++n) {
    if (f.covariances.size() == 0)
      sampled = f.variances.col(n).template cast<double>().cwiseSqrt().asDiagonal() * draws;
    else
      sampled.noalias() =
          detail::semidefinite_root(f.covariance(n).template cast<double>()) * draws;
    sampled.colwise() += f.mean.col(n).template cast<double>();
    // The largest of all: no exponential overflows, and few are lost.
    const Vector<double> largest = sampled.colwise().maxCoeff().transpose();
    sampled.rowwise() -= largest.transpose();
    sampled = sampled.array().exp();
    const Vector<double> weights = sampled.colwise().sum().cwiseInverse().transpose();
    result.col(n) = (sampled * weights / static_cast<double>(draws.cols())).template cast<S>();
  }
  return result;
}

/// With m and S projected so that the logits sum to 0, `alpha_k = (1 - 2/C + exp(m_k) / C^2 sum_j
/// exp(-m_j)) / S_kk`, of which the shares are the probabilities.
/// \throws also ShapeError for fewer than 2 outputs; ValueError where S leaves no variance after
///         the projection
template <RealScalar S>
Matrix<S> bridge_probabilities(const OutputDistribution<S>& f, bool normalized = false) {
  static constexpr const char* kWhere = "kfac::bridge_probabilities";
  detail::check_distribution(kWhere, f);
  if (f.outputs() < 2)
    raise<ShapeError>(std::string(kWhere) + ": 'mean' has " + std::to_string(f.outputs()) +
                      " outputs, expected at least 2");
  const auto classes = static_cast<double>(f.outputs());
  Matrix<S> result(f.outputs(), f.examples());
  for (Index n = 0; n < f.examples(); ++n) {
    const Matrix<double> s = f.covariance(n).template cast<double>();
    const Vector<double> sums = s.rowwise().sum();
    const double total = sums.sum();
    Vector<double> mean = f.mean.col(n).template cast<double>();
    mean -= sums * (mean.sum() / total);
    Vector<double> variances = s.diagonal() - sums.cwiseAbs2() / total;
    if (!(total > 0) || !(variances.minCoeff() > 0))
      raise<ValueError>(std::string(kWhere) + ": 'covariances' is singular at example " +
                        std::to_string(n) + ", expected positive definite");
    if (normalized) {
      const double scale = variances.mean() / std::sqrt(classes / 2);
      mean /= std::sqrt(scale);
      variances /= scale;
    }
    // exp(m_k) sum_j exp(-m_j), as a sum of what may be large but does not overflow early.
    const double lowest = mean.minCoeff();
    const double inverse_sum = (lowest - mean.array()).exp().sum();
    Eigen::ArrayXd alpha = (mean.array() - lowest).exp() * inverse_sum / (classes * classes);
    alpha = (alpha + 1 - 2 / classes) / variances.array();
    result.col(n) = (alpha / alpha.sum()).matrix().template cast<S>();
  }
  return result;
}

// Of outputs that are independent Bernoulli variables each (`BinaryCrossEntropy`): the probability
// of 1, `outputs x examples`. \throws likewise

/// sigmoid(m / sqrt(1 + pi/8 s^2))
template <RealScalar S>
Matrix<S> sigmoid_probit_probabilities(const OutputDistribution<S>& f) {
  detail::check_distribution("kfac::sigmoid_probit_probabilities", f);
  constexpr S kFactor = std::numbers::pi_v<S> / S(8);
  const Matrix<S> scaled = f.mean.array() / (S(1) + kFactor * f.variances.array()).sqrt();
  return scaled.unaryExpr(
      [](S z) { return static_cast<S>(detail::sigmoid(static_cast<double>(z))); });
}

/// The mean of sigmoid(m + s e) over `draws` of each output.
template <RealScalar S>
Matrix<S> sigmoid_monte_carlo_probabilities(const OutputDistribution<S>& f,
                                            const Matrix<double>& draws) {
  static constexpr const char* kWhere = "kfac::sigmoid_monte_carlo_probabilities";
  detail::check_distribution(kWhere, f);
  detail::check_size(kWhere, "draws", draws.rows(), f.outputs(), "rows");
  if (draws.cols() == 0)
    raise<ShapeError>(std::string(kWhere) + ": 'draws' has 0 samples, expected at least 1");
  Matrix<S> result(f.outputs(), f.examples());
  for (Index n = 0; n < f.examples(); ++n)
    for (Index k = 0; k < f.outputs(); ++k) {
      const auto mean = static_cast<double>(f.mean(k, n));
      const double deviation = std::sqrt(static_cast<double>(f.variances(k, n)));
      double sum = 0;
      for (Index i = 0; i < draws.cols(); ++i)
        sum += detail::sigmoid(mean + deviation * draws(k, i));
      result(k, n) = static_cast<S>(sum / static_cast<double>(draws.cols()));
    }
  return result;
}

}  // namespace kfac
