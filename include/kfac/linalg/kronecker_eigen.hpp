#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac::linalg {

/// The functions f for which f(C) of a symmetric positive semi-definite C is offered.
enum class MatrixFunction { Identity, Inverse, Sqrt, InverseSqrt, Log };

/// f(x).
template <RealScalar S>
S evaluate(MatrixFunction f, S x) {
  switch (f) {
    case MatrixFunction::Identity:
      return x;
    case MatrixFunction::Inverse:
      return S(1) / x;
    case MatrixFunction::Sqrt:
      return std::sqrt(x);
    case MatrixFunction::InverseSqrt:
      return S(1) / std::sqrt(x);
    case MatrixFunction::Log:
      return std::log(x);
  }
  return x;
}

/// \f$ C = U \, \mathrm{diag}(\mathrm{vec}\, E) \, U^T \f$ with \f$ U = U_A \otimes U_G \f$: a
/// matrix that is diagonal in the eigenbases of two factors A and G. E is the outer product of
/// their eigenvalues, which makes C = A (x) G, or any other non-negative grid, such as EKFAC's
/// second moments. C acts on matrices V of `outputs x inputs`, vec stacking their columns, so that
/// (A (x) G) vec V = vec(G V A^T); nothing of size (outputs inputs)^2 is formed but by `dense`.
///
///     kfac::linalg::KroneckerEigen<double> eigen;
///     eigen.compute(a, g);
///     eigen.apply(kfac::linalg::MatrixFunction::InverseSqrt, damping, v);  // (C + damping I)^-1/2
///
/// Const functions keep no state: threads can share an object.
/// \source Martens and Grosse 2015, arXiv 1503.05671, appendix B; George et al. 2018, arXiv
///         1806.03884
template <RealScalar S>
class KroneckerEigen {
 public:
  using Scalar = S;

  KroneckerEigen() = default;

  /// Decomposes A and G, of which the lower triangles are read, and makes the grid the outer
  /// product of their eigenvalues. Returns false, keeping what was there, if one is not finite, or
  /// the grid is not, or the eigensolver does not converge.
  /// \throws ShapeError if one is not square or is empty
  bool compute(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g) {
    detail::check_square("kfac::linalg::KroneckerEigen::compute", "a", a.rows(), a.cols());
    detail::check_square("kfac::linalg::KroneckerEigen::compute", "g", g.rows(), g.cols());
    SymmetricEigen<S> input, output;
    return input.compute(a) && output.compute(g) && adopt(std::move(input), std::move(output));
  }

  /// As `compute`, by `SymmetricEigen::track` from the bases there are, which takes a fraction of
  /// the time where A and G have changed a little; before the first bases it is `compute`.
  /// \throws ShapeError; OptionError unless iterations >= 1
  /// \source Vyas et al. 2024, arXiv 2409.11321
  bool track(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g, Index iterations = 1) {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::track";
    kfac::detail::check_option(iterations >= 1, kWhere, "iterations", iterations, ">= 1");
    if (empty()) return compute(a, g);
    kfac::detail::check_shape(kWhere, "a", a.rows(), a.cols(), inputs(), inputs());
    kfac::detail::check_shape(kWhere, "g", g.rows(), g.cols(), outputs(), outputs());
    SymmetricEigen<S> input = input_;
    SymmetricEigen<S> output = output_;
    return input.track(a, iterations) && output.track(g, iterations) &&
           adopt(std::move(input), std::move(output));
  }

  /// Takes bases that were made before, and eigenvalues in them.
  /// \throws ShapeError; ValueError for an eigenvalue that is negative, or any number not finite
  void assign(SymmetricEigen<S> input, SymmetricEigen<S> output, const ConstMatrixRef<S>& grid) {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::assign";
    for (const SymmetricEigen<S>* basis : {&input, &output}) {
      const char* argument = basis == &input ? "input" : "output";
      detail::check_square(kWhere, argument, basis->vectors.rows(), basis->vectors.cols());
      kfac::detail::check_size(kWhere, argument, basis->values.size(), basis->vectors.cols(),
                               "values");
      kfac::detail::check_finite(kWhere, argument, basis->vectors);
      kfac::detail::check_finite(kWhere, argument, basis->values);
    }
    KroneckerEigen assigned;
    assigned.grid_.resize(output.values.size(), input.values.size());
    assigned.set_grid(grid);
    assigned.input_ = std::move(input);
    assigned.output_ = std::move(output);
    *this = std::move(assigned);
  }

  /// How far the bases are from diagonalizing their factors: the larger of the two
  /// `SymmetricEigen::residual`, 0 after `compute`.
  S residual() const { return std::max(input_.residual, output_.residual); }

  bool empty() const { return grid_.size() == 0; }
  /// The size of A, the columns of V.
  Index inputs() const { return grid_.cols(); }
  /// The size of G, the rows of V.
  Index outputs() const { return grid_.rows(); }
  /// The size of C, the entries of V.
  Index size() const { return grid_.size(); }
  const SymmetricEigen<S>& input_basis() const { return input_; }
  const SymmetricEigen<S>& output_basis() const { return output_; }

  /// The eigenvalues E, `outputs x inputs`: entry (k, j) belongs to the k-th eigenvector of G and
  /// the j-th of A.
  const Matrix<S>& grid() const { return grid_; }
  /// Replaces the eigenvalues in the bases there are.
  /// \throws StateError before `compute`; ShapeError; ValueError for one that is negative or not
  ///         finite
  void set_grid(const ConstMatrixRef<S>& grid) {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::set_grid";
    check(kWhere, "grid", grid.rows(), grid.cols());
    kfac::detail::check_finite(kWhere, "grid", grid);
    const S smallest = grid.minCoeff();
    if (smallest < 0)
      raise<ValueError>(std::string(kWhere) + ": 'grid' has an entry " +
                        kfac::detail::text(smallest) + ", expected eigenvalues >= 0");
    grid_ = grid;
    smallest_ = smallest;
  }

  /// V <- U_G^T V U_A, the coordinates of V in the eigenbasis. Allocates nothing once `scratch` is
  /// large enough, nor do the other functions that take one.
  /// \throws StateError before `compute`; ShapeError. So do all that follow.
  void to_basis(MatrixRef<S> v, Buffer<S>& scratch) const {
    check("kfac::linalg::KroneckerEigen::to_basis", "v", v.rows(), v.cols());
    rotate_to(v, scratch);
  }
  void to_basis(MatrixRef<S> v) const {
    Buffer<S> scratch;
    to_basis(v, scratch);
  }

  /// V <- U_G V U_A^T, back from the coordinates.
  void from_basis(MatrixRef<S> v, Buffer<S>& scratch) const {
    check("kfac::linalg::KroneckerEigen::from_basis", "v", v.rows(), v.cols());
    rotate_from(v, scratch);
  }
  void from_basis(MatrixRef<S> v) const {
    Buffer<S> scratch;
    from_basis(v, scratch);
  }

  /// V <- f(C + damping I) V.
  /// \throws OptionError for damping that is negative or not finite; SingularError for an f without
  ///         a value at 0 if damping and an eigenvalue are 0
  void apply(MatrixFunction f, S damping, MatrixRef<S> v, Buffer<S>& scratch) const {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::apply";
    check(kWhere, "v", v.rows(), v.cols());
    check_damping(kWhere, f, damping);
    rotate_to(v, scratch);
    scale(f, damping, v);
    rotate_from(v, scratch);
  }
  void apply(MatrixFunction f, S damping, MatrixRef<S> v) const {
    Buffer<S> scratch;
    apply(f, damping, v, scratch);
  }

  S trace() const { return static_cast<S>(grid_.template cast<double>().sum()); }

  /// log det(C + damping I); minus infinity if that is singular. \throws OptionError as `apply`
  S log_determinant(S damping) const {
    check_damping("kfac::linalg::KroneckerEigen::log_determinant", MatrixFunction::Identity,
                  damping);
    const auto shift = static_cast<double>(damping);
    return static_cast<S>((grid_.template cast<double>().array() + shift).log().sum());
  }

  S frobenius_norm() const { return static_cast<S>(grid_.template cast<double>().norm()); }

  /// All eigenvalues of C, ascending.
  Vector<S> eigenvalues() const {
    Vector<S> values = grid_.reshaped();
    std::sort(values.data(), values.data() + values.size());
    return values;
  }

  /// The diagonal of C as a matrix of V's shape, in two small products.
  Matrix<S> diagonal() const {
    const Matrix<S> half = output_.vectors.cwiseAbs2() * grid_;
    return half * input_.vectors.cwiseAbs2().transpose();
  }

  /// C itself, for small sizes and tests.
  Matrix<S> dense() const {
    const Matrix<S> basis = kronecker_product<S>(input_.vectors, output_.vectors);
    const Matrix<S> scaled = basis * grid_.reshaped().asDiagonal();
    return scaled * basis.transpose();
  }

  /// vec(V)^T f(C + damping I) vec(V). \throws OptionError, SingularError as `apply`
  S quadratic_form(MatrixFunction f, S damping, const ConstMatrixRef<S>& v) const {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::quadratic_form";
    check(kWhere, "v", v.rows(), v.cols());
    check_damping(kWhere, f, damping);
    Buffer<S> scratch;
    Matrix<S> coordinates = v;
    rotate_to(coordinates, scratch);
    Matrix<S> scaled = coordinates;
    scale(f, damping, scaled);
    return coordinates.cwiseProduct(scaled).sum();
  }

  /// The quadratic forms of the rank-one matrices V_n = g_n x_n^T, the per-example gradients of a
  /// linear map used once: x_n and g_n are the columns of `inputs` (`inputs() x examples`) and
  /// `gradients` (`outputs() x examples`). No V_n is formed. \throws as `quadratic_form`
  Vector<S> quadratic_forms(MatrixFunction f, S damping, const ConstMatrixRef<S>& inputs,
                            const ConstMatrixRef<S>& gradients) const {
    static constexpr const char* kWhere = "kfac::linalg::KroneckerEigen::quadratic_forms";
    check_examples(kWhere, inputs, gradients);
    check_damping(kWhere, f, damping);
    const Matrix<S> input_squares = (input_.vectors.transpose() * inputs).cwiseAbs2();
    const Matrix<S> output_squares = (output_.vectors.transpose() * gradients).cwiseAbs2();
    Matrix<S> weights = Matrix<S>::Ones(outputs(), this->inputs());
    scale(f, damping, weights);
    const Matrix<S> weighted = weights * input_squares;
    return weighted.cwiseProduct(output_squares).colwise().sum().transpose();
  }

  /// The sum over n of the squared coordinates of V_n = g_n x_n^T, `outputs x inputs`, arguments as
  /// for `quadratic_forms`: the grid that is nearest to sum_n vec(V_n) vec(V_n)^T in these bases.
  /// \throws StateError, ShapeError
  Matrix<S> second_moments(const ConstMatrixRef<S>& inputs,
                           const ConstMatrixRef<S>& gradients) const {
    check_examples("kfac::linalg::KroneckerEigen::second_moments", inputs, gradients);
    const Matrix<S> input_squares = (input_.vectors.transpose() * inputs).cwiseAbs2();
    const Matrix<S> output_squares = (output_.vectors.transpose() * gradients).cwiseAbs2();
    return output_squares * input_squares.transpose();
  }

  /// Of factors A of size `inputs` and G of size `outputs`, or of none yet.
  void visit_state(StateVisitor& visitor, Index inputs, Index outputs) {
    visitor.under("input/", [&] { input_.visit_state(visitor, inputs); });
    visitor.under("output/", [&] { output_.visit_state(visitor, outputs); });
    visitor.visit_optional("grid", grid_, outputs, inputs);
    visitor.visit("smallest", smallest_);
  }

 private:
  bool adopt(SymmetricEigen<S> input, SymmetricEigen<S> output) {
    Matrix<S> grid = output.values * input.values.transpose();
    if (!grid.allFinite()) return false;
    input_ = std::move(input);
    output_ = std::move(output);
    grid_ = std::move(grid);
    smallest_ = grid_.minCoeff();
    return true;
  }

  void check(const char* where, const char* argument, Index rows, Index columns) const {
    if (empty())
      raise<StateError>(std::string(where) + ": no eigenbases yet, expected compute before it");
    kfac::detail::check_shape(where, argument, rows, columns, outputs(), inputs());
  }

  void check_examples(const char* where, const ConstMatrixRef<S>& inputs,
                      const ConstMatrixRef<S>& gradients) const {
    check(where, "grid", outputs(), this->inputs());
    kfac::detail::check_size(where, "inputs", inputs.rows(), this->inputs(), "rows");
    kfac::detail::check_shape(where, "gradients", gradients.rows(), gradients.cols(), outputs(),
                              inputs.cols());
  }

  void check_damping(const char* where, MatrixFunction f, S damping) const {
    kfac::detail::check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
                               ">= 0 and finite");
    const bool defined_at_zero = f == MatrixFunction::Identity || f == MatrixFunction::Sqrt;
    if (!defined_at_zero && !(smallest_ + damping > 0))
      raise<SingularError>(std::string(where) +
                           ": 'damping' is 0 and an eigenvalue is 0, expected damping > 0");
  }

  void rotate_to(MatrixRef<S> v, Buffer<S>& scratch) const {
    MatrixMap<S> half = scratch.map(v.rows(), v.cols());
    half.noalias() = output_.vectors.transpose() * v;
    v.noalias() = half * input_.vectors;
  }

  void rotate_from(MatrixRef<S> v, Buffer<S>& scratch) const {
    MatrixMap<S> half = scratch.map(v.rows(), v.cols());
    half.noalias() = output_.vectors * v;
    v.noalias() = half * input_.vectors.transpose();
  }

  /// Multiplies coordinates by f of their damped eigenvalues; the choice of f is outside the loops,
  /// which then vectorise.
  void scale(MatrixFunction f, S damping, MatrixRef<S> v) const {
    switch (f) {
      case MatrixFunction::Identity:
        v.array() *= grid_.array() + damping;
        return;
      case MatrixFunction::Inverse:
        v.array() /= grid_.array() + damping;
        return;
      case MatrixFunction::Sqrt:
        v.array() *= (grid_.array() + damping).sqrt();
        return;
      case MatrixFunction::InverseSqrt:
        v.array() /= (grid_.array() + damping).sqrt();
        return;
      case MatrixFunction::Log:
        v.array() *= (grid_.array() + damping).log();
        return;
    }
  }

  SymmetricEigen<S> input_, output_;
  Matrix<S> grid_;
  S smallest_ = 0;  // of the grid
};

}  // namespace kfac::linalg
