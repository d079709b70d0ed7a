#pragma once

#include <cmath>
#include <string>

#include <kfac/core/errors.hpp>
#include <kfac/core/random.hpp>
#include <kfac/core/types.hpp>

namespace kfac {

/// A damped block C of a curvature matrix, symmetric positive (semi-)definite, as a linear map of
/// gradients V of [W b], `rows x columns`: what Laplace, influence functions and solvers are made
/// of, whatever the block's kind. Products are in place. The damping is added as C + damping I,
/// unless the kind says otherwise.
///
///     const auto c = block.matrix(1e-3);
///     c->solve(v);                  // v <- C^-1 v
///     c->log_determinant();
///     c->sample_inverse(rng);       // from N(0, C^-1)
template <RealScalar S>
class CurvatureMatrix {
 public:
  using Scalar = S;

  CurvatureMatrix() = default;
  virtual ~CurvatureMatrix() = default;

  virtual Index rows() const = 0;
  virtual Index columns() const = 0;
  Index size() const { return rows() * columns(); }

  /// V <- C V. All of these throw ShapeError if V is not `rows x columns`.
  void multiply(MatrixRef<S> v) const {
    check("multiply", v);
    do_multiply(v);
  }
  /// V <- C^-1 V. \throws SingularError if C is singular to working precision
  void solve(MatrixRef<S> v) const {
    check_regular("solve");
    check("solve", v);
    do_solve(v);
  }
  /// V <- R V, where R R^T = C. (R is symmetric in an eigenbasis, triangular with Cholesky.)
  void multiply_sqrt(MatrixRef<S> v) const {
    check("multiply_sqrt", v);
    do_multiply_sqrt(v);
  }
  /// V <- R V, where R R^T = C^-1. \throws SingularError likewise
  void multiply_inverse_sqrt(MatrixRef<S> v) const {
    check_regular("multiply_inverse_sqrt");
    check("multiply_inverse_sqrt", v);
    do_multiply_inverse_sqrt(v);
  }
  /// The natural logarithm of C's determinant. \throws SingularError likewise
  S log_determinant() const {
    check_regular("log_determinant");
    return do_log_determinant();
  }
  virtual S trace() const = 0;
  /// `rows x columns`: C's diagonal where V's entries are.
  virtual Matrix<S> diagonal() const = 0;
  /// `size x size`, where V is stacked by columns: for small blocks and tests.
  virtual Matrix<S> dense() const {
    Matrix<S> result(size(), size());
    for (Index j = 0; j < size(); ++j) {
      Matrix<S> unit = Matrix<S>::Zero(rows(), columns());
      unit.data()[j] = 1;
      do_multiply(unit);
      result.col(j) = unit.reshaped();
    }
    return result;
  }
  /// Whether C has no inverse in working precision.
  virtual bool singular() const = 0;

  /// From N(0, C).
  Matrix<S> sample(Rng& rng) const {
    Matrix<S> v(rows(), columns());
    rng.fill_normal(v);
    do_multiply_sqrt(v);
    return v;
  }
  /// From N(0, C^-1), as a posterior. \throws SingularError likewise
  Matrix<S> sample_inverse(Rng& rng) const {
    check_regular("sample_inverse");
    Matrix<S> v(rows(), columns());
    rng.fill_normal(v);
    do_multiply_inverse_sqrt(v);
    return v;
  }

 protected:
  CurvatureMatrix(const CurvatureMatrix&) = default;
  CurvatureMatrix& operator=(const CurvatureMatrix&) = default;

 private:
  virtual void do_multiply(MatrixRef<S> v) const = 0;
  virtual void do_solve(MatrixRef<S> v) const = 0;
  virtual void do_multiply_sqrt(MatrixRef<S> v) const = 0;
  virtual void do_multiply_inverse_sqrt(MatrixRef<S> v) const = 0;
  virtual S do_log_determinant() const = 0;

  void check(const char* function, const MatrixRef<S>& v) const {
    if (v.rows() == rows() && v.cols() == columns()) return;
    const std::string where = std::string("kfac::CurvatureMatrix::") + function;
    detail::check_shape(where.c_str(), "v", v.rows(), v.cols(), rows(), columns());
  }
  void check_regular(const char* function) const {
    if (singular())
      raise<SingularError>(std::string("kfac::CurvatureMatrix::") + function +
                           ": the block is singular, expected damping > 0");
  }
};

}  // namespace kfac
