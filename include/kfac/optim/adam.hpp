#pragma once

#include <concepts>
#include <utility>

#include <kfac/optim/gradient_rule.hpp>

namespace kfac {
namespace detail {

template <RealScalar S>
struct AdamValues {
  S learning_rate, beta1, beta2, epsilon, weight_decay;
  bool decoupled;
  S gradient_clip;
};

template <class Options>
auto adam_values(const Options& o, Index step, bool decoupled) {
  static constexpr const char* kWhere = Options::kWhere;
  using S = typename Options::Scalar;
  return AdamValues<S>{scheduled_positive(o.learning_rate, step, kWhere, "learning_rate"),
                       scheduled_decay(o.beta1, step, kWhere, "beta1"),
                       scheduled_decay(o.beta2, step, kWhere, "beta2"),
                       scheduled_positive(o.epsilon, step, kWhere, "epsilon"),
                       scheduled_non_negative(o.weight_decay, step, kWhere, "weight_decay"),
                       decoupled,
                       scheduled_non_negative(o.gradient_clip, step, kWhere, "gradient_clip")};
}

}  // namespace detail

/// Each number is a constant or a schedule.
template <RealScalar S>
struct AdamOptions {
  Schedule<S> learning_rate = S(1e-3);  ///< > 0, finite
  Schedule<S> beta1 = S(0.9);           ///< weight of the past in the mean gradient, in [0, 1)
  Schedule<S> beta2 = S(0.999);         ///< the same for the mean square, in [0, 1)
  Schedule<S> epsilon = S(1e-8);        ///< added to the root mean square; > 0, finite
  Schedule<S> weight_decay = S(0);      ///< >= 0; times the parameters is added to the gradient
  Schedule<S> gradient_clip = S(0);     ///< largest norm of the whole gradient; >= 0, 0: any
  ParameterPredicate<S> decays = {};    ///< which parameters weight decay is for; empty: all

  using Scalar = S;
  static constexpr const char* kWhere = "kfac::Adam";

  /// What the schedules give at a step. \throws OptionError
  detail::AdamValues<S> at(Index step) const { return detail::adam_values(*this, step, false); }
  void validate() const { at(0); }
};

/// Each number is a constant or a schedule.
template <RealScalar S>
struct AdamWOptions {
  Schedule<S> learning_rate = S(1e-3);  ///< > 0, finite
  Schedule<S> beta1 = S(0.9);           ///< weight of the past in the mean gradient, in [0, 1)
  Schedule<S> beta2 = S(0.999);         ///< the same for the mean square, in [0, 1)
  Schedule<S> epsilon = S(1e-8);        ///< added to the root mean square; > 0, finite
  /// >= 0; times learning rate and parameters is taken off the parameters
  Schedule<S> weight_decay = S(0.01);
  Schedule<S> gradient_clip = S(0);   ///< largest norm of the whole gradient; >= 0, 0: any
  ParameterPredicate<S> decays = {};  ///< which parameters weight decay is for; empty: all

  using Scalar = S;
  static constexpr const char* kWhere = "kfac::AdamW";

  /// What the schedules give at a step. \throws OptionError
  detail::AdamValues<S> at(Index step) const { return detail::adam_values(*this, step, true); }
  void validate() const { at(0); }
};

namespace detail {

/// Adam with weight decay in the gradient (`AdamOptions`) or apart from it (`AdamWOptions`).
template <RealScalar S, class Options>
class AdaptiveMoments : public GradientRule<AdaptiveMoments<S, Options>, S, Options> {
  using Base = GradientRule<AdaptiveMoments<S, Options>, S, Options>;
  friend Base;

 protected:
  template <class Model>
  AdaptiveMoments(Model& model, Options options)
      : Base(model, std::move(options)),
        mean_(this->zeros()),
        square_(mean_),
        next_mean_(mean_),
        next_square_(mean_) {}

 private:
  void propose(const AdamValues<S>& now, VectorMap<S>& delta) {
    next_mean_ = now.beta1 * mean_ + (S(1) - now.beta1) * delta;
    next_square_ = now.beta2 * square_ + (S(1) - now.beta2) * delta.cwiseAbs2();
    next_mean_weight_ = next_weight(mean_weight_, now.beta1);
    next_square_weight_ = next_weight(square_weight_, now.beta2);
    const auto correct_mean = static_cast<S>(next_mean_weight_);
    const auto correct_square = static_cast<S>(next_square_weight_);
    delta = (-now.learning_rate / correct_mean) *
            (next_mean_.array() / ((next_square_.array() / correct_square).sqrt() + now.epsilon))
                .matrix();
  }
  void accept() {
    mean_.swap(next_mean_);
    square_.swap(next_square_);
    mean_weight_ = next_mean_weight_;
    square_weight_ = next_square_weight_;
  }
  void visit_memory(StateVisitor& visitor) {
    visitor.visit("mean", mean_);
    visitor.visit("square", square_);
    visitor.visit("mean_weight", mean_weight_);
    visitor.visit("square_weight", square_weight_);
  }

  /// The sum of the weights in an average that started at zero: 1 - beta^steps if beta is constant.
  static double next_weight(double weight, S beta) {
    return static_cast<double>(beta) * weight + (1 - static_cast<double>(beta));
  }

  Vector<S> mean_, square_, next_mean_, next_square_;
  double mean_weight_ = 0, square_weight_ = 0, next_mean_weight_ = 0, next_square_weight_ = 0;
};

}  // namespace detail

/// Adam as torch.optim.Adam. The model must outlive it and stay where it is.
/// \source Kingma and Ba 2015, arXiv 1412.6980, algorithm 1
template <RealScalar S>
class Adam : public detail::AdaptiveMoments<S, AdamOptions<S>> {
 public:
  static constexpr const char* kName = "Adam";

  /// \throws OptionError
  template <class Model>
  explicit Adam(Model& model, AdamOptions<typename Model::Scalar> options = {})
      : detail::AdaptiveMoments<S, AdamOptions<S>>(model, std::move(options)) {}
};

/// Adam with decoupled weight decay, as torch.optim.AdamW.
/// \source Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2
template <RealScalar S>
class AdamW : public detail::AdaptiveMoments<S, AdamWOptions<S>> {
 public:
  static constexpr const char* kName = "AdamW";

  /// \throws OptionError
  template <class Model>
  explicit AdamW(Model& model, AdamWOptions<typename Model::Scalar> options = {})
      : detail::AdaptiveMoments<S, AdamWOptions<S>>(model, std::move(options)) {}
};

template <class Model>
explicit Adam(Model&) -> Adam<typename Model::Scalar>;
template <class Model>
Adam(Model&, AdamOptions<typename Model::Scalar>) -> Adam<typename Model::Scalar>;
template <class Model>
explicit AdamW(Model&) -> AdamW<typename Model::Scalar>;
template <class Model>
AdamW(Model&, AdamWOptions<typename Model::Scalar>) -> AdamW<typename Model::Scalar>;

}  // namespace kfac
