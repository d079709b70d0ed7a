#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <kfac/curvature/kronecker_factors.hpp>
#include <kfac/linalg/kronecker_term.hpp>
#include <kfac/nn/network.hpp>

namespace kfac::detail {

/// The term weight / (2 N) sum_n |r_n|^2 of a loss, where r are a network's outputs minus targets,
/// with running averages of the Kronecker factors of its Gauss-Newton matrix.
template <class Network>
class SquaredResidual {
 public:
  using S = typename Network::Scalar;

  SquaredResidual(Network& network, S weight)
      : network_(network), layers_(network.layers()), listener_(layers_), weight_(weight) {
    for (const LayerView<S>& layer : layers_)
      if (layer.kronecker) layer.hooks->attach(listener_);
  }

  const std::vector<LayerView<S>>& layers() const { return layers_; }

  /// The loss there. \throws ShapeError, ValueError
  S loss(const char* where, const char* argument, const ConstMatrixRef<S>& x,
         const ConstMatrixRef<S>& targets) {
    const NoTracking<Network> untracked(network_);
    return evaluate(where, argument, x, targets);
  }
  S loss(const ConstMatrixRef<S>& x, const ConstMatrixRef<S>& targets) {
    return loss("kfac::PinnOptimizer", "targets", x, targets);
  }

  /// As well; writes its gradient and collects the factors for `commit`.
  S collect(const char* where, const char* argument, const ConstMatrixRef<S>& x,
            const ConstMatrixRef<S>& targets) {
    discard();
    const Listening listening(*this);
    const S value = evaluate(where, argument, x, targets);
    Matrix<S> vectors(residual_.rows(), residual_.cols());
    for (Index k = 0; k < residual_.rows(); ++k) {
      vectors.setZero();
      vectors.row(k).setOnes();
      network_.backward_hooks_only(vectors);
    }
    network_.workspace().mode.tracking = false;
    network_.backward((weight_ / static_cast<S>(residual_.cols())) * residual_);
    return value;
  }
  ConstVectorMap<S> gradient() {
    const VectorMap<S> flat = network_.gradient();
    return {flat.data(), flat.size()};
  }

  /// The first layer whose new factors are not finite; null if there is none.
  const LayerView<S>* non_finite() const {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].kronecker && !listener_.factors[i].fresh_is_finite()) return &layers_[i];
    return nullptr;
  }
  /// Takes what was collected into the running averages, or forgets it.
  void commit(S decay) {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].kronecker) listener_.factors[i].commit(weight_, residual_.cols(), decay);
  }
  void discard() {
    for (KroneckerFactors<S>& factors : listener_.factors) factors.discard();
  }
  /// A and G of a layer, `damping`'s root added to the diagonals.
  linalg::KroneckerTerm<S> factors(std::size_t layer, S damping) const {
    linalg::KroneckerTerm<S> term;
    listener_.factors[layer].copy_to(term.a, term.g);
    term.a.diagonal().array() += std::sqrt(damping);
    term.g.diagonal().array() += std::sqrt(damping);
    return term;
  }

  /// J v of the residuals at the points last evaluated, and the weight of their squares: the
  /// Gauss-Newton matrix is factor() J^T J.
  Matrix<S> tangent(const ConstVectorRef<S>& v) { return network_.tangent(v); }
  S factor() const { return weight_ / static_cast<S>(residual_.cols()); }

  void visit_state(StateVisitor& visitor) {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].kronecker) visitor.in("layer " + layers_[i].name, listener_.factors[i]);
  }

 private:
  struct Listener : Observer<S> {
    explicit Listener(const std::vector<LayerView<S>>& layers_) : layers(layers_) {
      for (const LayerView<S>& layer : layers) {
        BlockOptions<S> options{.inputs = 1, .outputs = 1};
        if (layer.kronecker) {
          options.inputs = layer.kronecker->inputs;
          options.outputs = layer.kronecker->outputs;
          options.bias = layer.kronecker->bias;
        }
        factors.emplace_back(options);
      }
    }
    void on_input(const std::string& layer, const SharedBatch<S>& input) override {
      if (!listens) return;
      factors[at(layer)].add_input(input);
    }
    void on_output_gradient(const std::string& layer, const SharedBatch<S>& gradient) override {
      if (!listens) return;
      factors[at(layer)].add_output_gradient(gradient, S(1));
    }
    std::size_t at(const std::string& name) const {
      std::size_t i = 0;
      while (layers[i].name != name) ++i;
      return i;
    }

    const std::vector<LayerView<S>>& layers;
    std::vector<KroneckerFactors<S>> factors;
    bool listens = false;  // the network may be used in between
  };

  /// While it lives, the listener is the only one that hears of the network's passes.
  class Listening {
   public:
    explicit Listening(SquaredResidual& term)
        : term_(term), mode_(term.network_.workspace().mode), before_(mode_) {
      mode_.tracking = true;
      listen(&term_.listener_);
    }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;
    ~Listening() {
      listen(nullptr);
      mode_ = before_;
    }

   private:
    void listen(Observer<S>* listener) {
      term_.listener_.listens = listener != nullptr;
      for (const LayerView<S>& layer : term_.layers_)
        if (layer.kronecker) layer.hooks->set_sole_observer(listener);
    }

    SquaredResidual& term_;
    Mode& mode_;
    Mode before_;
  };

  S evaluate(const char* where, const char* argument, const ConstMatrixRef<S>& x,
             const ConstMatrixRef<S>& targets) {
    const ConstMatrixMap<S> outputs = network_.forward(x);
    check_shape(where, argument, targets.rows(), targets.cols(), outputs.rows(), outputs.cols());
    check_finite(where, argument, targets);
    residual_ = outputs - targets;
    return weight_ * residual_.squaredNorm() / static_cast<S>(2 * residual_.cols());
  }

  Network& network_;
  std::vector<LayerView<S>> layers_;
  Listener listener_;
  Matrix<S> residual_;
  S weight_;
};

}  // namespace kfac::detail
