#pragma once

#include <algorithm>
#include <cmath>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

/// Sums over the examples of a batch of what is made of each example's own gradient
/// P_n = sum_s g_ns x_ns^T, `outputs x columns`, where s runs over the positions that share the
/// weights and x has a 1 appended if there is a bias. No matrix is kept for every example; where
/// the weights are used once, none is formed at all, since P_n has rank one.
template <RealScalar S>
class ExampleGradients {
 public:
  explicit ExampleGradients(bool bias) : bias_(bias) {}

  /// into += weight * sum_n (U_G^T P_n U_A)^2, entry by entry, `outputs x columns`; a null basis is
  /// the identity.
  void add_squares(const SharedBatch<S>& x, const SharedBatch<S>& g, S weight,
                   const Matrix<S>* input_basis, const Matrix<S>* output_basis, Matrix<S>& into) {
    for_each_block(x, g, input_basis, output_basis,
                   [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
                     if (positions == 1) {
                       inputs.array() = inputs.array().square();
                       gradients.array() = gradients.array().square();
                       into.noalias() += weight * gradients * inputs.transpose();
                       return;
                     }
                     for_each_gradient(inputs, gradients, positions, [&](const MatrixMap<S>& p) {
                       into.array() += weight * p.array().square();
                     });
                   });
  }

  /// The lower triangle of into += weight * sum_n P_n^T M P_n, `columns x columns`, M positive
  /// semi-definite; null is the identity.
  void add_input_moments(const SharedBatch<S>& x, const SharedBatch<S>& g, S weight,
                         const Matrix<S>* m, MatrixRef<S> into) {
    for_each_block(
        x, g, nullptr, nullptr, [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
          if (positions == 1) return add_weighted(inputs, gradients, m, weight, into);
          for_each_gradient(inputs, gradients, positions, [&](const MatrixMap<S>& p) {
            if (!m) return add_gram(p.transpose(), weight, into);
            MatrixMap<S> half = product_.map(p.rows(), p.cols());
            half.noalias() = *m * p;
            into.template triangularView<Eigen::Lower>() += weight * (p.transpose() * half);
          });
        });
  }

  /// The lower triangle of into += weight * sum_n P_n M P_n^T, `outputs x outputs`, M likewise.
  void add_output_moments(const SharedBatch<S>& x, const SharedBatch<S>& g, S weight,
                          const Matrix<S>* m, MatrixRef<S> into) {
    for_each_block(
        x, g, nullptr, nullptr, [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
          if (positions == 1) return add_weighted(gradients, inputs, m, weight, into);
          for_each_gradient(inputs, gradients, positions, [&](const MatrixMap<S>& p) {
            if (!m) return add_gram(p, weight, into);
            MatrixMap<S> half = product_.map(p.rows(), p.cols());
            half.noalias() = p * *m;
            into.template triangularView<Eigen::Lower>() += weight * (half * p.transpose());
          });
        });
  }

  /// The lower triangle of into += weight * sum_n vec(P_n) vec(P_n)^T.
  void add_outer_products(const SharedBatch<S>& x, const SharedBatch<S>& g, S weight,
                          MatrixRef<S> into) {
    for_each_block(x, g, nullptr, nullptr,
                   [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
                     const Index examples = inputs.cols() / positions;
                     MatrixMap<S> all = product_.map(into.rows(), examples);
                     Index n = 0;
                     for_each_gradient(inputs, gradients, positions, [&](const MatrixMap<S>& p) {
                       all.col(n++) = ConstVectorMap<S>(p.data(), p.size());
                     });
                     into.template selfadjointView<Eigen::Lower>().rankUpdate(all, weight);
                   });
  }

  /// Calls `body(inputs, gradients, positions)` with copies that may be written, `columns x
  /// (positions * examples)` and `outputs x ...`, in the given bases (null: as they are), a bounded
  /// number of examples at a time, in order.
  template <class Body>
  void for_each_block(const SharedBatch<S>& x, const SharedBatch<S>& g,
                      const Matrix<S>* input_basis, const Matrix<S>* output_basis, Body&& body) {
    constexpr Index kColumns = 1024;  // enough for the products to be efficient
    x.for_each_block([&](const SharedBatch<S>& block, Index first) {
      const Index step = std::max<Index>(kColumns / block.positions(), 1);
      for (Index begin = 0; begin < block.batch(); begin += step) {
        const Index count = std::min(step, block.batch() - begin);
        const MatrixMap<S> inputs =
            in_basis(block.examples(begin, count), bias_, input_basis, inputs_);
        const MatrixMap<S> gradients =
            in_basis(g.examples(first + begin, count), false, output_basis, gradients_);
        body(inputs, gradients, block.positions());
      }
    });
  }

  /// Calls `body` with each P_n of such copies in turn.
  template <class Body>
  void for_each_gradient(const MatrixMap<S>& inputs, const MatrixMap<S>& gradients, Index positions,
                         Body&& body) {
    MatrixMap<S> p = gradient_.map(gradients.rows(), inputs.rows());
    for (Index column = 0; column < inputs.cols(); column += positions) {
      p.noalias() = gradients.middleCols(column, positions) *
                    inputs.middleCols(column, positions).transpose();
      body(p);
    }
  }

 private:
  static MatrixMap<S> in_basis(const SharedBatch<S>& batch, bool bias, const Matrix<S>* basis,
                               Buffer<S>& copy) {
    const Index features = batch.features();
    MatrixMap<S> result = copy.map(features + (bias ? 1 : 0), batch.columns());
    batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
      block.visit([&](const auto& values) {
        auto into = result.middleCols(first * batch.positions(), values.cols());
        if (basis) {
          into.noalias() = basis->topRows(features).transpose() * values;
          if (bias) into.colwise() += basis->row(features).transpose();
        } else {
          into.topRows(features) = values;
          if (bias) into.row(features).setOnes();
        }
      });
    });
    return result;
  }

  /// into += weight * P P^T.
  template <class Gradient>
  static void add_gram(const Gradient& p, S weight, MatrixRef<S> into) {
    into.template selfadjointView<Eigen::Lower>().rankUpdate(p, weight);
  }

  /// into += weight * sum_n (b_n^T M b_n) a_n a_n^T, for columns a_n and b_n.
  void add_weighted(MatrixMap<S> a, const MatrixMap<S>& b, const Matrix<S>* m, S weight,
                    MatrixRef<S> into) {
    if (m) {
      MatrixMap<S> product = product_.map(b.rows(), b.cols());
      product.noalias() = *m * b;
      for (Index n = 0; n < a.cols(); ++n)
        a.col(n) *= std::sqrt(std::max(product.col(n).dot(b.col(n)), S(0)));
    } else {
      for (Index n = 0; n < a.cols(); ++n) a.col(n) *= b.col(n).norm();
    }
    into.template selfadjointView<Eigen::Lower>().rankUpdate(a, weight);
  }

  bool bias_;
  Buffer<S> inputs_, gradients_, gradient_, product_;
};

}  // namespace kfac
