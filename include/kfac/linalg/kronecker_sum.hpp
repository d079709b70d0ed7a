#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/linalg/kronecker.hpp>
#include <kfac/linalg/kronecker_eigen.hpp>
#include <kfac/linalg/kronecker_term.hpp>
#include <kfac/linalg/krylov.hpp>

namespace kfac::linalg {

/// The operator \f$ X \mapsto M \odot \sum_t G_t (M \odot X) A_t^T \f$ on matrices of `outputs x
/// inputs`: a sum of Kronecker products, on the entries that a mask M of zeros and ones leaves. A
/// `LinearOperator` on vec X, the columns of X stacked. Const functions keep no state.
template <RealScalar S>
class KroneckerSum {
 public:
  using Scalar = S;

  /// Without a mask all entries are free.
  /// \throws ShapeError; ValueError (not finite)
  explicit KroneckerSum(std::vector<KroneckerTerm<S>> terms)
      : terms_((detail::check_terms<S>("kfac::linalg::KroneckerSum", terms), std::move(terms))) {}
  /// \throws also ValueError for a mask with other entries than 0 and 1
  KroneckerSum(std::vector<KroneckerTerm<S>> terms, Matrix<S> mask)
      : KroneckerSum(std::move(terms)) {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerSum";
    kfac::detail::check_shape(kWhere, "mask", mask.rows(), mask.cols(), outputs(), inputs());
    for (const S entry : mask.reshaped())
      if (entry != S(0) && entry != S(1))
        raise<ValueError>(std::string(kWhere) + ": 'mask' has an entry " +
                          kfac::detail::text(entry) + ", expected 0 or 1");
    mask_ = std::move(mask);
  }

  Index inputs() const { return terms_[0].inputs(); }
  Index outputs() const { return terms_[0].outputs(); }
  Index rows() const { return inputs() * outputs(); }
  Index cols() const { return rows(); }
  const std::vector<KroneckerTerm<S>>& terms() const { return terms_; }

  /// Sets the entries of a matrix of `outputs x inputs` that are not free to zero.
  void apply_mask(MatrixRef<S> x) const {
    if (mask_.size() > 0) x.array() *= mask_.array();
  }

  /// The product with X. \throws ShapeError
  Matrix<S> product(const ConstMatrixRef<S>& x) const {
    kfac::detail::check_shape("kfac::linalg::KroneckerSum::product", "x", x.rows(), x.cols(),
                              outputs(), inputs());
    Matrix<S> free = x;
    apply_mask(free);
    Matrix<S> result = Matrix<S>::Zero(outputs(), inputs());
    Matrix<S> half(outputs(), inputs());
    for (const KroneckerTerm<S>& term : terms_) {
      half.noalias() = term.g * free;
      result.noalias() += half * term.a.transpose();
    }
    apply_mask(result);
    return result;
  }

  /// The product with vec X, or with several as the columns of a matrix. \throws ShapeError
  template <class Derived>
  Eigen::Matrix<S, Eigen::Dynamic, Derived::ColsAtCompileTime> operator*(
      const Eigen::MatrixBase<Derived>& columns) const {
    kfac::detail::check_size("kfac::linalg::KroneckerSum::operator*", "columns", columns.rows(),
                             cols(), "rows");
    Eigen::Matrix<S, Eigen::Dynamic, Derived::ColsAtCompileTime> result = columns;
    for (Index j = 0; j < result.cols(); ++j) {
      MatrixMap<S> x(result.col(j).data(), outputs(), inputs());
      x = product(x);
    }
    return result;
  }

  /// The diagonal as a matrix of `outputs x inputs`.
  Matrix<S> diagonal() const {
    Matrix<S> result = Matrix<S>::Zero(outputs(), inputs());
    for (const KroneckerTerm<S>& term : terms_)
      result += term.g.diagonal() * term.a.diagonal().transpose();
    apply_mask(result);
    return result;
  }

  /// The operator as a matrix, for small sizes and tests.
  Matrix<S> dense() const {
    Matrix<S> result = Matrix<S>::Zero(rows(), cols());
    for (const KroneckerTerm<S>& term : terms_) result += kronecker_product<S>(term.a, term.g);
    if (mask_.size() > 0)
      result = mask_.reshaped().asDiagonal() * result * mask_.reshaped().asDiagonal();
    return result;
  }

 private:
  std::vector<KroneckerTerm<S>> terms_;
  Matrix<S> mask_;  // empty: all ones
};

/// How the equations of a `KroneckerSum` are preconditioned.
enum class KroneckerSumPreconditioner {
  None,
  /// By the diagonal. Best if a mask leaves about half of the entries or fewer.
  Diagonal,
  /// By the matrix that is diagonal in the eigenbases of sum_t A_t and sum_t G_t, the terms in
  /// units of their traces, and has the diagonal of the sum there. Exact for one term without a
  /// mask; far fewer iterations than `Diagonal` where the bases of the terms are alike.
  Kronecker,
};

template <RealScalar S>
struct KroneckerSumOptions {
  S damping = 0;                ///< a multiple of the identity to add to the sum, >= 0 and finite
  S tolerance = S(1e-6);        ///< on the residual's norm over the right-hand side's, >= 0
  Index max_iterations = 1000;  ///< >= 0
  KroneckerSumPreconditioner preconditioner = KroneckerSumPreconditioner::Kronecker;
  Matrix<S> initial = {};  ///< where to start, `outputs x inputs`; empty: zero
};

template <RealScalar S>
struct KroneckerSumSolution {
  Matrix<S> x;
  KrylovStatus status = KrylovStatus::Converged;
  Index iterations = 0;
  S relative_residual = 0;  ///< of x itself
};

namespace detail {

/// The eigenbasis of `KroneckerSumPreconditioner::Kronecker`; false if the terms are not positive
/// semi-definite.
template <RealScalar S>
bool joint_basis(const KroneckerSum<S>& sum, S damping, KroneckerEigen<S>& eigen) {
  Matrix<S> a = Matrix<S>::Zero(sum.inputs(), sum.inputs());
  Matrix<S> g = Matrix<S>::Zero(sum.outputs(), sum.outputs());
  S largest = 0;
  for (const KroneckerTerm<S>& term : sum.terms())
    largest = std::max(largest, std::sqrt(term.a.trace()) * std::sqrt(term.g.trace()));
  for (const KroneckerTerm<S>& term : sum.terms()) {
    const S a_root = std::sqrt(term.a.trace());
    const S g_root = std::sqrt(term.g.trace());
    if (a_root == 0 || g_root == 0) continue;
    // Both factors get the root of the term's size.
    a += (g_root / largest / a_root) * term.a;
    g += (a_root / largest / g_root) * term.g;
  }
  if (!eigen.compute(a, g)) return false;

  const Matrix<S>& a_vectors = eigen.input_basis().vectors;
  const Matrix<S>& g_vectors = eigen.output_basis().vectors;
  Matrix<S> grid = Matrix<S>::Zero(sum.outputs(), sum.inputs());
  for (const KroneckerTerm<S>& term : sum.terms()) {
    const Matrix<S> a_half = term.a * a_vectors;
    const Matrix<S> g_half = term.g * g_vectors;
    grid += g_vectors.cwiseProduct(g_half).colwise().sum().transpose() *
            a_vectors.cwiseProduct(a_half).colwise().sum();
  }
  if (!grid.allFinite()) return false;
  // Where all terms are singular there is nothing but round-off, which is not to be amplified.
  const S top = grid.maxCoeff();
  const S round_off = static_cast<S>(sum.inputs() + sum.outputs()) *
                      std::numeric_limits<S>::epsilon() * std::max(top, S(0));
  for (S& value : grid.reshaped())
    value = value + damping > round_off ? std::max(value, S(0)) : (top > 0 ? top : S(1));
  eigen.set_grid(grid);
  return true;
}

}  // namespace detail

/// Solves \f$ M \odot \sum_t G_t X A_t^T + \lambda X = M \odot C \f$ for X that is zero where the
/// mask is, by preconditioned conjugate gradients; the factors are to be symmetric positive
/// semi-definite.
///
///     const kfac::linalg::KroneckerSum<double> sum({{a1, g1}, {a2, g2}, {a3, g3}});
///     const auto solution = kfac::linalg::solve_kronecker_sum<double>(sum, c);
///     // solution.x, .status, .iterations, .relative_residual
///
/// Of a singular sum without damping, a consistent equation is solved. Two terms without a mask and
/// damping are solved exactly by `KroneckerPairSolver`.
/// \throws OptionError; ShapeError; ValueError (C or the start is not finite). Numbers that go
///         wrong on the way are the solution's status: `Indefinite` for terms that are not
///         semi-definite.
template <RealScalar S>
KroneckerSumSolution<S> solve_kronecker_sum(const KroneckerSum<S>& sum, const ConstMatrixRef<S>& c,
                                            const KroneckerSumOptions<S>& options = {}) {
  static constexpr const char* kWhere = "kfac::linalg::solve_kronecker_sum";
  const Index outputs = sum.outputs();
  const Index inputs = sum.inputs();
  KrylovOptions<S> krylov{.tolerance = options.tolerance,
                          .max_iterations = options.max_iterations,
                          .damping = options.damping};
  krylov.validate(kWhere);
  kfac::detail::check_shape(kWhere, "c", c.rows(), c.cols(), outputs, inputs);
  kfac::detail::check_finite(kWhere, "c", c);
  Matrix<S> start = Matrix<S>::Zero(outputs, inputs);
  if (options.initial.size() > 0) {
    kfac::detail::check_shape(kWhere, "initial", options.initial.rows(), options.initial.cols(),
                              outputs, inputs);
    kfac::detail::check_finite(kWhere, "initial", options.initial);
    start = options.initial;
    sum.apply_mask(start);
    krylov.initial = start.reshaped();
  }
  Matrix<S> right = c;
  sum.apply_mask(right);
  const Vector<S> b = right.reshaped();

  const auto solve = [&](auto&& preconditioner) {
    KrylovResult<S> result = conjugate_gradients(sum, b, krylov, preconditioner);
    return KroneckerSumSolution<S>{result.x.reshaped(outputs, inputs), result.status,
                                   result.iterations, result.relative_residual};
  };
  switch (options.preconditioner) {
    case KroneckerSumPreconditioner::None:
      break;
    case KroneckerSumPreconditioner::Diagonal: {
      Vector<S> diagonal = sum.diagonal().reshaped();
      diagonal.array() += options.damping;
      // A zero on the diagonal of a semi-definite matrix is a zero row: any scale does.
      diagonal = (diagonal.array() == S(0)).select(S(1), diagonal);
      return solve([&](Vector<S>& v) { v.array() /= diagonal.array(); });
    }
    case KroneckerSumPreconditioner::Kronecker: {
      KroneckerEigen<S> eigen;
      if (!detail::joint_basis(sum, options.damping, eigen)) {
        const Matrix<S> residual = right - sum.product(start) - options.damping * start;
        return {start, KrylovStatus::Indefinite, 0, residual.norm() / right.norm()};
      }
      Buffer<S> scratch;
      return solve([&](Vector<S>& v) {
        MatrixMap<S> x(v.data(), outputs, inputs);
        eigen.apply(MatrixFunction::Inverse, options.damping, x, scratch);
        sum.apply_mask(x);
      });
    }
  }
  return solve(NoPreconditioner{});
}

}  // namespace kfac::linalg
