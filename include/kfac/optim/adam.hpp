#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac {

template <RealScalar S>
struct AdamOptions {
  S learning_rate = S(1e-3);  ///< > 0, finite
  S beta1 = S(0.9);           ///< weight of the past in the mean gradient, in [0, 1)
  S beta2 = S(0.999);         ///< the same for the mean square, in [0, 1)
  S epsilon = S(1e-8);        ///< added to the root mean square; > 0
  S weight_decay = 0;         ///< >= 0; times the parameters is added to the gradient
};

template <RealScalar S>
struct AdamWOptions {
  S learning_rate = S(1e-3);  ///< > 0, finite
  S beta1 = S(0.9);           ///< weight of the past in the mean gradient, in [0, 1)
  S beta2 = S(0.999);         ///< the same for the mean square, in [0, 1)
  S epsilon = S(1e-8);        ///< added to the root mean square; > 0
  S weight_decay = S(0.01);   ///< >= 0; times learning rate and parameters is taken off them
};

namespace detail {

/// Adam with weight decay in the gradient (`AdamOptions`) or apart from it (`AdamWOptions`).
template <RealScalar S, template <RealScalar> class OptionsTemplate>
class AdaptiveMoments {
  static constexpr bool kDecoupled = std::same_as<OptionsTemplate<S>, AdamWOptions<S>>;

 public:
  using Options = OptionsTemplate<S>;

  template <class Model>
  AdaptiveMoments(Model& model, const Options& options)
      : options_(options),
        step_(model),
        mean_(Vector<S>::Zero(step_.delta().size())),
        square_(mean_),
        next_mean_(mean_),
        next_square_(mean_) {
    validate(options_);
  }

  /// Steps along the model's gradient, as the last backward pass (and whatever was done to the
  /// gradient since) left it. The loss, where it is given, is checked and reported.
  const StepReport<S>& step(std::optional<S> loss = {}) {
    if (!step_.begin(loss)) return step_.report();
    const Options& o = options_;
    Vector<S>& delta = step_.delta();
    delta = step_.gradient();
    if (!kDecoupled) step_.add_parameters(o.weight_decay, delta);
    next_mean_ = o.beta1 * mean_ + (S(1) - o.beta1) * delta;
    next_square_ = o.beta2 * square_ + (S(1) - o.beta2) * delta.cwiseAbs2();

    const auto count = static_cast<S>(steps_ + 1);
    const S correct_mean = S(1) - std::pow(o.beta1, count);
    const S correct_square = S(1) - std::pow(o.beta2, count);
    delta = (-o.learning_rate / correct_mean) *
            (next_mean_.array() / ((next_square_.array() / correct_square).sqrt() + o.epsilon))
                .matrix();
    if (kDecoupled) step_.add_parameters(-o.learning_rate * o.weight_decay, delta);
    if (step_.finish()) {
      mean_.swap(next_mean_);
      square_.swap(next_square_);
      ++steps_;
    }
    return step_.report();
  }

  const Options& options() const { return options_; }
  /// For schedules. \throws OptionError
  void set_learning_rate(S learning_rate) {
    Options changed = options_;
    changed.learning_rate = learning_rate;
    validate(changed);
    options_ = changed;
  }

 private:
  static void validate(const Options& o) {
    const char* where = kDecoupled ? "kfac::AdamW" : "kfac::Adam";
    check_option(o.learning_rate > 0 && std::isfinite(o.learning_rate), where, "learning_rate",
                 o.learning_rate, "> 0 and finite");
    check_option(o.beta1 >= 0 && o.beta1 < 1, where, "beta1", o.beta1, "in [0, 1)");
    check_option(o.beta2 >= 0 && o.beta2 < 1, where, "beta2", o.beta2, "in [0, 1)");
    check_option(o.epsilon > 0, where, "epsilon", o.epsilon, "> 0");
    check_option(o.weight_decay >= 0 && std::isfinite(o.weight_decay), where, "weight_decay",
                 o.weight_decay, ">= 0 and finite");
  }

  Options options_;
  ParameterStep<S> step_;
  Vector<S> mean_, square_, next_mean_, next_square_;
  Index steps_ = 0;
};

}  // namespace detail

/// Adam as torch.optim.Adam. The model must outlive it and stay where it is.
/// \source Kingma and Ba 2015, arXiv 1412.6980, algorithm 1
template <RealScalar S>
class Adam : public detail::AdaptiveMoments<S, AdamOptions> {
 public:
  /// \throws OptionError
  template <class Model>
  explicit Adam(Model& model, AdamOptions<typename Model::Scalar> options = {})
      : detail::AdaptiveMoments<S, AdamOptions>(model, options) {}
};

/// Adam with decoupled weight decay, as torch.optim.AdamW.
/// \source Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2
template <RealScalar S>
class AdamW : public detail::AdaptiveMoments<S, AdamWOptions> {
 public:
  /// \throws OptionError
  template <class Model>
  explicit AdamW(Model& model, AdamWOptions<typename Model::Scalar> options = {})
      : detail::AdaptiveMoments<S, AdamWOptions>(model, options) {}
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
