#pragma once

#include <algorithm>
#include <string>

#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/parameter_block.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac::detail {

/// The preconditioned gradients Q_q of some queries in one block, `outputs x columns` each: as they
/// are or, with a rank below both sizes, as L_q R_q^T of that rank, the nearest such matrix.
template <RealScalar S>
class QueryGradients {
 public:
  /// With room for so many. \pre capacity >= 1; rank >= 0, where 0 is full rank
  QueryGradients(const ParameterBlock& block, Index rank, Index capacity)
      : name_(block.name()),
        outputs_(block.outputs),
        columns_(block.columns()),
        rank_(is_low_rank(block, rank) ? rank : 0),
        examples_(block.bias) {
    if (rank_ > 0) {
      left_.resize(outputs_, rank_ * capacity);
      right_.resize(columns_, rank_ * capacity);
    } else {
      right_.resize(columns_, outputs_ * capacity);
    }
  }

  /// Numbers that one query takes.
  static double entries(const ParameterBlock& block, Index rank) {
    return static_cast<double>(is_low_rank(block, rank) ? rank * (block.outputs + block.columns())
                                                        : block.size());
  }

  Index count() const { return count_; }
  void clear() { count_ = 0; }

  /// Takes one more. \pre there is room
  void add(const Matrix<S>& q) {
    const Index n = count_++;
    if (rank_ == 0) {
      right_.middleCols(n * outputs_, outputs_) = q.transpose();
      return;
    }
    MatrixRef<S> left = left_.middleCols(n * rank_, rank_);
    MatrixRef<S> right = right_.middleCols(n * rank_, rank_);
    // Its projection onto the leading singular vectors of the shorter side.
    const bool wide = outputs_ <= columns_;
    const Matrix<S> gram = wide ? Matrix<S>(q * q.transpose()) : Matrix<S>(q.transpose() * q);
    linalg::SymmetricEigen<S> eigen;
    if (!eigen.compute(gram))
      raise<ValueError>(
          "kfac::Influence: 'queries' has a gradient whose square is not finite, expected finite "
          "numbers (layer '" +
          name_ + "')");
    if (wide) {
      left = eigen.vectors.rightCols(rank_);
      right.noalias() = q.transpose() * left;
    } else {
      right = eigen.vectors.rightCols(rank_);
      left.noalias() = q * right;
    }
  }

  /// scores(q, n) += <Q_q, P_n> for the examples of a batch, P_n = sum_s g_ns x_ns^T. Where the
  /// weights are used once, or of low rank, no P_n is formed.
  void add_scores(const SharedBatch<S>& x, const SharedBatch<S>& g, MatrixRef<S> scores) {
    Index first = 0;
    examples_.for_each_block(x, g, nullptr, nullptr,
                             [&](MatrixMap<S> inputs, MatrixMap<S> gradients, Index positions) {
                               const Index count = inputs.cols() / positions;
                               MatrixRef<S> part = scores.middleCols(first, count);
                               if (rank_ > 0)
                                 add_low_rank_scores(inputs, gradients, positions, part);
                               else if (positions == 1)
                                 add_products(inputs, gradients, part);
                               else
                                 add_inner_products(inputs, gradients, positions, part);
                               first += count;
                             });
  }

  /// scores(q) += <Q_q, P>.
  void add_scores(const Matrix<S>& p, VectorRef<S> scores) const {
    if (rank_ == 0) {
      const Matrix<S> transposed = p.transpose();
      scores.noalias() += stacked().transpose() * transposed.reshaped();
      return;
    }
    const Index used = rank_ * count_;
    const Matrix<S> products = p * right_.leftCols(used);
    const Vector<S> sums = products.cwiseProduct(left_.leftCols(used)).colwise().sum();
    scores += sums.reshaped(rank_, count_).colwise().sum().transpose();
  }

 private:
  static constexpr Index kEntries = 1 << 20;  // of scratch at once

  static bool is_low_rank(const ParameterBlock& block, Index rank) {
    return rank > 0 && rank < std::min(block.outputs, block.columns());
  }

  /// Each query's matrix, transposed and stacked, in a column.
  ConstMatrixMap<S> stacked() const { return {right_.data(), outputs_ * columns_, count_}; }

  /// Calls `body(query, count)` for some queries at a time, such that there is scratch for `rows`
  /// numbers a query.
  template <class Body>
  void for_some_queries(Index rows, Body&& body) const {
    const Index step = std::max<Index>(kEntries / std::max<Index>(rows, 1), 1);
    for (Index query = 0; query < count_; query += step)
      body(query, std::min(step, count_ - query));
  }

  /// g_n^T (Q_q x_n), for all q and n: a product, and a sum over the outputs.
  void add_products(const MatrixMap<S>& inputs, const MatrixMap<S>& gradients,
                    MatrixRef<S> scores) {
    for_some_queries(outputs_ * inputs.cols(), [&](Index query, Index count) {
      MatrixMap<S> products = first_.map(outputs_ * count, inputs.cols());
      products.noalias() =
          right_.middleCols(outputs_ * query, outputs_ * count).transpose() * inputs;
      for (Index q = 0; q < count; ++q)
        scores.row(query + q) +=
            products.middleRows(outputs_ * q, outputs_).cwiseProduct(gradients).colwise().sum();
    });
  }

  /// sum_s (L_q^T g_ns)^T (R_q^T x_ns): two products, and a sum over the ranks.
  void add_low_rank_scores(const MatrixMap<S>& inputs, const MatrixMap<S>& gradients,
                           Index positions, MatrixRef<S> scores) {
    const Index all = inputs.cols();
    for_some_queries(rank_ * all, [&](Index query, Index count) {
      MatrixMap<S> products = first_.map(rank_ * count, all);
      MatrixMap<S> others = second_.map(rank_ * count, all);
      products.noalias() = left_.middleCols(rank_ * query, rank_ * count).transpose() * gradients;
      others.noalias() = right_.middleCols(rank_ * query, rank_ * count).transpose() * inputs;
      products.array() *= others.array();
      for (Index q = 0; q < count; ++q)
        for (Index n = 0; n < scores.cols(); ++n)
          scores(query + q, n) += products.block(rank_ * q, n * positions, rank_, positions).sum();
    });
  }

  /// Of P_n that are formed, some at a time.
  void add_inner_products(const MatrixMap<S>& inputs, const MatrixMap<S>& gradients,
                          Index positions, MatrixRef<S> scores) {
    const Index size = outputs_ * columns_;
    const Index step = std::max<Index>(kEntries / size, 1);
    for (Index first = 0; first < scores.cols(); first += step) {
      const Index count = std::min(step, scores.cols() - first);
      MatrixMap<S> formed = first_.map(size, count);
      for (Index n = 0; n < count; ++n)
        MatrixMap<S>(formed.col(n).data(), columns_, outputs_).noalias() =
            inputs.middleCols((first + n) * positions, positions) *
            gradients.middleCols((first + n) * positions, positions).transpose();
      scores.middleCols(first, count).noalias() += stacked().transpose() * formed;
    }
  }

  std::string name_;  // of the block
  Index outputs_, columns_, rank_, count_ = 0;
  /// `outputs x (rank * queries)`, and `columns x (rank * queries)` or, of full rank, `columns x
  /// (outputs * queries)`.
  Matrix<S> left_, right_;
  ExampleGradients<S> examples_;
  Buffer<S> first_, second_;
};

}  // namespace kfac::detail
