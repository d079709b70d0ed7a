#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <kfac/curvature/block_diagonal_inverse.hpp>
#include <kfac/curvature/default_blocks.hpp>
#include <kfac/curvature/fisher.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {

template <RealScalar S>
struct EstimatorOptions {
  FisherType fisher = FisherType::Type2;
  Index samples = 1;       ///< drawn for each example (Monte-Carlo, curvature propagation); >= 1
  std::uint64_t seed = 0;  ///< of those samples, which every pass over the data draws again
  /// What layers do whose weights are shared over positions (tokens, pixels).
  WeightSharing sharing = WeightSharing::Expand;
  /// How damping that is split over two factors is balanced between them.
  FactorBalance pi = FactorBalance::Trace;

  /// \throws OptionError
  void validate() const {
    detail::check_option(samples >= 1, "kfac::CurvatureEstimator", "samples", samples, ">= 1");
  }
};

/// What else there may be to know of a batch.
template <class Targets>
struct BatchDetails {
  Shape shape = {};                       ///< of one example; empty: `{features}`
  const PositionMask* mask = nullptr;     ///< which positions are not padding; null: all
  std::span<const Targets> samples = {};  ///< targets to use as the Monte-Carlo samples
};

/// The curvature of a loss over a data set, as one block a layer, of a network that is not being
/// trained: for posteriors, influence functions, compression, or to look at.
///
///     const auto blocks = kfac::block_factory<kfac::EkfacBlock<float>>();
///     kfac::CurvatureEstimator curvature(model, loss, {}, blocks);
///     curvature.fit(batches);  // pairs (x, y), walked as often as the blocks want
///     const auto c = curvature.layers()[0]->blocks()[0]->matrix(1e-3f);
///     c->solve(v);
///
/// The scale is that of the loss over all the data at once: a mean loss is the mean over all of it,
/// however it comes in batches, whose shapes may differ. The network is evaluated without dropout;
/// observers other than this hear nothing of it. The model must outlive the estimator and stay
/// where it is.
template <class Model, Loss LossType>
class CurvatureEstimator {
 public:
  using Scalar = typename Model::Scalar;
  using Targets = typename LossType::Targets;
  using TargetsRef = typename LossType::TargetsRef;
  using Details = BatchDetails<Targets>;
  using Layer = LayerCurvature<Scalar>;

  /// \throws OptionError
  CurvatureEstimator(Model& model, const LossType& loss,
                     EstimatorOptions<typename Model::Scalar> options = {},
                     const BlockFactory<typename Model::Scalar>& blocks = default_blocks<Model>())
      : model_(model), loss_(loss), options_((options.validate(), options)), rng_(options.seed) {
    BlockOptions<Scalar> prototype;
    prototype.pi = options_.pi;
    prototype.sharing = options_.sharing;
    for (const LayerView<Scalar>& layer : model.layers()) {
      if (!layer.hooks) continue;
      hooks_.push_back(layer.hooks);
      if (auto curvature = Layer::make(layer, prototype, blocks))
        layers_.push_back(std::move(curvature));
    }
  }

  /// Estimates from scratch, from a range of pairs (x, y) in an order that stays, in as many passes
  /// as the blocks want. After an exception the estimates before it are gone: fit again.
  /// \throws ShapeError, ValueError as `add`
  template <class Batches>
  void fit(Batches&& batches) {
    for (Index pass = 0; begin_pass(pass); ++pass) {
      for (const auto& [x, y] : batches) add(x, y);
      end_pass();
    }
  }
  /// The same from one batch.
  void fit(const ConstMatrixRef<Scalar>& x, const TargetsRef& y, const Details& details = {}) {
    for (Index pass = 0; begin_pass(pass); ++pass) {
      add(x, y, details);
      end_pass();
    }
  }

  // The parts of `fit`, for data that come in other ways:
  //
  //     for (Index pass = 0; curvature.begin_pass(pass); ++pass) {
  //       for (...) curvature.add(x, y, {.shape = {tokens, features}});
  //       curvature.end_pass();
  //     }

  /// Whether any block wants the `pass`-th pass, from 0, over the same data.
  bool begin_pass(Index pass) {
    active_.clear();
    for (const auto& layer : layers_)
      if (layer->begin_pass(pass)) active_.push_back(layer.get());
    if (active_.empty()) return false;
    rng_ = Rng(options_.seed);
    examples_ = 0;
    inverse_scale_ = 0;
    return true;
  }
  /// Adds a batch: inputs `features x examples`, and targets (which only the empirical Fisher uses,
  /// but all check).
  /// \throws ShapeError or ValueError if it is empty, does not fit or is not finite
  void add(const ConstMatrixRef<Scalar>& x, const TargetsRef& y, const Details& details = {}) {
    const Listening listening(*this, details.mask);
    const Shape shape = details.shape.rank() == 0 && x.rows() > 0 ? Shape{x.rows()} : details.shape;
    const ConstMatrixMap<Scalar> outputs = model_.forward(x, shape);
    loss_.check(outputs, y);
    const Scalar factor = loss_.scale(outputs.rows(), outputs.cols());
    if (!details.samples.empty())
      propagate_gradients(outputs, details.samples, factor);
    else if (options_.fisher == FisherType::Empirical)
      propagate_gradients(outputs, std::span<const TargetsRef>(&y, 1), factor);
    else
      propagate_fisher_vectors(options_.fisher, options_.samples, model_, loss_, outputs, *this,
                               rng_, scratch_);
    count(outputs, factor);
  }
  /// Ends a pass: the blocks are those of all the data added in it.
  /// \throws StateError if nothing was; ValueError, naming the layer, if what was is not finite
  void end_pass() {
    if (examples_ == 0)
      raise<StateError>("kfac::CurvatureEstimator::end_pass: no batch was added before it");
    for (Layer* layer : active_)
      if (!layer->fresh_is_finite())
        raise<ValueError>(
            "kfac::CurvatureEstimator::end_pass: what was announced is not finite, expected finite "
            "numbers (layer '" +
            layer->layer().name + "')");
    for (Layer* layer : active_) layer->commit(scale());
  }

  /// The layers that have a block.
  const std::vector<std::unique_ptr<Layer>>& layers() const { return layers_; }
  const EstimatorOptions<Scalar>& options() const { return options_; }
  /// Of the data of the last pass: how many examples, and R of the loss L = R sum_n c_n over them.
  Index examples() const { return examples_; }
  double loss_scale() const { return 1 / inverse_scale_; }
  /// Whether the loss is a mean over them.
  bool averages() const { return averages_; }
  /// All blocks' damped inverses as one map of flat parameters: a preconditioner for solvers.
  /// \throws OptionError, StateError, SingularError as `BlockDiagonalInverse`
  BlockDiagonalInverse<Scalar> inverse(Scalar damping) const {
    const VectorMap<Scalar> flat = model_.gradient();
    return {layers_, ConstVectorMap<Scalar>(flat.data(), flat.size()), damping};
  }

  // What `propagate_fisher_vectors` calls.

  void collect(const Collection<Scalar>& collection) {
    for (Layer* layer : active_) layer->collect(collection);
  }
  void add_forward_only() {
    for (Layer* layer : active_) layer->add_forward_only();
  }

 private:
  /// While it lives, the network is evaluated for the active layers' curvature alone.
  class Listening {
   public:
    Listening(CurvatureEstimator& estimator, const PositionMask* mask)
        : estimator_(estimator), evaluation_(estimator.model_, true) {
      if (mask) estimator_.model_.set_mask(mask);
      for (HookPoint<Scalar>* hook : estimator_.hooks_)
        hook->set_sole_observer(&estimator_.nobody_);
      for (Layer* layer : estimator_.active_) layer->listen_alone(mask);
    }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;
    ~Listening() {
      for (Layer* layer : estimator_.active_) layer->stop_listening();
      for (HookPoint<Scalar>* hook : estimator_.hooks_) hook->set_sole_observer(nullptr);
    }

   private:
    CurvatureEstimator& estimator_;
    Evaluation<Model> evaluation_;
  };

  /// The gradients of the criterion at each of the given targets.
  template <class Given>
  void propagate_gradients(const ConstMatrixRef<Scalar>& outputs, std::span<const Given> all,
                           Scalar factor) {
    using What = typename Collection<Scalar>::What;
    collect({What::Vectors, Scalar(1) / (factor * factor * static_cast<Scalar>(all.size()))});
    MatrixMap<Scalar> vectors = scratch_.vectors.map(outputs.rows(), outputs.cols());
    for (const Given& targets : all) {
      loss_.gradient(outputs, targets, vectors);
      model_.backward_hooks_only(vectors);
    }
  }

  void count(const ConstMatrixRef<Scalar>& outputs, Scalar factor) {
    examples_ += outputs.cols();
    // A mean is over all labels, so the inverses of its factors add up; a sum's is the same always.
    averages_ = loss_.scale(outputs.rows(), 2) < loss_.scale(outputs.rows(), 1);
    if (averages_)
      inverse_scale_ += 1 / static_cast<double>(factor);
    else
      inverse_scale_ = 1 / static_cast<double>(factor);
  }
  /// The loss's reduction factor over all the data, times the number of examples.
  Scalar scale() const {
    return static_cast<Scalar>(static_cast<double>(examples_) * loss_scale());
  }

  Model& model_;
  LossType loss_;
  EstimatorOptions<Scalar> options_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<Layer*> active_;             // in this pass
  std::vector<HookPoint<Scalar>*> hooks_;  // of all the network's layers
  Observer<Scalar> nobody_;
  Rng rng_;
  FisherScratch<Scalar> scratch_;
  Index examples_ = 0;
  double inverse_scale_ = 0;
  bool averages_ = true;
};

}  // namespace kfac
