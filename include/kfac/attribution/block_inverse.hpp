#pragma once

#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/attribution/influence_options.hpp>
#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/curvature/example_gradients.hpp>

namespace kfac::detail {

/// (C + damping I)^-1 of a block, C the estimated curvature times a scale: a grid of weights in the
/// eigenbases of two factors (or in none), or dense. Gradients are `outputs x columns`.
template <RealScalar S>
class BlockInverse {
 public:
  /// \throws StateError if the estimate has not what the strategy wants; SingularError; ValueError
  ///         if it is not finite
  BlockInverse(const BlockEstimate<S>& estimate, double scale, const InfluenceOptions& options)
      : block_(estimate.block) {
    const InfluenceStrategy strategy = options.strategy;
    const bool spectral =
        strategy == InfluenceStrategy::Kfac || strategy == InfluenceStrategy::Ekfac;
    if (strategy == InfluenceStrategy::Identity)
      weights_.setOnes(block_.outputs, block_.columns());
    else if (strategy == InfluenceStrategy::Full)
      invert_full(estimate, scale, options);
    else if (spectral && block_.factored)
      invert_spectrum(estimate, scale, options);
    else
      invert_diagonal(estimate, scale, options);
  }

  const ParameterBlock& block() const { return block_; }
  /// Of what is added to the curvature.
  double damping() const { return damping_; }

  /// V <- (C + damping I)^-1 V.
  void solve(Matrix<S>& v) const {
    if (is_dense()) {
      VectorMap<S> flat(v.data(), v.size());
      cholesky_.solveInPlace(flat);
      return;
    }
    if (!has_bases()) {
      v.array() *= weights_.array();
      return;
    }
    Matrix<S> half = output_basis_.transpose() * v;
    v.noalias() = half * input_basis_;
    v.array() *= weights_.array();
    half.noalias() = output_basis_ * v;
    v.noalias() = half * input_basis_.transpose();
  }

  /// Calls `body(n, tau)` for each example n of a batch, in order, with
  /// tau = <P_n, (C + damping I)^-1 Q_n>, where P_n is its gradient made of x and `first`, and Q_n
  /// of x and `second`; null: of `first` too. Where the weights are used once, no P_n is formed.
  template <class Body>
  void quadratic_forms(const SharedBatch<S>& x, const SharedBatch<S>& first,
                       const SharedBatch<S>* second, Body&& body) {
    const Matrix<S>* const in = has_bases() ? &input_basis_ : nullptr;
    const Matrix<S>* const out = has_bases() ? &output_basis_ : nullptr;
    Index begin = 0;
    first_.for_each_block(
        x, first, in, out, [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
          const Index count = inputs.cols() / positions;
          Matrix<S> others;
          if (second) others = rotated(second->examples(begin, count), out);
          const auto both = [&](auto&& values, auto&& other) {
            return second ? values.dot(other) : values.squaredNorm();
          };
          if (positions == 1 && !is_dense()) {
            inputs.array() = inputs.array().square();
            if (second)
              gradients.array() *= others.array();
            else
              gradients.array() = gradients.array().square();
            weighted_.noalias() = weights_ * inputs;
            for (Index n = 0; n < count; ++n)
              body(begin + n, weighted_.col(n).dot(gradients.col(n)));
          } else {
            for (Index n = 0; n < count; ++n) {
              const auto columns = inputs.middleCols(n * positions, positions);
              p_.noalias() = gradients.middleCols(n * positions, positions) * columns.transpose();
              if (second)
                q_.noalias() = others.middleCols(n * positions, positions) * columns.transpose();
              if (is_dense()) {
                half_solve(p_);
                if (second) half_solve(q_);
              } else {
                p_.array() *= roots().array();
                if (second) q_.array() *= roots().array();
              }
              body(begin + n, both(p_.reshaped(), q_.reshaped()));
            }
          }
          begin += count;
        });
  }

 private:
  bool is_dense() const { return weights_.size() == 0; }
  bool has_bases() const { return input_basis_.size() > 0; }

  [[noreturn]] void fail(const char* what, const char* expected) const {
    raise<StateError>(std::string("kfac::Influence: 'estimate' has no ") + what + " of layer '" +
                      block_.name() + "', expected that of " + expected);
  }

  /// Returns whether there is something to invert. (In a layer that is dead, whose curvature and
  /// damping are 0, there is not: gradients are 0 as well.)
  bool choose_damping(double mean, const InfluenceOptions& options) {
    damping_ = options.damping + options.relative_damping * mean;
    if (damping_ == 0 && mean == 0) weights_.setZero(block_.outputs, block_.columns());
    return weights_.size() == 0;
  }
  void check_damped(bool regular) const {
    if (regular) return;
    raise<SingularError>(
        "kfac::Influence: 'damping' is 0 and an eigenvalue is 0, expected damping > 0 (layer '" +
        block_.name() + "')");
  }

  /// Makes the weights of eigenvalues.
  void invert(const Matrix<S>& eigenvalues, double scale, const InfluenceOptions& options) {
    naming_layer(block_.name(), [&] { check_finite("kfac::Influence", "estimate", eigenvalues); });
    const Matrix<double> scaled = scale * eigenvalues.template cast<double>();
    if (!choose_damping(scaled.mean(), options)) return;
    check_damped(scaled.minCoeff() + damping_ > 0);
    weights_ = (scaled.array() + damping_).inverse().template cast<S>();
  }

  void invert_diagonal(const BlockEstimate<S>& estimate, double scale,
                       const InfluenceOptions& options) {
    if (estimate.diagonal.size() == 0)
      fail("diagonal", "estimate_curvature with CurvatureStructure::Diagonal");
    invert(estimate.diagonal, scale, options);
  }

  void invert_spectrum(const BlockEstimate<S>& estimate, double scale,
                       const InfluenceOptions& options) {
    if (!estimate.has_factors())
      fail("factors", "estimate_curvature with CurvatureStructure::Kronecker");
    const bool moments = options.strategy == InfluenceStrategy::Ekfac;
    if (moments && !estimate.has_moments) fail("second moments", "CurvatureStructure::Ekfac");
    linalg::KroneckerEigen<S> made;
    const bool has_bases = !estimate.eigen.empty();
    if (!has_bases && !made.compute(estimate.factors.a, estimate.factors.g))
      raise<ValueError>("kfac::Influence: 'estimate' has a factor that is not finite (layer '" +
                        block_.name() + "')");
    const linalg::KroneckerEigen<S>& eigen = has_bases ? estimate.eigen : made;
    input_basis_ = eigen.input_basis().vectors;
    output_basis_ = eigen.output_basis().vectors;
    if (moments)
      invert(eigen.grid(), scale, options);
    else
      invert(eigen.output_basis().values * eigen.input_basis().values.transpose(), scale, options);
  }

  void invert_full(const BlockEstimate<S>& estimate, double scale,
                   const InfluenceOptions& options) {
    if (estimate.full.size() == 0)
      fail("full block", "estimate_curvature with CurvatureStructure::Full");
    naming_layer(block_.name(),
                 [&] { check_finite("kfac::Influence", "estimate", estimate.full); });
    Matrix<S> matrix = static_cast<S>(scale) * estimate.full;
    if (!choose_damping(static_cast<double>(matrix.diagonal().mean()), options)) return;
    matrix.diagonal().array() += static_cast<S>(damping_);
    cholesky_.compute(matrix);
    check_damped(cholesky_.info() == Eigen::Success &&
                 cholesky_.matrixLLT().diagonal().minCoeff() > 0);
  }

  /// V <- L^-1 V, L L^T = C + damping I.
  void half_solve(Matrix<S>& v) const {
    VectorMap<S> flat(v.data(), v.size());
    cholesky_.matrixL().solveInPlace(flat);
  }
  const Matrix<S>& roots() {
    if (roots_.size() == 0) roots_ = weights_.cwiseSqrt();
    return roots_;
  }
  static Matrix<S> rotated(const SharedBatch<S>& gradients, const Matrix<S>* basis) {
    const Matrix<S> values = gradients.matrix();
    if (!basis) return values;
    return basis->transpose() * values;
  }

  ParameterBlock block_;
  Matrix<S> weights_;  // `outputs x columns`: one over the damped eigenvalues; none if dense
  Matrix<S> input_basis_, output_basis_;
  Eigen::LLT<Matrix<S>> cholesky_;  // of a full block
  double damping_ = 0;
  ExampleGradients<S> first_{block_.bias};
  Matrix<S> weighted_, p_, q_, roots_;  // scratch; the square roots of the weights once wanted
};

}  // namespace kfac::detail
