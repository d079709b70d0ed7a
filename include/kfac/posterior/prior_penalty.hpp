#pragma once

#include <functional>
#include <string>
#include <utility>

#include <kfac/posterior/prior.hpp>

namespace kfac {

/// The prior as what it adds to a loss in training, for the network to go to the mode of the
/// posterior: the loss L = R sum c of a batch of b of the N examples becomes
///
///     L + R b / (2 N kappa) sum delta (theta - mean)^2,
///
/// whatever the loss's reduction is.
template <RealScalar S>
class PriorPenalty {
 public:
  /// Of N `examples` with kappa = 1 / (noise^2 temperature); `loss_scale(b)` is R of a batch of b.
  PriorPenalty(Prior<S> prior, double kappa, Index examples,
               std::function<double(Index)> loss_scale)
      : prior_(std::move(prior)),
        kappa_(kappa),
        examples_(examples),
        loss_scale_(std::move(loss_scale)) {}

  const Prior<S>& prior() const { return prior_; }

  /// The `weight_decay` of an optimizer that stands for it, on batches of so many examples; of a
  /// mean over examples it does not depend on them.
  /// \throws OptionError unless batch >= 1; StateError where no weight decay does: groups of
  ///         different precisions, or a prior mean that is not 0
  S weight_decay(Index batch) const {
    const Vector<double>& precision = prior_.precision();
    if (precision.maxCoeff() != precision.minCoeff() || !prior_.mean().isZero(0))
      raise<StateError>(
          "kfac::PriorPenalty::weight_decay: the prior is not one precision around 0, expected "
          "add_gradient for it");
    return static_cast<S>(scale("kfac::PriorPenalty::weight_decay", batch) * precision(0));
  }

  /// Adds its gradient, on a batch of so many examples, to that of the network's own workspace,
  /// after a backward pass. \throws OptionError unless batch >= 1; ShapeError
  template <class Model>
  void add_gradient(Model& model, Index batch) const {
    static constexpr const char* kWhere = "kfac::PriorPenalty::add_gradient";
    detail::check_size(kWhere, "model", model.parameter_count(), prior_.mean().size(),
                       "parameters");
    const double factor = scale(kWhere, batch);
    Vector<S> penalty = Vector<S>::Zero(prior_.mean().size());
    prior_.for_each([&](Index parameter, Index group) {
      penalty(parameter) = static_cast<S>(factor * prior_.precision()(group));
    });
    Index offset = 0;
    for (auto& layer : model.layers()) {
      const Index count = layer.parameters.size();
      layer.gradient += penalty.segment(offset, count)
                            .cwiseProduct(layer.parameters - prior_.mean().segment(offset, count));
      offset += count;
    }
  }

 private:
  double scale(const char* where, Index batch) const {
    detail::check_option(batch >= 1, where, "batch", batch, ">= 1");
    return loss_scale_(batch) * static_cast<double>(batch) /
           (static_cast<double>(examples_) * kappa_);
  }

  Prior<S> prior_;
  double kappa_;
  Index examples_;
  std::function<double(Index)> loss_scale_;
};

}  // namespace kfac
