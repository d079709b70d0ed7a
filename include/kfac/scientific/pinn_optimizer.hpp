#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/data/dataset.hpp>
#include <kfac/linalg/kronecker_pair_solver.hpp>
#include <kfac/optim/quadratic_model.hpp>
#include <kfac/scientific/pinn_memory.hpp>
#include <kfac/scientific/pinn_options.hpp>
#include <kfac/scientific/squared_residual.hpp>

namespace kfac {

/// K-FAC for networks that solve differential equations: minimises
///
///     interior_weight / (2 N) sum_n |r_n - f_n|^2 + boundary_weight / (2 M) sum_m |b_m - h_m|^2
///
/// where r is what one network puts out at points of the interior (the equation's left side) and b
/// what another puts out at points of the boundary, both with the same parameters: a `jet_network`
/// with a residual, and the plain model for given values or another `jet_network` for given
/// derivatives.
///
///     auto laplace = kfac::jet_network(model, kfac::JetSlots<double>::laplacian(2),
///                                      [](const auto&, const auto& u) { return -u.laplacian(); });
///     kfac::PinnOptimizer optimizer(laplace, model, {.damping = 1e-8});
///     for (int step = 0; step < 300; ++step) optimizer.step({x, source}, {edge, values});
///
/// A layer's curvature is the sum of two Kronecker products, one of each term, whose damped inverse
/// is exact: \f$ (A_1+\sqrt\lambda I) \otimes (G_1+\sqrt\lambda I) + (A_2+\sqrt\lambda I) \otimes
/// (G_2+\sqrt\lambda I) \f$. Initial conditions are points of the boundary, too. Layers that
/// announce nothing keep their plain gradient. Both networks must outlive the optimizer and stay
/// where they are.
/// \source Dangel, Mueller and Zeinhofer 2024, arXiv 2405.15603
template <class Interior, class Boundary>
class PinnOptimizer {
 public:
  using Scalar = typename Interior::Scalar;
  using S = Scalar;
  /// Points, `coordinates x points`, and what the network should put out there.
  using Data = Dataset<S, Matrix<S>>;

  /// \throws OptionError; ValueError if the networks do not have the same parameters, or are one
  PinnOptimizer(Interior& interior, Boundary& boundary,
                PinnOptions<typename Interior::Scalar> options = {})
      : options_((options.validate(), std::move(options))),
        networks_{interior, boundary},
        interior_(interior, options_.interior_weight),
        boundary_(boundary, options_.boundary_weight),
        gradient_(interior.parameter_count()),
        velocity_(Vector<S>::Zero(interior.parameter_count())) {
    bool same = static_cast<const void*>(&interior) != static_cast<const void*>(&boundary) &&
                interior.parameter_count() == boundary.parameter_count() &&
                interior_.layers().size() == boundary_.layers().size();
    for (std::size_t i = 0; same && i < interior_.layers().size(); ++i) {
      const LayerView<S>& one = interior_.layers()[i];
      const LayerView<S>& other = boundary_.layers()[i];
      same = one.parameters.data() == other.parameters.data() &&
             one.parameters.size() == other.parameters.size() &&
             one.kronecker.has_value() == other.kronecker.has_value();
    }
    if (!same)
      raise<ValueError>(std::string(kWhere) +
                        ": 'boundary' has parameters of its own or is 'interior' itself, expected "
                        "two networks with the same parameters");
  }

  /// One step on points of the interior and of the boundary, which may be others at every step. If
  /// the report is not ok, the parameters are as they were.
  /// \throws ShapeError or ValueError for data that do not fit or are not finite; OptionError for
  ///         what a schedule gives; MemoryError if `pinn_memory` is above the limit
  const PinnReport<S>& step(const Data& interior, const Data& boundary) {
    const typename PinnOptions<S>::Values now = options_.at(steps_);
    check(interior, boundary);
    detail::check_memory(kWhere,
                         pinn_memory(networks_.first, interior.examples(), networks_.second,
                                     boundary.examples(), interior.inputs.rows()),
                         options_.memory_limit);
    report_ = {};
    report_.damping = now.damping;
    report_.interior_loss =
        interior_.collect(kWhere, "interior.targets", interior.inputs, interior.targets);
    report_.boundary_loss =
        boundary_.collect(kWhere, "boundary.targets", boundary.inputs, boundary.targets);
    report_.loss = report_.interior_loss + report_.boundary_loss;
    gradient_ = interior_.gradient() + boundary_.gradient();
    if (!std::isfinite(report_.loss)) return fail(StepStatus::NonFiniteLoss);
    if (!gradient_.allFinite()) return fail(StepStatus::NonFiniteGradient);
    for (const LayerView<S>* layer : {interior_.non_finite(), boundary_.non_finite()})
      if (layer) return fail(StepStatus::NonFiniteFactor, layer->name);
    interior_.commit(now.factor_decay);
    boundary_.commit(now.factor_decay);

    direction_ = -gradient_;
    if (!precondition(now.damping)) return report_;
    if (!direction_.allFinite()) return fail(StepStatus::NonFiniteStep);
    if (options_.step == PinnStep::LineSearch)
      search(now.momentum, interior, boundary);
    else
      minimise_model(now.damping, interior, boundary);
    if (report_.ok()) ++steps_;
    return report_;
  }

  /// The loss at points, with weights. \throws ShapeError, ValueError
  S loss(const Data& interior, const Data& boundary) {
    check(interior, boundary);
    return interior_.loss(kWhere, "interior.targets", interior.inputs, interior.targets) +
           boundary_.loss(kWhere, "boundary.targets", boundary.inputs, boundary.targets);
  }

  const PinnOptions<S>& options() const { return options_; }
  const PinnReport<S>& report() const { return report_; }
  Index steps() const { return steps_; }
  /// The damped factors of a layer, of the interior and the boundary, from the running averages.
  /// \pre the layer (of `layers()`) has Kronecker structure
  std::pair<linalg::KroneckerTerm<S>, linalg::KroneckerTerm<S>> factors(std::size_t layer,
                                                                        S damping) const {
    return {interior_.factors(layer, damping), boundary_.factors(layer, damping)};
  }
  const std::vector<LayerView<S>>& layers() const { return interior_.layers(); }

  /// Everything that steps change beside the parameters, for a run to be resumed.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    visitor.visit("velocity", velocity_);
    visitor.in("interior", interior_);
    visitor.in("boundary", boundary_);
  }

 private:
  static constexpr const char* kWhere = "kfac::PinnOptimizer";

  const PinnReport<S>& fail(StepStatus status, const std::string& layer = {}) {
    interior_.discard();
    boundary_.discard();
    report_.status = status;
    report_.layer = layer;
    return report_;
  }

  /// Before anything is changed.
  void check(const Data& interior, const Data& boundary) {
    detail::check_size(kWhere, "interior.targets", interior.targets.cols(), interior.examples(),
                       "columns");
    detail::check_size(kWhere, "boundary.targets", boundary.targets.cols(), boundary.examples(),
                       "columns");
    detail::check_finite(kWhere, "interior.targets", interior.targets);
    detail::check_finite(kWhere, "boundary.targets", boundary.targets);
  }

  /// Multiplies the direction with the inverse of every layer's curvature; with more damping where
  /// that cannot be factorised.
  bool precondition(S damping) {
    const Vector<S> plain = direction_;
    for (Index retry = 0; retry <= options_.damping_retries; ++retry, damping *= S(10)) {
      report_.damping = damping;
      report_.layer = precondition_with(damping);
      if (report_.layer.empty()) return true;
      direction_ = plain;
    }
    report_.status = StepStatus::FactorizationFailed;
    return false;
  }
  /// The name of the first layer that cannot be factorised; empty if all can.
  std::string precondition_with(S damping) {
    Index offset = 0;
    for (std::size_t i = 0; i < layers().size(); ++i) {
      const LayerView<S>& layer = layers()[i];
      if (layer.kronecker) {
        const auto [first, second] = factors(i, damping);
        const auto solver = linalg::KroneckerPairSolver<S>::try_make(first, second);
        if (!solver) return layer.name;
        MatrixMap<S> block(direction_.data() + offset, first.outputs(), first.inputs());
        block = solver->solve(block);
      }
      offset += layer.parameters.size();
    }
    return {};
  }

  void search(S momentum, const Data& interior, const Data& boundary) {
    direction_ += momentum * velocity_;
    report_.momentum = momentum;
    report_.learning_rate = move(options_.line_search, interior, boundary);
    if (report_.learning_rate > 0)
      velocity_ = direction_;
    else
      velocity_.setZero();
  }
  /// Moves the parameters along the direction, and returns how far.
  S move(const LineSearchOptions<S>& lengths, const Data& interior, const Data& boundary) {
    const Vector<S> before = flat_parameters(networks_.first);
    const auto at = [&](S length) {
      set_flat_parameters(networks_.first, before + length * direction_);
      return interior_.loss(interior.inputs, interior.targets) +
             boundary_.loss(boundary.inputs, boundary.targets);
    };
    const LineSearchResult<S> best = grid_line_search<S>(report_.loss, at, lengths);
    report_.evaluations = best.evaluations;
    set_flat_parameters(networks_.first, before + best.length * direction_);
    return best.length;
  }

  /// The step a direction + m velocity that minimises the model of the loss with the exact
  /// Gauss-Newton matrix, plus damping / 2 times its square.
  void minimise_model(S damping, const Data& interior, const Data& boundary) {
    QuadraticModel model;
    model.accuracy = static_cast<double>(std::numeric_limits<S>::epsilon());
    model.slope << dot(direction_, gradient_), dot(velocity_, gradient_);
    model.gram << dot(direction_, direction_), dot(direction_, velocity_),
        dot(velocity_, direction_), dot(velocity_, velocity_);
    add_curvature(interior_, model.curvature);
    add_curvature(boundary_, model.curvature);
    const auto lambda = static_cast<double>(damping);
    const Eigen::Vector2d w = model.minimum(lambda, {}, {});
    direction_ = static_cast<S>(w(0)) * direction_ + static_cast<S>(w(1)) * velocity_;
    if (!direction_.allFinite()) {
      report_.status = StepStatus::NonFiniteStep;
      return;
    }
    report_.predicted_change = static_cast<S>(model.change(w));
    // Where the loss is far from its model, less of the step is better.
    LineSearchOptions<S> lengths = options_.line_search;
    lengths.largest = S(1);
    lengths.choice = LineSearchChoice::FirstDecrease;
    const S length = move(lengths, interior, boundary);
    velocity_ = length * direction_;
    report_.learning_rate = length * static_cast<S>(w(0));
    report_.momentum = length * static_cast<S>(w(1));
  }
  template <class Term>
  void add_curvature(Term& term, Eigen::Matrix2d& curvature) const {
    const Matrix<double> one = term.tangent(direction_).template cast<double>();
    const Matrix<double> other = term.tangent(velocity_).template cast<double>();
    const double cross = one.cwiseProduct(other).sum();
    Eigen::Matrix2d products;
    products << one.squaredNorm(), cross, cross, other.squaredNorm();
    curvature += static_cast<double>(term.factor()) * products;
  }
  static double dot(const Vector<S>& a, const Vector<S>& b) {
    return a.template cast<double>().dot(b.template cast<double>());
  }

  PinnOptions<S> options_;
  std::pair<Interior&, Boundary&> networks_;
  detail::SquaredResidual<Interior> interior_;
  detail::SquaredResidual<Boundary> boundary_;
  Vector<S> gradient_, direction_, velocity_;
  PinnReport<S> report_;
  Index steps_ = 0;
};

template <class Interior, class Boundary>
PinnOptimizer(Interior&, Boundary&) -> PinnOptimizer<Interior, Boundary>;
template <class Interior, class Boundary>
PinnOptimizer(Interior&, Boundary&, PinnOptions<typename Interior::Scalar>)
    -> PinnOptimizer<Interior, Boundary>;

}  // namespace kfac
