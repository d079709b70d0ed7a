#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <kfac/merging/penalty_terms.hpp>

namespace kfac {

/// Keeps a network from forgetting earlier tasks while it is trained on others, without their data:
/// the quadratic around what it had learnt,
/// \f$ R [ \tfrac{\lambda}{2} (\theta - \theta_t)^T \sum_s F_s (\theta - \theta_t)
/// + \tfrac{\delta}{2} |\theta - \theta_t|^2 ] \f$, which is to be added to the loss. F_s is the
/// curvature of the sum of criteria over task s: K-FAC's (online structured Laplace), or diagonal
/// (online EWC). One penalty goes along with a network through all tasks:
///
///     kfac::LaplacePenalty penalty(model, {.strength = 3});
///     for (const auto& task : tasks) {
///       for (const auto& [x, y] : kfac::batches(task, 64, rng)) {
///         model.forward(x) ... model.backward(...);
///         penalty.add_gradient();  // then preconditioner.step(), if there is one
///         sgd.step();
///       }
///       penalty.add_task(kfac::estimate_curvature(model, loss, kfac::slices(task, 500)));
///     }
///
/// Before the first task there is only the prior, of mean 0 and precision delta; after it, with
/// `PenaltyCentre::Latest`, that is part of the Gaussian whose mean moves. The model must outlive
/// the penalty and stay where it is.
/// \source Ritter, Botev and Barber 2018, arXiv 1805.07810; Kirkpatrick et al. 2017, arXiv
///         1612.00796, and Schwarz et al. 2018, arXiv 1805.06370 (diagonal)
template <RealScalar S>
class LaplacePenalty {
 public:
  using Scalar = S;

  /// \throws OptionError
  template <class Model>
  explicit LaplacePenalty(Model& model, PenaltyOptions options = {})
      : options_((options.validate(kWhere), options)),
        blocks_(parameter_blocks(model)),
        gradient_(model.gradient()) {
    for (const LayerView<S>& layer : model.layers()) parameters_.push_back(layer.parameters);
    PenaltyQuadratic<S> first{.centre = Vector<S>::Zero(gradient_.size()), .blocks = {}};
    for (const ParameterBlock& block : blocks_)
      first.blocks.emplace_back().terms.resize(block.factored && compresses() ? 1 : 0);
    state_.quadratics.push_back(std::move(first));
  }

  /// A task is done: its curvature joins what there is, and with `PenaltyCentre::Latest` everything
  /// is centred at the network's parameters as they are now.
  /// \throws ShapeError or StateError, naming the layer, if the estimate is not of such a network,
  ///         or has neither factors nor diagonals; ValueError; MemoryError. All is as it was then.
  void add_task(const CurvatureEstimate<S>& estimate) { add_task(estimate, flat()); }
  /// The same at other parameters, flat.
  void add_task(const CurvatureEstimate<S>& estimate, const ConstVectorRef<S>& parameters) {
    static constexpr const char* kAdd = "kfac::LaplacePenalty::add_task";
    detail::check_estimate(kAdd, estimate, blocks_);
    detail::check_size(kAdd, "parameters", parameters.size(), gradient_.size(), "entries");
    detail::check_finite(kAdd, "parameters", parameters);
    const CurvatureRecord& record = estimate.record;
    if (!(record.loss_scale > 0 && std::isfinite(record.loss_scale)) || record.examples < 1)
      raise<ValueError>(std::string(kAdd) + ": 'estimate' has " + std::to_string(record.examples) +
                        " examples and the loss_scale " + detail::text(record.loss_scale) +
                        ", expected both > 0");
    for (const BlockEstimate<S>& block : estimate.blocks) {
      if (!block.has_factors() && block.diagonal.size() == 0)
        raise<StateError>(std::string(kAdd) +
                          ": 'estimate' has neither factors nor a diagonal, expected one of them "
                          "(layer '" +
                          block.block.name() + "')");
      detail::naming_layer(block.block.name(), [&] {
        detail::check_finite(kAdd, "estimate.a", block.factors.a);
        detail::check_finite(kAdd, "estimate.g", block.factors.g);
        detail::check_finite(kAdd, "estimate.diagonal", block.diagonal);
      });
    }
    detail::check_memory(kAdd,
                         penalty_memory<S>(blocks_, record.structure, state_.tasks + 1, options_),
                         options_.memory_limit);

    forget();
    if (options_.centre == PenaltyCentre::EachTask)
      state_.quadratics.emplace_back().blocks.resize(blocks_.size());
    PenaltyQuadratic<S>& quadratic = state_.quadratics.back();
    quadratic.centre = parameters;
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      add_block(estimate.blocks[i], record, quadratic.blocks[i]);
    ++state_.tasks;
    state_.examples += static_cast<double>(record.examples);
    state_.loss_scale = record.loss_scale;
  }
  Index tasks() const { return state_.tasks; }

  /// Adds the penalty's gradient at the network's parameters to the network's gradient, after a
  /// backward pass. Returns the penalty. \throws StateError if no loss scale is known
  S add_gradient() {
    parameters_now_.resize(gradient_.size());
    read_parameters(parameters_now_);
    return accumulate(parameters_now_, gradient_, scratch_);
  }
  /// The penalty at the network's parameters. \throws likewise
  S value() const { return value(flat()); }

  // The same of any flat parameters. \throws also ShapeError

  S value(const ConstVectorRef<S>& parameters) const {
    check("value", parameters);
    Vector<S> gradient = Vector<S>::Zero(parameters.size());
    Scratch scratch;
    return accumulate(parameters, gradient, scratch);
  }
  Vector<S> gradient(const ConstVectorRef<S>& parameters) const {
    check("gradient", parameters);
    Vector<S> gradient = Vector<S>::Zero(parameters.size());
    Scratch scratch;
    accumulate(parameters, gradient, scratch);
    return gradient;
  }
  /// The product of the penalty's Hessian, which is the same everywhere, with a flat vector.
  Vector<S> product(const ConstVectorRef<S>& v) const {
    check("product", v);
    Vector<S> result = Vector<S>::Zero(v.size());
    if (is_zero()) return result;
    Buffer<S> scratch;
    for (const PenaltyQuadratic<S>& quadratic : state_.quadratics)
      add_product(quadratic, v, result, scratch);
    result += static_cast<S>(loss_scale() * options_.prior_precision) * v;
    return result;
  }

  const PenaltyOptions& options() const { return options_; }
  const std::vector<ParameterBlock>& blocks() const { return blocks_; }
  /// Whether all tasks are one Kronecker product.
  bool compresses() const {
    return options_.centre == PenaltyCentre::Latest &&
           options_.compression != PenaltyCompression::KeepAll;
  }
  /// \throws OptionError
  void set_strength(double strength) {
    change([=](PenaltyOptions& options) { options.strength = strength; });
  }
  /// For a task of another size, or a loss of another scale. \throws OptionError
  void set_loss_scale(double loss_scale) {
    change([=](PenaltyOptions& options) { options.loss_scale = loss_scale; });
  }

  /// What it takes now, beside the memory of steps.
  MemoryEstimate memory() const {
    MemoryEstimate estimate;
    double centres = 0;
    for (const PenaltyQuadratic<S>& quadratic : state_.quadratics)
      centres += static_cast<double>(quadratic.centre.size());
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      Index entries = 0;
      for (const PenaltyQuadratic<S>& quadratic : state_.quadratics) {
        for (const linalg::KroneckerTerm<S>& term : quadratic.blocks[i].terms)
          entries += term.a.size() + term.g.size();
        entries += quadratic.blocks[i].diagonal.size();
      }
      estimate.parts.push_back({blocks_[i].name(), static_cast<double>(entries) * sizeof(S)});
    }
    estimate.parts.push_back({"centres", centres * sizeof(S)});
    return estimate;
  }

  /// What tasks have made of it; `kfac/io/penalty_file.hpp` writes it.
  const PenaltyState<S>& state() const { return state_; }
  /// Takes a state of the same network and options. \throws ShapeError
  void set_state(PenaltyState<S> state) {
    static constexpr const char* kSet = "kfac::LaplacePenalty::set_state";
    const bool each = options_.centre == PenaltyCentre::EachTask;
    detail::check_size(kSet, "quadratics", static_cast<Index>(state.quadratics.size()),
                       each ? state.tasks + 1 : 1, "quadratics");
    for (const PenaltyQuadratic<S>& quadratic : state.quadratics) {
      detail::check_size(kSet, "centre", quadratic.centre.size(), gradient_.size(), "entries");
      detail::check_size(kSet, "blocks", static_cast<Index>(quadratic.blocks.size()),
                         static_cast<Index>(blocks_.size()), "blocks");
      for (std::size_t i = 0; i < blocks_.size(); ++i) {
        const PenaltyBlock<S>& own = quadratic.blocks[i];
        const ParameterBlock& block = blocks_[i];
        if (compresses())
          detail::check_size(kSet, "terms", static_cast<Index>(own.terms.size()),
                             block.factored ? 1 : 0, "terms");
        for (const linalg::KroneckerTerm<S>& term : own.terms) {
          if (term.a.size() == 0 && term.g.size() == 0) continue;
          detail::check_shape(kSet, "a", term.a.rows(), term.a.cols(), block.columns(),
                              block.columns());
          detail::check_shape(kSet, "g", term.g.rows(), term.g.cols(), block.outputs,
                              block.outputs);
        }
        if (own.diagonal.size() > 0)
          detail::check_shape(kSet, "diagonal", own.diagonal.rows(), own.diagonal.cols(),
                              block.outputs, block.columns());
      }
    }
    state_ = std::move(state);
  }

  /// For a run to be resumed. Where every task is kept, the penalty must have as many as the one
  /// that was saved.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("tasks", state_.tasks);
    visitor.visit("examples", state_.examples);
    visitor.visit("loss_scale", state_.loss_scale);
    for (std::size_t q = 0; q < state_.quadratics.size(); ++q)
      visitor.under("quadratic " + std::to_string(q) + '/', [&] {
        PenaltyQuadratic<S>& quadratic = state_.quadratics[q];
        visitor.visit("centre", quadratic.centre);
        for (std::size_t i = 0; i < blocks_.size(); ++i)
          visitor.under("layer " + blocks_[i].name() + '/',
                        [&] { visit_block(visitor, blocks_[i], quadratic.blocks[i]); });
      });
  }

 private:
  static constexpr const char* kWhere = "kfac::LaplacePenalty";

  /// What an evaluation works in.
  struct Scratch {
    Vector<S> difference, own;
    Buffer<S> product;
  };

  bool is_zero() const {
    return options_.prior_precision == 0 && (state_.tasks == 0 || options_.strength == 0);
  }

  void read_parameters(Vector<S>& into) const {
    Index offset = 0;
    for (const VectorMap<S>& layer : parameters_) {
      into.segment(offset, layer.size()) = layer;
      offset += layer.size();
    }
  }
  Vector<S> flat() const {
    Vector<S> result(gradient_.size());
    read_parameters(result);
    return result;
  }

  /// As the options say, before a task is added.
  void forget() {
    if (options_.decay == 1) return;
    const auto decay = static_cast<S>(options_.decay);
    state_.examples *= options_.decay;
    for (PenaltyQuadratic<S>& quadratic : state_.quadratics)
      for (PenaltyBlock<S>& block : quadratic.blocks) {
        for (linalg::KroneckerTerm<S>& term : block.terms) term.g *= decay;
        block.diagonal *= decay;
      }
  }

  void add_block(const BlockEstimate<S>& estimate, const CurvatureRecord& record,
                 PenaltyBlock<S>& block) const {
    const auto inverse_scale = static_cast<S>(1 / record.loss_scale);
    if (!estimate.has_factors()) {
      if (block.diagonal.size() == 0)
        block.diagonal = inverse_scale * estimate.diagonal;
      else
        block.diagonal += inverse_scale * estimate.diagonal;
      return;
    }
    linalg::KroneckerTerm<S> added{estimate.factors.a, inverse_scale * estimate.factors.g};
    if (compresses())
      block.terms[0] =
          detail::compressed(block.terms[0], state_.examples, added,
                             static_cast<double>(record.examples), options_.compression);
    else
      block.terms.push_back(std::move(added));
  }

  double loss_scale() const {
    if (options_.loss_scale) return *options_.loss_scale;
    if (state_.tasks == 0)
      raise<StateError>(std::string(kWhere) +
                        ": there is a prior but no loss scale, expected 'loss_scale' in the "
                        "options before the first task");
    return state_.loss_scale;
  }

  /// Adds the curvature's product, with strength and scale, to `sum`.
  void add_product(const PenaltyQuadratic<S>& quadratic, const ConstVectorRef<S>& v,
                   VectorRef<S> sum, Buffer<S>& scratch) const {
    const auto scale = static_cast<S>(loss_scale() * options_.strength);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const ParameterBlock& block = blocks_[i];
      quadratic.blocks[i].add_product(
          ConstMatrixMap<S>(v.data() + block.offset, block.outputs, block.columns()), scale,
          MatrixMap<S>(sum.data() + block.offset, block.outputs, block.columns()), scratch);
    }
  }

  /// Adds the gradient; returns the value.
  S accumulate(const ConstVectorRef<S>& parameters, VectorRef<S> gradient, Scratch& scratch) const {
    if (is_zero()) return 0;
    S value = 0;
    scratch.own.resize(parameters.size());
    for (std::size_t q = 0; q < state_.quadratics.size(); ++q) {
      scratch.difference = parameters - state_.quadratics[q].centre;
      if (q == 0)
        scratch.own = static_cast<S>(loss_scale() * options_.prior_precision) * scratch.difference;
      else
        scratch.own.setZero();
      add_product(state_.quadratics[q], scratch.difference, scratch.own, scratch.product);
      value += scratch.difference.dot(scratch.own) / 2;
      gradient += scratch.own;
    }
    return value;
  }

  static void visit_block(StateVisitor& visitor, const ParameterBlock& block,
                          PenaltyBlock<S>& own) {
    for (std::size_t t = 0; t < own.terms.size(); ++t)
      visitor.under("term " + std::to_string(t) + '/', [&] {
        visitor.visit_optional("a", own.terms[t].a, block.columns(), block.columns());
        visitor.visit_optional("g", own.terms[t].g, block.outputs, block.outputs);
      });
    visitor.visit_optional("diagonal", own.diagonal, block.outputs, block.columns());
  }

  void check(const char* function, const ConstVectorRef<S>& v) const {
    detail::check_size((std::string(kWhere) + "::" + function).c_str(), "parameters", v.size(),
                       gradient_.size(), "entries");
  }

  template <class Change>
  void change(Change apply) {
    PenaltyOptions changed = options_;
    apply(changed);
    changed.validate(kWhere);
    options_ = changed;
  }

  PenaltyOptions options_;
  std::vector<ParameterBlock> blocks_;
  VectorMap<S> gradient_;                 // of the model
  std::vector<VectorMap<S>> parameters_;  // of its layers
  PenaltyState<S> state_;
  Vector<S> parameters_now_;
  Scratch scratch_;
};

template <class Model>
explicit LaplacePenalty(Model&) -> LaplacePenalty<typename Model::Scalar>;
template <class Model>
LaplacePenalty(Model&, PenaltyOptions) -> LaplacePenalty<typename Model::Scalar>;

}  // namespace kfac
