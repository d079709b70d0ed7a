#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include <kfac/core/errors.hpp>
#include <kfac/core/random.hpp>
#include <kfac/core/state.hpp>

namespace kfac {

template <RealScalar S>
struct MetropolisOptions {
  Index walkers = 1024;   ///< >= 1
  Index coordinates = 3;  ///< of each, >= 1
  Index moves = 10;       ///< of all walkers, from one sample to the next; >= 1
  Index burn_in = 100;    ///< moves before the first sample, >= 0
  S spread = 1;           ///< standard deviation of where walkers start, around 0; >= 0, finite
  S width = S(0.5);       ///< standard deviation of a move at first, > 0, finite
  S acceptance = S(0.5);  ///< the share of accepted moves that the width is adapted to, in (0, 1)
  S adaptation = S(0.2);  ///< how fast, as a power of e for each sample; >= 0, 0: not at all
  std::uint64_t seed = 0;

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::MetropolisSampler";
    detail::check_option(walkers >= 1, kWhere, "walkers", walkers, ">= 1");
    detail::check_option(coordinates >= 1, kWhere, "coordinates", coordinates, ">= 1");
    detail::check_option(moves >= 1, kWhere, "moves", moves, ">= 1");
    detail::check_option(burn_in >= 0, kWhere, "burn_in", burn_in, ">= 0");
    detail::check_option(spread >= 0 && std::isfinite(spread), kWhere, "spread", spread,
                         ">= 0 and finite");
    detail::check_option(width > 0 && std::isfinite(width), kWhere, "width", width,
                         "> 0 and finite");
    detail::check_option(acceptance > 0 && acceptance < 1, kWhere, "acceptance", acceptance,
                         "in (0, 1)");
    detail::check_option(adaptation >= 0 && std::isfinite(adaptation), kWhere, "adaptation",
                         adaptation, ">= 0 and finite");
  }
};

/// Walkers whose distribution is that of |psi|^2: normal moves of all coordinates of a walker, each
/// accepted with probability min(1, |psi(new) / psi(old)|^2).
///
///     kfac::MetropolisSampler<double> sampler({.walkers = 1024, .coordinates = 3});
///     const Eigen::MatrixXd& x = sampler.sample([&](const auto& x) { return log_abs_psi(x); });
/// \source Metropolis et al., Equation of state calculations by fast computing machines, 1953
template <RealScalar S>
class MetropolisSampler {
 public:
  /// \throws OptionError
  explicit MetropolisSampler(MetropolisOptions<S> options = {})
      : options_((options.validate(), options)),
        rng_(options_.seed),
        width_(options_.width),
        walkers_(options_.coordinates, options_.walkers) {
    rng_.fill_normal(walkers_);
    walkers_ *= options_.spread;
  }

  /// Moves the walkers and returns them, `coordinates x walkers`. `log_abs(x)` gives log |psi| of
  /// each column; where that is not finite, no walker goes.
  /// \throws ShapeError if it does not give one number a walker
  template <class LogAbs>
  const Matrix<S>& sample(const LogAbs& log_abs) {
    Vector<S> now = evaluate(log_abs, walkers_);
    if (!std::exchange(is_burnt_in_, true))
      for (Index i = 0; i < options_.burn_in; ++i) {
        acceptance_ = move(log_abs, now);
        adapt();
      }
    S accepted = 0;
    for (Index i = 0; i < options_.moves; ++i) accepted += move(log_abs, now);
    acceptance_ = accepted / static_cast<S>(options_.moves);
    adapt();
    return walkers_;
  }

  const Matrix<S>& walkers() const { return walkers_; }
  /// The share of the moves for the last sample that were accepted.
  S acceptance() const { return acceptance_; }
  /// Of the next moves.
  S width() const { return width_; }
  const MetropolisOptions<S>& options() const { return options_; }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("rng", rng_);
    visitor.visit("width", width_);
    visitor.visit("walkers", walkers_);
    visitor.visit("is_burnt_in", is_burnt_in_);
  }

 private:
  template <class LogAbs>
  static Vector<S> evaluate(const LogAbs& log_abs, const Matrix<S>& x) {
    Vector<S> values = log_abs(x);
    detail::check_size("kfac::MetropolisSampler::sample", "log_abs", values.size(), x.cols(),
                       "values");
    return values;
  }

  /// Of every walker; returns the share that was accepted.
  template <class LogAbs>
  S move(const LogAbs& log_abs, Vector<S>& now) {
    proposed_.resize(walkers_.rows(), walkers_.cols());
    rng_.fill_normal(proposed_);
    proposed_ = walkers_ + width_ * proposed_;
    const Vector<S> values = evaluate(log_abs, proposed_);
    Index accepted = 0;
    for (Index n = 0; n < walkers_.cols(); ++n) {
      const S log_ratio = S(2) * (values(n) - now(n));
      const bool leaves_nowhere = !std::isfinite(now(n)) && std::isfinite(values(n));
      const double draw = rng_.uniform();
      if (!std::isfinite(values(n))) continue;
      if (!leaves_nowhere && std::log(1 - draw) >= static_cast<double>(log_ratio)) continue;
      walkers_.col(n) = proposed_.col(n);
      now(n) = values(n);
      ++accepted;
    }
    return static_cast<S>(accepted) / static_cast<S>(walkers_.cols());
  }
  void adapt() { width_ *= std::exp(options_.adaptation * (acceptance_ - options_.acceptance)); }

  MetropolisOptions<S> options_;
  Rng rng_;
  S width_;
  S acceptance_ = 0;
  bool is_burnt_in_ = false;
  Matrix<S> walkers_, proposed_;
};

}  // namespace kfac
