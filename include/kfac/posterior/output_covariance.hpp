#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/output_distribution.hpp>
#include <kfac/posterior/output_gradients.hpp>

/// S = J P^-1 J^T of a network's outputs, J being their Jacobian, which is not formed. For a block
/// with coordinates U_A, U_G in which its rows are independent (Kronecker factors, EKFAC, the
/// diagonal) and which is used once, an example's output c has the gradient u_c v^T there, with
/// u_c = U_G^T g_c and v = U_A^T x: S_cd = sum_k u_kc u_kd m_k, where m = (variances) (v .* v) is
/// one small product for a whole batch.
namespace kfac::detail {

/// The squares or, where the diagonal is not all that is wanted, products of the outputs of each
/// example: into += diag(S_n), `outputs x examples`, or S_n side by side.
template <RealScalar S>
class OutputMoments {
 public:
  OutputMoments(const OutputGradients<S>& gradients, bool diagonal)
      : gradients_(gradients),
        diagonal_(diagonal),
        sum_(Matrix<S>::Zero(outputs(), diagonal ? examples() : outputs() * examples())) {}

  /// A block of rows that are independent in their coordinates.
  void add_rows(const PosteriorBlock<S>& block, const BlockGradients<S>& of) {
    if (of.positions == 1)
      add_used_once(block, of);
    else
      add_shared(block, of);
  }

  /// Adds H^T H for the half root H, `any x outputs`, of example n.
  template <class Half>
  void add_gram(Index n, const Eigen::MatrixBase<Half>& half) {
    if (diagonal_)
      sum_.col(n) += half.cwiseAbs2().colwise().sum().transpose();
    else
      sum_.middleCols(n * outputs(), outputs())
          .template selfadjointView<Eigen::Lower>()
          .rankUpdate(half.transpose());
  }

  /// What has been added.
  Matrix<S> take() {
    if (!diagonal_)
      for (Index n = 0; n < examples(); ++n) {
        auto covariance = sum_.middleCols(n * outputs(), outputs());
        covariance.template triangularView<Eigen::StrictlyUpper>() = covariance.transpose();
      }
    return std::move(sum_);
  }

 private:
  Index outputs() const { return gradients_.outputs(); }
  Index examples() const { return gradients_.examples(); }

  void add_used_once(const PosteriorBlock<S>& block, const BlockGradients<S>& of) {
    const Matrix<S> m = block.row_variances(of.x).cwiseMax(S(0));
    if (of.same && diagonal_) {
      sum_.noalias() += of.g.cwiseAbs2().transpose() * m;
      return;
    }
    if (diagonal_) {
      for (Index n = 0; n < examples(); ++n)
        sum_.col(n).noalias() += of.g_of(n, outputs()).cwiseAbs2().transpose() * m.col(n);
      return;
    }
    const Matrix<S> roots = m.cwiseSqrt();
    Matrix<S> half(of.g.rows(), outputs());
    for (Index n = 0; n < examples(); ++n) {
      half.noalias() = roots.col(n).asDiagonal() * of.g_of(n, outputs());
      add_gram(n, half);
    }
  }

  /// Row k of an example's gradients, `columns x outputs`, at a time.
  void add_shared(const PosteriorBlock<S>& block, const BlockGradients<S>& of) {
    Matrix<S> gradients(of.x.rows(), outputs());
    Matrix<S> row(of.positions, outputs() * examples());
    for (Index k = 0; k < of.g.rows(); ++k) {
      row.reshaped() = of.g.row(k);
      for (Index n = 0; n < examples(); ++n) {
        gradients.noalias() = of.x_of(n) * row.middleCols(n * outputs(), outputs());
        const Matrix<S> covariance = block.row_covariance(k, gradients, gradients);
        if (diagonal_)
          sum_.col(n) += covariance.diagonal();
        else
          sum_.middleCols(n * outputs(), outputs()) += covariance;
      }
    }
  }

  const OutputGradients<S>& gradients_;
  bool diagonal_;
  Matrix<S> sum_;
};

/// Adds the covariance of all outputs of all examples that a block of independent rows makes, lower
/// triangle.
template <RealScalar S>
void add_joint_rows(const PosteriorBlock<S>& block, const BlockGradients<S>& of, Index outputs,
                    Index examples, Matrix<S>& into) {
  Matrix<S> row(of.positions, outputs * examples);
  Matrix<S> gradients(of.positions == 1 ? 0 : of.x.rows(), outputs * examples);
  for (Index k = 0; k < of.g.rows(); ++k) {
    if (of.same)
      row = of.g.row(k).replicate(1, examples);
    else
      row.reshaped() = of.g.row(k);
    if (of.positions > 1) {
      for (Index n = 0; n < examples; ++n)
        gradients.middleCols(n * outputs, outputs).noalias() =
            of.x_of(n) * row.middleCols(n * outputs, outputs);
      into += block.row_covariance(k, gradients, gradients);
      continue;
    }
    const Matrix<S> pairs = block.row_covariance(k, of.x, of.x);
    for (Index m = 0; m < examples; ++m)
      for (Index n = m; n < examples; ++n)
        into.block(n * outputs, m * outputs, outputs, outputs).noalias() +=
            row.middleCols(n * outputs, outputs).transpose() *
            (pairs(n, m) * row.middleCols(m * outputs, outputs));
  }
}

/// Whether a block's covariance is not by rows: then the gradients themselves are formed.
template <RealScalar S>
bool wants_flat(const PosteriorBlock<S>& block) {
  return block.random() && block.form() != PosteriorForm::Rows;
}

/// L^T J_n^T of the blocks that are not by rows, `parameters x outputs`, L L^T the covariance.
template <RealScalar S>
Matrix<S> flat_half(const OutputGradients<S>& gradients, const Laplace<S>& posterior,
                    Index example) {
  const Index outputs = gradients.outputs();
  Matrix<S> half = Matrix<S>::Zero(posterior.parameters(), outputs);
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i) {
    const PosteriorBlock<S>& block = posterior.blocks()[i];
    if (!wants_flat(block)) continue;
    const BlockGradients<S>& of = gradients.blocks()[i];
    const ParameterBlock& shape = block.block();
    for (Index c = 0; c < outputs; ++c)
      MatrixMap<S>(half.col(c).data() + shape.offset, shape.outputs, shape.columns()).noalias() =
          of.g_of(example, outputs).middleCols(c * of.positions, of.positions) *
          of.x_of(example).transpose();
  }
  for (auto column : half.colwise()) posterior.multiply_covariance_sqrt_transposed(column);
  return half;
}

template <RealScalar S>
bool any_flat(const Laplace<S>& posterior) {
  return std::any_of(posterior.blocks().begin(), posterior.blocks().end(),
                     [](const PosteriorBlock<S>& block) { return wants_flat(block); });
}

/// The S_n side by side, or their diagonals.
template <RealScalar S>
Matrix<S> output_covariances(const OutputGradients<S>& gradients, const Laplace<S>& posterior,
                             bool diagonal) {
  OutputMoments<S> moments(gradients, diagonal);
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i)
    if (posterior.blocks()[i].form() == PosteriorForm::Rows)
      moments.add_rows(posterior.blocks()[i], gradients.blocks()[i]);
  if (any_flat(posterior))
    for (Index n = 0; n < gradients.examples(); ++n)
      moments.add_gram(n, flat_half(gradients, posterior, n));
  return moments.take();
}

/// Of all outputs of all examples.
template <RealScalar S>
Matrix<S> joint_output_covariance(const OutputGradients<S>& gradients,
                                  const Laplace<S>& posterior) {
  const Index outputs = gradients.outputs();
  const Index examples = gradients.examples();
  Matrix<S> result = Matrix<S>::Zero(outputs * examples, outputs * examples);
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i)
    if (posterior.blocks()[i].form() == PosteriorForm::Rows)
      add_joint_rows(posterior.blocks()[i], gradients.blocks()[i], outputs, examples, result);
  if (any_flat(posterior)) {
    Matrix<S> halves(posterior.parameters(), outputs * examples);
    for (Index n = 0; n < examples; ++n)
      halves.middleCols(n * outputs, outputs) = flat_half(gradients, posterior, n);
    result.template selfadjointView<Eigen::Lower>().rankUpdate(halves.transpose());
  }
  result.template triangularView<Eigen::StrictlyUpper>() = result.transpose();
  return result;
}

/// All of a distribution that is wanted.
template <RealScalar S>
OutputDistribution<S> distribution_of(const OutputGradients<S>& gradients,
                                      const Laplace<S>& posterior, OutputCovariance wanted) {
  OutputDistribution<S> f{gradients.mean(), {}, {}, {}};
  const Index outputs = f.outputs();
  if (wanted == OutputCovariance::Variances) {
    f.variances = output_covariances(gradients, posterior, true);
    return f;
  }
  f.covariances.resize(outputs, outputs * f.examples());
  if (wanted == OutputCovariance::Joint) {
    f.joint = joint_output_covariance(gradients, posterior);
    for (Index n = 0; n < f.examples(); ++n)
      f.covariances.middleCols(n * outputs, outputs) =
          f.joint.block(n * outputs, n * outputs, outputs, outputs);
  } else {
    f.covariances = output_covariances(gradients, posterior, false);
  }
  f.variances.resize(outputs, f.examples());
  for (Index n = 0; n < f.examples(); ++n)
    f.variances.col(n) = f.covariances.middleCols(n * outputs, outputs).diagonal();
  return f;
}

}  // namespace kfac::detail
