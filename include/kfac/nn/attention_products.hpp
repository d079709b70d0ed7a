#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/core/parallel.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac::detail {

/// Which tokens of an attention's input are real: `tokens x examples`, one example after another.
/// Null: all of them.
struct RealTokens {
  const bool* data = nullptr;
  Index tokens = 0;

  /// Those of one example from a token on; null: all are real.
  const bool* of(Index example, Index first_token) const {
    return data ? data + example * tokens + first_token : nullptr;
  }
};

/// Where the queries, keys and values of a batch are, and what attention makes of them: each
/// `(heads * size) x (tokens * examples)`. It may hold their gradients or tangents as well.
template <RealScalar S>
struct AttentionData {
  S* queries;
  S* keys;
  S* values;
  S* context;
};

/// Scaled dot-product attention of every head in every example: with Q `size x queries`, K and V
/// `size x keys`,
///
///     P = softmax(K^T Q / sqrt(size)) over the keys,   context = V P,
///
/// and its derivatives, of which the weights P (`keys x queries` a head and example, one after
/// another) are the state. What P leaves out (padding, what is to come) is 0 in it, and so takes
/// no part in any other pass. Large batches are shared by threads, head by head.
/// \source Vaswani et al., Attention is all you need, 2017, section 3.2
template <RealScalar S>
class AttentionProducts {
  using Columns = Eigen::Map<Matrix<S>, 0, Eigen::OuterStride<>>;
  using Data = AttentionData<S>;

 public:
  AttentionProducts(Index features, Index heads, Index queries, Index keys, Index examples)
      : features_(features),
        heads_(heads),
        size_(features / heads),
        queries_(queries),
        keys_(keys),
        examples_(examples),
        scale_(S(1) / std::sqrt(static_cast<S>(size_))) {}

  /// How many numbers all weights are.
  Index weight_count() const { return keys_ * queries_ * heads_ * examples_; }

  /// Writes the weights and the context. Query i of an example is its token i, key j the token
  /// `first_key + j`. A query that is padding or has no key has weights 0.
  void forward(const Data& at, const RealTokens& real, Index first_key, bool causal,
               S* weights) const {
    for_each_head([&](Index example, Index head) {
      MatrixMap<S> p = weights_of(weights, example, head);
      const Columns q = queries(at.queries, example, head);
      linalg::multiply(keys(at.keys, example, head).transpose(), q, p);
      const bool* real_queries = real.of(example, 0);
      const bool* real_keys = real.of(example, first_key);
      for (Index i = 0; i < queries_; ++i) {
        if (real_queries && !real_queries[i])
          p.col(i).setZero();
        else
          softmax(p.col(i).data(), causal ? std::min(i + 1, keys_) : keys_, real_keys);
      }
      linalg::multiply(keys(at.values, example, head), p, queries(at.context, example, head));
    });
  }

  /// Writes the gradients of queries, keys and values, given that of the context. `flow` is as
  /// large as the weights; its contents are lost.
  void backward(const Data& at, S* weights, const Data& gradient, S* flow) const {
    for_each_head([&](Index example, Index head) {
      const MatrixMap<S> p = weights_of(weights, example, head);
      MatrixMap<S> d = weights_of(flow, example, head);
      pull_back_values(at, p, gradient, d, example, head);
      apply_softmax_jacobian(p, d);
      pull_back_scores(at, d, gradient, example, head);
    });
  }

  /// Writes the tangent of the context, and that of the weights, given those of queries, keys and
  /// values.
  void tangent(const Data& at, S* weights, const Data& direction, S* weights_tangent) const {
    for_each_head([&](Index example, Index head) {
      const MatrixMap<S> p = weights_of(weights, example, head);
      MatrixMap<S> t = weights_of(weights_tangent, example, head);
      linalg::multiply(keys(direction.keys, example, head).transpose(),
                       queries(at.queries, example, head), t);
      linalg::multiply_add(S(1), keys(at.keys, example, head).transpose(),
                           queries(direction.queries, example, head), t);
      apply_softmax_jacobian(p, t);
      Columns c = queries(direction.context, example, head);
      linalg::multiply(keys(direction.values, example, head), p, c);
      linalg::multiply_add(S(1), keys(at.values, example, head), t, c);
    });
  }

  /// After `tangent`: writes the gradients of queries, keys and values, and how they change along
  /// the direction and that of the context's gradient.
  void backward_tangent(const Data& at, S* weights, const Data& direction, S* weights_tangent,
                        const Data& gradient, const Data& gradient_tangent, S* flow,
                        S* flow_tangent) const {
    for_each_head([&](Index example, Index head) {
      const MatrixMap<S> p = weights_of(weights, example, head);
      const MatrixMap<S> t = weights_of(weights_tangent, example, head);
      MatrixMap<S> d = weights_of(flow, example, head);
      MatrixMap<S> e = weights_of(flow_tangent, example, head);
      const Columns g = queries(gradient.context, example, head);

      pull_back_values(at, p, gradient, d, example, head);
      pull_back_values(at, p, gradient_tangent, e, example, head);
      linalg::multiply_add(S(1), g, t.transpose(), keys(gradient_tangent.values, example, head));
      linalg::multiply_add(S(1), keys(direction.values, example, head).transpose(), g, e);
      apply_softmax_jacobian_tangent(p, t, d, e);
      pull_back_scores(at, d, gradient, example, head);
      pull_back_scores(at, e, gradient_tangent, example, head);
      linalg::multiply_add(S(1), keys(direction.keys, example, head), d,
                           queries(gradient_tangent.queries, example, head));
      linalg::multiply_add(S(1), queries(direction.queries, example, head), d.transpose(),
                           keys(gradient_tangent.keys, example, head));
    });
  }

 private:
  // Below so many multiply-adds a product a batch is done before another thread has woken up.
  static constexpr double kParallel = 1e6;

  template <class Body>
  void for_each_head(Body&& body) const {
    const Index count = heads_ * examples_;
    const auto one = [&](Index i) { body(i / heads_, i % heads_); };
    if (static_cast<double>(weight_count()) * static_cast<double>(size_) >= kParallel)
      return parallel_for(count, one);
    for (Index i = 0; i < count; ++i) one(i);
  }

  Columns queries(S* data, Index example, Index head) const {
    return part(data, queries_, example, head);
  }
  Columns keys(S* data, Index example, Index head) const {
    return part(data, keys_, example, head);
  }
  Columns part(S* data, Index tokens, Index example, Index head) const {
    return {data + example * tokens * features_ + head * size_, size_, tokens,
            Eigen::OuterStride<>(features_)};
  }
  MatrixMap<S> weights_of(S* weights, Index example, Index head) const {
    return {weights + (example * heads_ + head) * keys_ * queries_, keys_, queries_};
  }

  /// Of `count` scores, those of real keys; the others, and all after them, become 0.
  void softmax(S* scores, Index count, const bool* real) const {
    VectorMap<S> p(scores, keys_);
    p.tail(keys_ - count).setZero();
    S largest = -std::numeric_limits<S>::infinity();
    if (real) {
      for (Index j = 0; j < count; ++j)
        if (real[j]) largest = std::max(largest, p[j]);
      if (largest == -std::numeric_limits<S>::infinity()) return p.setZero(), void();
      for (Index j = 0; j < count; ++j)
        if (!real[j]) p[j] = largest;  // so that nothing overflows
    } else {
      largest = p.head(count).maxCoeff();
    }
    p.head(count) = (scale_ * (p.head(count).array() - largest)).exp();
    if (real)
      for (Index j = 0; j < count; ++j)
        if (!real[j]) p[j] = S(0);
    p.head(count) /= p.head(count).sum();
  }

  /// Of each column: the gradient of the weights becomes that of the products of keys and queries,
  /// and the tangent of those products that of the weights.
  void apply_softmax_jacobian(const MatrixMap<S>& p, MatrixMap<S>& d) const {
    for (Index i = 0; i < queries_; ++i) {
      const S mean = p.col(i).dot(d.col(i));
      d.col(i).array() = scale_ * p.col(i).array() * (d.col(i).array() - mean);
    }
  }
  /// The same with d, and with e how what becomes of d changes when p changes along t and d along
  /// e.
  void apply_softmax_jacobian_tangent(const MatrixMap<S>& p, const MatrixMap<S>& t, MatrixMap<S>& d,
                                      MatrixMap<S>& e) const {
    for (Index i = 0; i < queries_; ++i) {
      d.col(i).array() -= p.col(i).dot(d.col(i));
      e.col(i) = t.col(i).cwiseProduct(d.col(i)) + p.col(i).cwiseProduct(e.col(i));
      const S mean = e.col(i).sum();
      e.col(i) = scale_ * (e.col(i) - mean * p.col(i));
      d.col(i).array() *= scale_ * p.col(i).array();
    }
  }

  /// The gradients of the values and of the weights, given that of the context.
  void pull_back_values(const Data& at, const MatrixMap<S>& p, const Data& gradient,
                        MatrixMap<S>& weights_gradient, Index example, Index head) const {
    const Columns g = queries(gradient.context, example, head);
    linalg::multiply(g, p.transpose(), keys(gradient.values, example, head));
    linalg::multiply(keys(at.values, example, head).transpose(), g, weights_gradient);
  }
  /// The gradients of queries and keys, given that of their products.
  void pull_back_scores(const Data& at, const MatrixMap<S>& d, const Data& gradient, Index example,
                        Index head) const {
    linalg::multiply(keys(at.keys, example, head), d, queries(gradient.queries, example, head));
    linalg::multiply(queries(at.queries, example, head), d.transpose(),
                     keys(gradient.keys, example, head));
  }

  Index features_, heads_, size_;  // of all heads together, how many, of each
  Index queries_, keys_, examples_;
  S scale_;
};

}  // namespace kfac::detail
