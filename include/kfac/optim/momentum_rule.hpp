#pragma once

#include <kfac/core/state.hpp>

namespace kfac {

/// What an optimizer remembers of the past, and how; v is the preconditioned gradient.
enum class MomentumType {
  /// change <- momentum change - learning_rate v. \source Polyak 1964
  HeavyBall,
  /// velocity <- momentum velocity - learning_rate v; the change is momentum velocity -
  /// learning_rate v: heavy ball, one step ahead. \source Sutskever et al. 2013
  Nesterov,
  /// What is preconditioned is the running mean of the gradients, with weight `momentum` of the
  /// past and without bias, in place of the gradient; the change is -learning_rate v.
  AveragedGradient,
  /// v is replaced by its running mean (weight `momentum`) over the root of the running mean of its
  /// squares (weight `second_moment_decay`), as in Adam, then change <- -learning_rate v.
  Adam,
  /// v is divided by the root of the running mean of its squares, then as heavy ball.
  RmsProp,
};

/// The memory of a `MomentumType`, of one model's flat parameters. What a step adds to it is kept
/// apart until `accept`, so that a step that fails leaves no trace.
template <RealScalar S>
class MomentumRule {
 public:
  /// What is remembered of the last step beside what the type needs.
  struct Uses {
    bool velocity = true;  ///< false where the momentum is always 0
    /// Whether the change that is taken into the memory is the velocity itself, but for Nesterov's.
    bool change_is_velocity = false;
  };

  MomentumRule(MomentumType type, Index parameters) : MomentumRule(type, parameters, Uses()) {}
  MomentumRule(MomentumType type, Index parameters, const Uses& uses) : type_(type) {
    const auto zero = [&](bool used) { return Vector<S>(Vector<S>::Zero(used ? parameters : 0)); };
    const bool has_mean = type == MomentumType::AveragedGradient || type == MomentumType::Adam;
    const bool has_square = type == MomentumType::Adam || type == MomentumType::RmsProp;
    velocity_ = zero(!has_mean && uses.velocity);
    change_is_velocity_ = uses.change_is_velocity && type != MomentumType::Nesterov;
    mean_ = zero(has_mean);
    square_ = zero(has_square);
    next_velocity_ = zero(has_velocity() && !change_is_velocity_);
    next_mean_ = mean_;
    next_square_ = square_;
  }

  MomentumType type() const { return type_; }
  /// How many numbers are remembered.
  Index size() const {
    return velocity_.size() + mean_.size() + square_.size() + next_velocity_.size() +
           next_mean_.size() + next_square_.size();
  }
  /// Whether the last velocity is part of the next change.
  bool has_velocity() const { return velocity_.size() > 0; }
  /// That velocity; for heavy ball the last change. \pre has_velocity()
  const Vector<S>& velocity() const { return velocity_; }

  /// Forgets the velocity of some parameters, which are to stay where they are.
  void stop(Index first, Index count) {
    if (has_velocity()) velocity_.segment(first, count).setZero();
  }

  /// What is to be preconditioned, in place of the gradient.
  void before(VectorMap<S> gradient, S momentum) {
    if (type_ != MomentumType::AveragedGradient) return;
    average(gradient, momentum);
    gradient = next_mean_ / (S(1) - power_of(momentum));
  }

  /// What is done to the preconditioned gradient.
  void after(VectorMap<S> v, S momentum, S second_moment_decay, S epsilon) {
    if (type_ != MomentumType::Adam && type_ != MomentumType::RmsProp) return;
    next_square_ = second_moment_decay * square_ + (S(1) - second_moment_decay) * v.cwiseAbs2();
    if (type_ == MomentumType::Adam) {
      average(v, momentum);
      v = next_mean_ / (S(1) - power_of(momentum));
    }
    next_square_weight_ = square_weight_ * second_moment_decay;
    v.array() /= (next_square_.array() / (S(1) - next_square_weight_)).sqrt() + epsilon;
  }

  /// Writes the change of the parameters, which may be in the memory of v.
  void change(const VectorMap<S>& v, S learning_rate, S momentum, VectorMap<S> delta) {
    if (!has_velocity()) {
      delta = -learning_rate * v;
      return;
    }
    if (change_is_velocity_) {
      delta = momentum * velocity_ - learning_rate * v;
      return;
    }
    next_velocity_ = momentum * velocity_ - learning_rate * v;
    if (type_ == MomentumType::Nesterov)
      delta = momentum * next_velocity_ - learning_rate * v;
    else
      delta = next_velocity_;
  }

  /// Takes the step into the memory, in which the change was made `scale` times as long and became
  /// `delta`.
  void accept(S scale, const VectorMap<S>& delta) {
    if (has_velocity() && change_is_velocity_) {
      velocity_ = delta;
    } else if (has_velocity()) {
      velocity_.swap(next_velocity_);
      if (scale != 1) velocity_ *= scale;
    }
    mean_.swap(next_mean_);
    square_.swap(next_square_);
    weight_ = next_weight_;
    square_weight_ = next_square_weight_;
  }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("velocity", velocity_);
    visitor.visit("mean", mean_);
    visitor.visit("square", square_);
    visitor.visit("weight", weight_);
    visitor.visit("square_weight", square_weight_);
  }

 private:
  void average(const VectorMap<S>& values, S momentum) {
    next_mean_ = momentum * mean_ + (S(1) - momentum) * values;
  }
  /// The weight of the start, zero, in the running mean: a product, for the decays may be
  /// scheduled.
  S power_of(S momentum) { return next_weight_ = weight_ * momentum; }

  MomentumType type_ = MomentumType::HeavyBall;
  bool change_is_velocity_ = false;
  Vector<S> velocity_, mean_, square_;
  Vector<S> next_velocity_, next_mean_, next_square_;
  S weight_ = 1, square_weight_ = 1;  // of the start in `mean_` and `square_`
  S next_weight_ = 1, next_square_weight_ = 1;
};

}  // namespace kfac
