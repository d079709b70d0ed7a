#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/loss/loss.hpp>
#include <kfac/testing/relative_error.hpp>

namespace kfac::testing {

/// What `check_loss` measured. The first are relative errors, infinite where something is not
/// finite; for outputs of order one a correct loss has all of them below 1e-8 in double, 1e-3 in
/// float. The last compare samples with what they should be distributed like, in standard errors.
struct LossCheck {
  double gradient = 0;            ///< against central differences of `value`
  double reduction = 0;           ///< of value / scale: of a batch, and summed over its examples
  double hessian_product = 0;     ///< against central differences of gradient / scale
  double symmetry = 0;            ///< between an example's Hessian and its transpose
  double negative_curvature = 0;  ///< most negative over largest pivot of an example's Hessian
  double hessian_sqrt = 0;        ///< of the sum of S S^T v, against `hessian_product`

  double sampled_mean = 0;        ///< of `sampled_gradient`, against zero
  double sampled_covariance = 0;  ///< of `sampled_gradient`, against `hessian_product`
  double sample = 0;              ///< distribution of gradients at `sample`, against the sampled

  bool passes(double tolerance, double standard_errors = 5) const {
    return std::ranges::all_of(fields(), [&](const Field& field) {
      return field.error <= (field.statistical ? standard_errors : tolerance);
    });
  }

  /// One line per error.
  std::string report() const {
    std::ostringstream text;
    for (const Field& field : fields())
      text << field.name << ": " << field.error
           << (field.statistical ? " standard errors\n" : "\n");
    return text.str();
  }

 private:
  struct Field {
    const char* name = "";
    double error = 0;
    bool statistical = false;
  };
  std::array<Field, 9> fields() const {
    return {{{"gradient", gradient},
             {"reduction", reduction},
             {"hessian product", hessian_product},
             {"symmetry", symmetry},
             {"negative curvature", negative_curvature},
             {"hessian sqrt", hessian_sqrt},
             {"sampled mean", sampled_mean, true},
             {"sampled covariance", sampled_covariance, true},
             {"sample", sample, true}}};
  }
};

namespace detail {

/// How far the mean of `values` is from `expected`, in standard errors of the mean.
inline double mean_deviation(const std::vector<double>& values, double expected) {
  const auto count = static_cast<double>(values.size());
  const Eigen::Map<const Eigen::ArrayXd> samples(values.data(), static_cast<Index>(values.size()));
  const double mean = samples.mean();
  const double variance = (samples - mean).square().sum() / (count - 1);
  return relative_error(std::abs(mean - expected), std::sqrt(variance / count));
}

/// The largest difference between the distribution functions of two samples of one size
/// (Kolmogorov and Smirnov), in standard errors of that difference at a median. Values closer
/// together than `resolution` are taken to be equal.
inline double distribution_deviation(std::vector<double> a, std::vector<double> b,
                                     double resolution) {
  const auto finite = [](double value) { return std::isfinite(value); };
  if (!std::ranges::all_of(a, finite) || !std::ranges::all_of(b, finite))
    return std::numeric_limits<double>::infinity();
  std::ranges::sort(a);
  std::ranges::sort(b);
  const std::size_t count = a.size();
  double largest = 0;
  for (std::size_t i = 0, j = 0; i < count && j < count;) {
    const double value = std::min(a[i], b[j]) + resolution;
    while (i < count && a[i] <= value) ++i;
    while (j < count && b[j] <= value) ++j;
    largest = std::max(largest, std::abs(static_cast<double>(i) - static_cast<double>(j)));
  }
  return largest * std::sqrt(2 / static_cast<double>(count));
}

/// Runs the checks on one loss, at one batch.
template <Loss L>
class LossBattery {
  using S = typename L::Scalar;
  using Targets = typename L::Targets;

 public:
  LossBattery(const L& loss, Matrix<S> outputs, Targets targets, Rng& rng)
      : loss_(loss),
        outputs_(std::move(outputs)),
        targets_(std::move(targets)),
        scale_(loss.scale(outputs_.rows(), outputs_.cols())),
        rng_(rng),
        direction_(outputs_.rows(), outputs_.cols()) {
    rng.fill_normal(direction_);
  }

  LossCheck run() {
    const Matrix<S> product = hessian_product(direction_);
    LossCheck check;
    check.gradient = relative_error(gradient(outputs_, targets_), gradient_by_differences());
    check.reduction = reduction();
    check.hessian_product = relative_error(product, hessian_product_by_differences());
    check.hessian_sqrt = relative_error(product, hessian_product_by_sqrt());
    examine_hessians(check);
    examine_samples(check, static_cast<double>(direction_.cwiseProduct(product).sum()));
    return check;
  }

 private:
  static constexpr int kSamples = 4000;

  /// What a loss must overwrite starts as NaN.
  Matrix<S> unwritten() const {
    return Matrix<S>::Constant(outputs_.rows(), outputs_.cols(),
                               std::numeric_limits<S>::quiet_NaN());
  }

  Matrix<S> gradient(const Matrix<S>& outputs, const Targets& targets) const {
    Matrix<S> result = unwritten();
    loss_.gradient(outputs, targets, result);
    return result;
  }
  Matrix<S> hessian_product(const Matrix<S>& v) const {
    Matrix<S> result = unwritten();
    loss_.hessian_product(outputs_, v, result);
    return result;
  }

  /// The derivative of f at 0, by central differences of fourth order, with the step that balances
  /// truncation and rounding errors.
  template <class F>
  static auto derivative(F&& f) {
    using Result = decltype(f(S(0)));
    const S h = std::pow(std::numeric_limits<S>::epsilon(), S(0.2));
    return Result((8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h));
  }

  Matrix<S> gradient_by_differences() const {
    Matrix<S> result(outputs_.rows(), outputs_.cols());
    Matrix<S> moved = outputs_;
    for (Index i = 0; i < outputs_.size(); ++i) {
      S& entry = moved.data()[i];
      const S before = entry;
      result.data()[i] = derivative([&](S t) {
        entry = before + t;
        return loss_.value(moved, targets_);
      });
      entry = before;
    }
    return result;
  }

  double reduction() const {
    const Index labels = targets_.size() / outputs_.cols();
    S sum = 0;
    for (Index n = 0; n < outputs_.cols(); ++n) {
      const Matrix<S> output = outputs_.col(n);
      const S scale = loss_.scale(output.rows(), 1);
      if constexpr (Targets::ColsAtCompileTime == 1)
        sum += loss_.value(output, Targets(targets_.segment(n * labels, labels))) / scale;
      else
        sum += loss_.value(output, Targets(targets_.col(n))) / scale;
    }
    const S batch = loss_.value(outputs_, targets_) / scale_;
    return relative_error(static_cast<double>(std::abs(batch - sum)),
                          static_cast<double>(std::max(std::abs(batch), std::abs(sum))));
  }

  Matrix<S> hessian_product_by_differences() const {
    return derivative([&](S t) { return gradient(outputs_ + t * direction_, targets_); }) / scale_;
  }

  Matrix<S> hessian_product_by_sqrt() const {
    Matrix<S> result = Matrix<S>::Zero(outputs_.rows(), outputs_.cols());
    for (Index k = 0; k < loss_.hessian_sqrt_columns(outputs_.rows()); ++k) {
      Matrix<S> column = unwritten();
      loss_.hessian_sqrt(outputs_, k, column);
      for (Index n = 0; n < outputs_.cols(); ++n)
        result.col(n) += column.col(n) * column.col(n).dot(direction_.col(n));
    }
    return result;
  }

  void examine_hessians(LossCheck& check) const {
    const Index size = outputs_.rows();
    std::vector<Eigen::MatrixXd> hessians(static_cast<std::size_t>(outputs_.cols()),
                                          Eigen::MatrixXd(size, size));
    for (Index k = 0; k < size; ++k) {
      Matrix<S> unit = Matrix<S>::Zero(size, outputs_.cols());
      unit.row(k).setOnes();
      const Matrix<S> columns = hessian_product(unit);
      for (Index n = 0; n < outputs_.cols(); ++n)
        hessians[static_cast<std::size_t>(n)].col(k) = columns.col(n).template cast<double>();
    }
    for (const Eigen::MatrixXd& hessian : hessians) {
      check.symmetry = std::max(check.symmetry, relative_error(hessian, hessian.transpose()));
      check.negative_curvature = std::max(check.negative_curvature, negative_curvature(hessian));
    }
  }

  /// By Sylvester's law of inertia a symmetric matrix has as many negative pivots as eigenvalues.
  static double negative_curvature(const Eigen::MatrixXd& hessian) {
    Eigen::MatrixXd symmetric = 0.5 * (hessian + hessian.transpose());
    // A pivot of exactly zero before what rounding left of others, as a null space of several
    // dimensions has, is a failure to Eigen.
    symmetric.diagonal().array() += 1e-13 * symmetric.cwiseAbs().maxCoeff();
    const Eigen::LDLT<Eigen::MatrixXd> factors(symmetric);
    if (!hessian.allFinite() || factors.info() != Eigen::Success)
      return std::numeric_limits<double>::infinity();
    const Eigen::VectorXd pivots = factors.vectorD();
    return relative_error(std::max(0.0, -pivots.minCoeff()), pivots.cwiseAbs().maxCoeff());
  }

  /// For targets from the model's own likelihood, gradients have mean zero and, as covariance, the
  /// Hessian: E[g] = 0 and E[(g . v)^2] = v^T H v = `curvature`.
  void examine_samples(LossCheck& check, double curvature) {
    std::vector<double> sampled, squares, at_samples;
    for (int draw = 0; draw < kSamples; ++draw) {
      Matrix<S> g = unwritten();
      loss_.sampled_gradient(outputs_, rng_, g);
      sampled.push_back(along_direction(g));
      squares.push_back(sampled.back() * sampled.back());
      at_samples.push_back(
          along_direction(gradient(outputs_, loss_.sample(outputs_, rng_)) / scale_));
    }
    check.sampled_mean = mean_deviation(sampled, 0);
    check.sampled_covariance = mean_deviation(squares, curvature);
    const double resolution =
        std::sqrt(static_cast<double>(std::numeric_limits<S>::epsilon()) * curvature);
    check.sample = distribution_deviation(std::move(sampled), std::move(at_samples), resolution);
  }
  double along_direction(const Matrix<S>& g) const {
    return static_cast<double>(direction_.cwiseProduct(g).sum());
  }

  const L& loss_;
  Matrix<S> outputs_;
  Targets targets_;
  S scale_;
  Rng& rng_;
  Matrix<S> direction_;
};

}  // namespace detail

/// Checks that `loss` is what the Loss concept says, at one batch of outputs (of order one, for the
/// differences) and targets: value, gradient, scale, Hessian and sampler against each other.
/// Targets have a column for each example or, if they are a vector, equally many entries for each.
/// \throws what `loss.check(outputs, targets)` throws
template <Loss L>
LossCheck check_loss(const L& loss, const ConstMatrixRef<typename L::Scalar>& outputs,
                     const typename L::TargetsRef& targets, Rng& rng) {
  loss.check(outputs, targets);
  return detail::LossBattery<L>(loss, outputs, targets, rng).run();
}

}  // namespace kfac::testing
