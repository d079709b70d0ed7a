#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <Eigen/Cholesky>

#include <kfac/linalg/kronecker_term.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac::linalg {

/// Solves \f$ G_1 X A_1 + G_2 X A_2 = C \f$ exactly, in the time of two eigendecompositions and a
/// few products, for symmetric positive semi-definite factors whose
/// \f$ A_1 \otimes G_1 + A_2 \otimes G_2 \f$ is positive definite (either term may be singular):
/// bases in which A_1 and A_2 are both diagonal, and G_1 and G_2 are, make the equation one for
/// each entry of X.
///
///     const kfac::linalg::KroneckerPairSolver<double> solver({a1, g1}, {a2, g2});
///     const Eigen::MatrixXd x = solver.solve(c);  // outputs x inputs
///
/// Each factor is first divided by the mean of its diagonal, so that neither the units of the
/// factors nor those of the terms matter. The work is done in double for either scalar. A solver is
/// not changed by `solve`: threads can share one.
/// \source Golub and Van Loan, Matrix Computations, section 8.7, for the symmetric-definite pencil
template <RealScalar S>
class KroneckerPairSolver {
 public:
  using Scalar = S;

  /// Factorises the terms, of which the lower triangles are read. `damping` times the mean of its
  /// diagonal is added to the diagonal of each of the four factors.
  /// \throws ShapeError; ValueError (not finite); OptionError for damping that is negative or not
  ///         finite; SingularError if the sum is not positive definite to the precision of S
  KroneckerPairSolver(const KroneckerTerm<S>& first, const KroneckerTerm<S>& second,
                      S damping = 0) {
    if (!factorise(first, second, damping))
      raise<SingularError>(std::string(kWhere) +
                           ": the sum of the two terms is singular to working precision, expected "
                           "a positive definite one or damping > 0");
  }
  /// The same, and nothing where the sum is not positive definite to the precision of S: for steps,
  /// in which that is no mistake of the caller. \throws ShapeError, ValueError, OptionError
  static std::optional<KroneckerPairSolver> try_make(const KroneckerTerm<S>& first,
                                                     const KroneckerTerm<S>& second,
                                                     S damping = 0) {
    std::optional<KroneckerPairSolver> solver = KroneckerPairSolver();
    if (!solver->factorise(first, second, damping)) solver.reset();
    return solver;
  }

  Index inputs() const { return input_.vectors.rows(); }
  Index outputs() const { return output_.vectors.rows(); }

  /// X for a right-hand side of `outputs x inputs`. \throws ShapeError
  Matrix<S> solve(const ConstMatrixRef<S>& c) const {
    kfac::detail::check_shape("kfac::linalg::KroneckerPairSolver::solve", "c", c.rows(), c.cols(),
                              outputs(), inputs());
    const Matrix<double> half = output_.vectors.transpose() * c.template cast<double>();
    Matrix<double> x = half * input_.vectors;
    x.array() /= grid_.array();
    const Matrix<double> back = output_.vectors * x;
    return (back * input_.vectors.transpose()).template cast<S>();
  }

  /// log det of the (damped) sum.
  S log_determinant() const {
    return static_cast<S>(grid_.array().log().sum() +
                          static_cast<double>(outputs()) * input_.log_determinant +
                          static_cast<double>(inputs()) * output_.log_determinant);
  }

 private:
  static constexpr const char* kWhere = "kfac::linalg::KroneckerPairSolver";

  KroneckerPairSolver() = default;

  bool factorise(const KroneckerTerm<S>& first, const KroneckerTerm<S>& second, S damping) {
    const std::array<KroneckerTerm<S>, 2> terms{first, second};
    detail::check_terms<S>(kWhere, terms);
    kfac::detail::check_option(damping >= 0 && std::isfinite(damping), kWhere, "damping", damping,
                               ">= 0 and finite");
    std::array<double, 2> weights{};
    std::array<Matrix<double>, 2> a, g;
    for (std::size_t t = 0; t < 2; ++t) {
      weights[t] = normalise(terms[t].a, damping, a[t]) * normalise(terms[t].g, damping, g[t]);
    }
    return diagonalise(a[0], a[1], input_) && diagonalise(g[0], g[1], output_) && combine(weights);
  }

  /// T with T^T M_1 T = diag(share) and T^T (M_1 + M_2) T = I.
  struct Pencil {
    Matrix<double> vectors;
    Vector<double> share;
    Vector<double> other_share;  // 1 - share, the diagonal of T^T M_2 T
    double log_determinant = 0;  // of M_1 + M_2
  };

  /// The damped factor in units of the mean of its diagonal, which is returned; 0 for a zero one.
  static double normalise(const Matrix<S>& factor, S damping, Matrix<double>& normalised) {
    normalised = factor.template cast<double>();
    const double mean = normalised.trace() / static_cast<double>(factor.rows());
    if (!(mean > 0)) return 0;
    normalised /= mean;
    normalised.diagonal().array() += static_cast<double>(damping);
    return mean;
  }

  static bool diagonalise(const Matrix<double>& first, const Matrix<double>& second,
                          Pencil& pencil) {
    const Index size = first.rows();
    const Matrix<double> sum = first + second;
    const Eigen::LLT<Matrix<double>> cholesky(sum);
    if (cholesky.info() != Eigen::Success) return false;
    // What is left of a diagonal entry after the elimination of those before: unlike the pivots
    // themselves, the ratio does not depend on the units of the coordinates.
    const Vector<double> pivots = cholesky.matrixLLT().diagonal();
    const double tolerance = static_cast<double>(size) * kEpsilon;
    if (!(pivots.array().square() > tolerance * sum.diagonal().array()).all()) return false;

    Matrix<double> reduced = first.template selfadjointView<Eigen::Lower>();
    cholesky.matrixL().solveInPlace(reduced);
    cholesky.matrixU().template solveInPlace<Eigen::OnTheRight>(reduced);
    if (!detail::decompose_symmetric(reduced, pencil.vectors, pencil.share)) return false;
    cholesky.matrixU().solveInPlace(pencil.vectors);
    pencil.other_share = 1 - pencil.share.array();
    pencil.log_determinant = 2 * pivots.array().log().sum();
    return true;
  }

  /// The eigenvalues of the sum in the joint bases; false if one is not positive.
  bool combine(const std::array<double, 2>& weights) {
    const auto [first, second] = weights;
    grid_ = first * output_.share * input_.share.transpose() +
            second * output_.other_share * input_.other_share.transpose();
    // The shares are known to kEpsilon, absolutely.
    const double tolerance = static_cast<double>(std::max(inputs(), outputs())) * kEpsilon;
    for (Index j = 0; j < inputs(); ++j)
      for (Index k = 0; k < outputs(); ++k) {
        const double uncertainty =
            first * (std::abs(output_.share(k)) + std::abs(input_.share(j))) +
            second * (std::abs(output_.other_share(k)) + std::abs(input_.other_share(j)));
        if (!(grid_(k, j) > tolerance * uncertainty)) return false;
      }
    return true;
  }

  static constexpr double kEpsilon = static_cast<double>(std::numeric_limits<S>::epsilon());

  Pencil input_, output_;
  Matrix<double> grid_;
};

}  // namespace kfac::linalg
