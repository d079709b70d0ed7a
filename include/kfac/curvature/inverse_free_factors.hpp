#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/structured_matrix.hpp>

namespace kfac {

enum class InverseFreeMethod {
  /// The two factors for themselves: K K^T and C C^T go to the inverses of A and G with the damping
  /// split over them, as `FactoredInverse` has them.
  Ikfac,
  /// The two together, each in the metric that the other makes of the damped block A (x) G +
  /// damping I, with momentum. With dense structures: INGD.
  Singd,
};

/// How far a step may go. A step longer than 1 turns directions around, and then diverges.
enum class InverseFreeBound {
  None,
  LargestEntry,  ///< learning_rate / max(1, largest entry of m), and fresh terms times 1 - momentum
  Frobenius,     ///< learning_rate / max(1, |m|_F): every step contracts or stretches by at most it
};

template <RealScalar S>
struct InverseFreeOptions {
  InverseFreeMethod method = InverseFreeMethod::Singd;
  linalg::Structure input_structure = linalg::Structure::Dense;   ///< of K
  linalg::Structure output_structure = linalg::Structure::Dense;  ///< of C
  Index block_size = 32;     ///< of block-diagonal structures, >= 1
  S learning_rate = S(0.1);  ///< of K and C, in (0, 1]
  S momentum = S(0.5);       ///< of their steps, in [0, 1); IKFAC has none
  bool scaled_start = true;  ///< start at the multiples of the identity of the first data's traces
  InverseFreeBound bound = InverseFreeBound::Frobenius;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(block_size >= 1, where, "block_size", block_size, ">= 1");
    detail::check_option(learning_rate > 0 && learning_rate <= 1, where, "learning_rate",
                         learning_rate, "in (0, 1]");
    detail::check_option(momentum >= 0 && momentum < 1, where, "momentum", momentum, "in [0, 1)");
  }
};

/// A square root K of one factor's damped inverse, with what its next step needs: the factor's
/// second moment in the coordinates of K, H = Pi(K^T A K), summed from data without A.
template <RealScalar S>
class InverseFreeRoot {
 public:
  InverseFreeRoot(Index size, linalg::Structure structure, Index block_size)
      : root_(size, structure, block_size),
        momentum_(root_),
        fresh_(root_),
        pending_(root_),
        gram_(root_),
        next_(root_),
        step_(root_) {
    reset();
  }

  Index size() const { return root_.size(); }
  const linalg::StructuredMatrix<S>& root() const { return root_; }

  /// Adds weight * sum of x x^T over columns x.
  void add(const ConstMatrixRef<S>& x, S weight) {
    MatrixMap<S> transformed = transformed_.map(x.rows(), x.cols());
    root_.multiply_transposed(x, transformed);
    fresh_.add_projected_gram(weight, transformed);
    fresh_trace_ += weight * x.squaredNorm();
    has_fresh_ = true;
  }
  /// Adds weight * I.
  void add_identity(S weight) {
    root_.projected_gram(gram_);
    fresh_.add(weight, gram_);
    fresh_trace_ += weight * static_cast<S>(size());
    has_fresh_ = true;
  }
  bool has_fresh() const { return has_fresh_; }
  bool fresh_is_finite() const { return std::isfinite(fresh_trace_); }
  /// Takes what was added, times `factor`, as one more estimate of the second moment; the next step
  /// uses the mean of all.
  void commit(S factor) {
    pending_.add(factor, fresh_);
    pending_trace_ += factor * fresh_trace_;
    ++commits_;
    discard();
  }
  void discard() {
    fresh_.set_zero();
    fresh_trace_ = 0;
    has_fresh_ = false;
  }
  void reset() {
    discard();
    root_.set_identity();
    momentum_.set_zero();
    forget_pending();
  }

  bool has_pending() const { return commits_ > 0; }
  /// tr(A) / size.
  S mean_moment() const { return pending_trace_ / static_cast<S>(commits_ * size()); }
  /// tr(H) / size.
  S mean_transformed() const { return pending_.trace() / static_cast<S>(commits_ * size()); }
  /// tr(K^T K) / size. \pre prepare()
  S mean_gram() const { return gram_.trace() / static_cast<S>(size()); }

  /// K <- factor K, and what is pending likewise.
  void rescale(S factor) {
    root_.scale(factor);
    pending_.scale(factor * factor);
  }
  void prepare() { root_.projected_gram(gram_); }

  void visit_state(StateVisitor& visitor) {
    visitor.in("root", root_);
    visitor.in("momentum", momentum_);
    visitor.in("pending", pending_);
    visitor.visit("pending_trace", pending_trace_);
    visitor.visit("commits", commits_);
  }

  /// The candidate of a step with m <- momentum m + fresh_weight (moment_weight H + damping K^T K -
  /// I), K <- K (I - rate m). False if it is not finite. \pre prepare()
  bool propose(const InverseFreeOptions<S>& options, S momentum, S moment_weight, S damping) {
    const bool by_entry = options.bound == InverseFreeBound::LargestEntry;
    const S fresh_weight = S(0.5) * (by_entry ? 1 - momentum : S(1));
    step_.set_zero();
    step_.add(fresh_weight * moment_weight / static_cast<S>(commits_), pending_);
    step_.add(fresh_weight * damping, gram_);
    step_.add_to_diagonal(-fresh_weight);
    if (momentum > 0) step_.add(momentum, momentum_);
    S rate = options.learning_rate;
    if (by_entry) rate /= std::max(S(1), step_.max_abs());
    if (options.bound == InverseFreeBound::Frobenius)
      rate /= std::max(S(1), std::sqrt(step_.squared_norm()));
    root_.multiply(step_, next_);
    next_.scale(-rate);
    next_.add(S(1), root_);
    return next_.all_finite() && step_.all_finite();
  }
  void accept() {
    std::swap(root_, next_);
    std::swap(momentum_, step_);
    forget_pending();
  }

 private:
  void forget_pending() {
    pending_.set_zero();
    pending_trace_ = 0;
    commits_ = 0;
  }

  linalg::StructuredMatrix<S> root_, momentum_, fresh_, pending_, gram_;
  linalg::StructuredMatrix<S> next_, step_;  // a step that fails must leave those in use alone
  bool has_fresh_ = false;
  S fresh_trace_ = 0;
  S pending_trace_ = 0;
  Index commits_ = 0;
  Buffer<S> transformed_;
};

/// Inverse-free curvature of a linear map: structured K and C with K K^T and C C^T near the damped
/// inverses of A and G, moved a little by each new estimate of these, with products alone: nothing
/// is inverted or decomposed, so that it holds in low precision and in any of the structures.
///
/// With H_K = Pi(K^T A K), H_C = Pi(C^T G C) and averages over d_K and d_C diagonal entries, SINGD
/// is m_K <- momentum m_K + 1/2 [ (tr H_C / d_C) H_K + damping (tr C^T C / d_C) Pi(K^T K) - I ], K
/// <- K (I - learning_rate m_K), and the same for C. IKFAC has 1 in place of the averages, no
/// momentum, and the damping of each factor.
/// \source Lin et al. 2023, Simplifying momentum-based positive-definite submanifold optimization,
///         arXiv 2302.09738 (INGD); Lin et al. 2024, arXiv 2312.05705 (IKFAC, SINGD), figures 3 and
///         4. They add the whole damping to either factor of IKFAC; here it is split over them, so
///         that it is in the units of the block. The Frobenius bound and the scaled start are ours.
template <RealScalar S>
class InverseFreeFactors {
 public:
  /// With `pi`, IKFAC balances the damping over the factors by their traces.
  /// \pre the options are valid
  InverseFreeFactors(Index inputs, Index outputs, const InverseFreeOptions<S>& options,
                     bool pi = true)
      : options_(options),
        pi_(pi),
        input_(inputs, options.input_structure, options.block_size),
        output_(outputs, options.output_structure, options.block_size) {}

  InverseFreeRoot<S>& input() { return input_; }
  const InverseFreeRoot<S>& input() const { return input_; }
  InverseFreeRoot<S>& output() { return output_; }
  const InverseFreeRoot<S>& output() const { return output_; }

  /// One step of K and C with what was committed since the last one. None if that is nothing, nor
  /// between an `add` and its `commit`: what is added is summed in the coordinates of K and C.
  /// False, keeping both, if a step is not finite.
  bool update(S damping) {
    if (!input_.has_pending() || !output_.has_pending()) return true;
    if (input_.has_fresh() || output_.has_fresh()) return true;
    const S root = std::sqrt(damping);
    const S ratio = std::sqrt(input_.mean_moment() / output_.mean_moment());
    const S balance = pi_ && ratio > 0 && std::isfinite(ratio) ? ratio : S(1);
    if (options_.scaled_start && !started_) start(damping, root * balance, root / balance);
    input_.prepare();
    output_.prepare();
    bool done = false;
    if (options_.method == InverseFreeMethod::Ikfac) {
      done = input_.propose(options_, S(0), S(1), root * balance) &&
             output_.propose(options_, S(0), S(1), root / balance);
    } else {
      done = input_.propose(options_, options_.momentum, output_.mean_transformed(),
                            damping * output_.mean_gram()) &&
             output_.propose(options_, options_.momentum, input_.mean_transformed(),
                             damping * input_.mean_gram());
    }
    if (!done) return false;
    input_.accept();
    output_.accept();
    started_ = true;
    return true;
  }

  /// V <- C C^T V K K^T for V of `outputs x inputs`.
  void apply(MatrixRef<S> v) {
    MatrixMap<S> transposed = first_.map(v.cols(), v.rows());
    MatrixMap<S> half = second_.map(v.cols(), v.rows());
    transposed = v.transpose();
    input_.root().multiply_transposed(transposed, half);
    input_.root().multiply(half, transposed);
    v = transposed.transpose();
    MatrixMap<S> turned = second_.map(v.rows(), v.cols());
    output_.root().multiply_transposed(v, turned);
    output_.root().multiply(turned, v);
  }

  /// Forgets everything.
  void reset() {
    input_.reset();
    output_.reset();
    started_ = false;
  }

  void visit_state(StateVisitor& visitor) {
    visitor.in("k", input_);
    visitor.in("c", output_);
    visitor.visit("started", started_);
  }

 private:
  /// The multiples of the identity that would be right if A and G were multiples of it.
  void start(S damping, S input_damping, S output_damping) {
    const S a = input_.mean_moment();
    const S g = output_.mean_moment();
    S square_k = 1 / (a + input_damping);
    S square_c = 1 / (g + output_damping);
    if (options_.method == InverseFreeMethod::Singd) {
      const S product = 1 / (a * g + damping);
      const S share = std::sqrt(product * square_k / square_c);
      square_k = share;
      square_c = product / share;
    }
    const auto usable = [](S square) { return square > 0 && std::isfinite(square); };
    if (!usable(square_k) || !usable(square_c)) return;
    input_.rescale(std::sqrt(square_k));
    output_.rescale(std::sqrt(square_c));
    started_ = true;
  }

  InverseFreeOptions<S> options_;
  bool pi_;
  InverseFreeRoot<S> input_, output_;
  bool started_ = false;
  Buffer<S> first_, second_;
};

}  // namespace kfac
