#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <kfac/curvature/fisher.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/nn/network.hpp>
#include <kfac/optim/lap_clock.hpp>
#include <kfac/optim/parameter_step.hpp>
#include <kfac/optim/quadratic_model.hpp>
#include <kfac/optim/step_report.hpp>

namespace kfac {

/// The loss of a network on one batch that may come in parts (micro-batches, for what does not fit
/// into memory at once), and all that an optimizer asks of it. What it gives is that of the whole
/// batch: a mean is over all parts' examples.
template <class Model, Loss LossType>
class BatchObjective {
 public:
  using S = typename Model::Scalar;
  using TargetsRef = typename LossType::TargetsRef;

  /// Inputs `features x examples`, the shape of an example, and targets.
  struct Part {
    ConstMatrixRef<S> x;
    Shape shape;
    TargetsRef y;
  };
  /// How the curvature is estimated.
  struct Estimate {
    FisherType fisher = FisherType::Type2;
    Index samples = 1;
    bool once = false;  ///< nothing is asked for afterwards that needs the passes' outputs
  };

  BatchObjective(Model& model, const LossType& loss) : model_(model), loss_(loss) {}

  /// Takes the parts of a batch, which must stay alive until the next `set`. Those that do not fit
  /// the network are found when it is applied to them. \throws ShapeError if there are none
  void set(std::span<const Part> parts) {
    if (parts.empty())
      raise<ShapeError>("kfac::KfacOptimizer::step: 'slices' is empty, expected at least one");
    parts_ = parts;
    loaded_ = kNone;
    scales_.clear();
    S inverses = 0;
    examples_ = 0;
    for (const Part& part : parts) {
      const Index outputs = part.x.size() > 0 ? model_.output_shape(part.shape).size() : 1;
      const Index examples = std::max<Index>(part.x.cols(), 1);
      scales_.push_back(loss_.scale(outputs, examples));
      // A mean is over all labels, so the inverses of its factors add up; a sum's is the same
      // always.
      const bool averages = loss_.scale(outputs, 2) < loss_.scale(outputs, 1);
      inverses = (averages ? inverses : S(0)) + S(1) / scales_.back();
      examples_ += examples;
    }
    scale_ = S(1) / inverses;
  }

  /// The loss's reduction factor for all parts.
  S scale() const { return scale_; }
  /// The same times their examples.
  S curvature_scale() const { return scale_ * static_cast<S>(examples_); }

  /// The loss, and its gradient, which replaces that of the model; on the way feeds `curvature`
  /// what it is due. Ends early where the loss is not finite. \throws ShapeError, ValueError if a
  /// part is empty, does not fit or is not finite
  S differentiate(Preconditioner<S>& curvature, const Estimate& estimate, Rng& rng,
                  StepSeconds& seconds) {
    detail::LapClock clock;
    const bool in_parts = parts_.size() > 1;
    if (in_parts) sum_.setZero(model_.gradient().size());
    S total = 0;
    for (std::size_t k = 0; k < parts_.size(); ++k) {
      const S weight = scale_ / scales_[k];
      const bool feeds =
          estimate.fisher != FisherType::Empirical && curvature.collect({What::Vectors});
      const bool feeds_part = feeds && curvature.values().factor_fraction < 1;
      if (feeds_part) feed_part(k, curvature, estimate, rng);
      seconds.factors += clock.lap();

      curvature.collect({What::Nothing});
      const OneBackwardPass<Model> pass(model_, estimate.once);
      const ConstMatrixMap<S> outputs = load(k);
      MatrixMap<S> grad_output = scratch_.vectors.map(outputs.rows(), outputs.cols());
      // Where the Fisher's vectors take the place of the gradient, it is made after them.
      const bool feeds_now = feeds && !feeds_part;
      total += weight * (feeds_now ? loss_.value(outputs, parts_[k].y)
                                   : value_and_gradient(loss_, outputs, parts_[k].y, grad_output));
      seconds.forward += clock.lap();
      if (!std::isfinite(total)) return total;

      if (feeds_now) feed(curvature, estimate, outputs, rng);
      seconds.factors += clock.lap();
      if (estimate.fisher == FisherType::Empirical)
        curvature.collect(
            {What::Vectors, S(1) / (scales_[k] * scales_[k]), curvature.values().factor_fraction});
      else
        curvature.collect({What::Nothing});
      if (feeds_now) loss_.gradient(outputs, parts_[k].y, grad_output);
      model_.backward(grad_output);
      if (estimate.once) loaded_ = kNone;
      if (in_parts) sum_ += weight * model_.gradient();
      seconds.gradient += clock.lap();
    }
    if (in_parts) model_.gradient() = sum_;
    return total;
  }

  /// The loss at the parameters as they are now.
  S value() {
    const NoTracking<Model> untracked(model_);
    loaded_ = kNone;
    S total = 0;
    for (std::size_t k = 0; k < parts_.size(); ++k)
      total += (scale_ / scales_[k]) * loss_.value(load(k), parts_[k].y);
    loaded_ = kNone;  // the parameters may be put back
    return total;
  }

  /// V^T C V of the exact generalised Gauss-Newton matrix C for V = (first, second), at the
  /// parameters of the last `differentiate`; a null `second` is zero. A tangent pass each.
  Eigen::Matrix2d curvature(const ConstVectorRef<S>& first, const Vector<S>* second) {
    const NoTracking<Model> untracked(model_);
    Eigen::Matrix2d sum = Eigen::Matrix2d::Zero();
    for (std::size_t k = 0; k < parts_.size(); ++k) {
      const ConstMatrixMap<S> outputs = load(k);
      const auto tangent = [&](const ConstVectorRef<S>& direction, Buffer<S>& into) {
        MatrixMap<S> copy = into.map(outputs.rows(), outputs.cols());
        copy = model_.tangent(direction);
        return copy;
      };
      const MatrixMap<S> along_first = tangent(first, tangents_[0]);
      MatrixMap<S> curved = curved_.map(outputs.rows(), outputs.cols());
      loss_.hessian_product(outputs, along_first, curved);
      sum(0, 0) += dot(along_first, curved);
      if (!second) continue;
      const MatrixMap<S> along_second = tangent(*second, tangents_[1]);
      sum(0, 1) += dot(along_second, curved);
      loss_.hessian_product(outputs, along_second, curved);
      sum(1, 1) += dot(along_second, curved);
    }
    sum(1, 0) = sum(0, 1);
    return static_cast<double>(scale_) * sum;
  }

  /// The quadratic model along V = (first, second) of the loss and 1/2 decay |parameters|^2, over
  /// the parameters of `step` that decay; `gradient` is that of both.
  QuadraticModel model(const ConstVectorRef<S>& first, const Vector<S>* second,
                       const Vector<S>& gradient, const ParameterStep<S>& step, S decay) {
    QuadraticModel result;
    result.curvature = curvature(first, second);
    result.accuracy = static_cast<double>(std::numeric_limits<S>::epsilon());
    const auto inner = [](const auto& a, const auto& b) {
      return a.template cast<double>().dot(b.template cast<double>());
    };
    const auto add = [&](int i, int j, const auto& a, const auto& b) {
      result.gram(i, j) = result.gram(j, i) = inner(a, b);
      if (decay == 0) return;
      const auto decayed = static_cast<double>(decay * step.decayed_dot(a, b));
      result.curvature(i, j) += decayed;
      if (i != j) result.curvature(j, i) += decayed;
    };
    add(0, 0, first, first);
    result.slope(0) = inner(first, gradient);
    if (!second) return result;
    add(0, 1, first, *second);
    add(1, 1, *second, *second);
    result.slope(1) = inner(*second, gradient);
    return result;
  }

  /// Makes a part's forward pass, unless it was the last.
  ConstMatrixMap<S> load(std::size_t part) {
    if (loaded_ == part) {
      const auto& workspace = model_.workspace();
      return {workspace.output.data(), workspace.output_shape.size(), workspace.examples};
    }
    loaded_ = kNone;
    const ConstMatrixMap<S> outputs = model_.forward(parts_[part].x, parts_[part].shape);
    loaded_ = part;
    return outputs;
  }
  std::size_t parts() const { return parts_.size(); }

 private:
  using What = typename Collection<S>::What;
  static constexpr auto kNone = static_cast<std::size_t>(-1);

  /// The curvature of the first examples of a part, by a forward pass of their own.
  void feed_part(std::size_t k, Preconditioner<S>& curvature, const Estimate& estimate, Rng& rng) {
    const ConstMatrixRef<S>& x = parts_[k].x;
    const auto count = static_cast<Index>(
        std::ceil(curvature.values().factor_fraction * static_cast<S>(x.cols())));
    loaded_ = kNone;
    feed(curvature, estimate, model_.forward(x.leftCols(count), parts_[k].shape), rng);
  }
  void feed(Preconditioner<S>& curvature, const Estimate& estimate,
            const ConstMatrixMap<S>& outputs, Rng& rng) {
    propagate_fisher_vectors(estimate.fisher, estimate.samples, model_, loss_, outputs, curvature,
                             rng, scratch_);
  }

  static double dot(const MatrixMap<S>& a, const MatrixMap<S>& b) {
    return a.template cast<double>().cwiseProduct(b.template cast<double>()).sum();
  }

  Model& model_;
  const LossType& loss_;
  std::span<const Part> parts_;
  std::vector<S> scales_;  // R of each part
  S scale_ = 1;            // R of all
  Index examples_ = 0;
  std::size_t loaded_ = kNone;
  Vector<S> sum_;
  FisherScratch<S> scratch_;
  std::array<Buffer<S>, 2> tangents_;
  Buffer<S> curved_;
};

}  // namespace kfac
