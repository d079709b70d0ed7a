#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/coarse_basis.hpp>
#include <kfac/curvature/layer_curvature.hpp>
#include <kfac/curvature/running_mean.hpp>
#include <kfac/linalg/spd_inverse.hpp>
#include <kfac/loss/loss.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {

/// How the coarse solution joins the one that is made layer by layer.
enum class CoarseForm {
  Additive,  ///< it is added to it
  Deflated,  ///< each works on what the other leaves: exact on the coarse space, and dearer
};

template <RealScalar S>
struct TwoLevelOptions {
  CoarseSpace space = CoarseSpace::None;
  CoarseForm form = CoarseForm::Additive;
  Index vectors = 1;     ///< eigenvectors a layer, in the spectral space; >= 1
  Index iterations = 2;  ///< orthogonal iterations a refresh, likewise; >= 1
  S decay = S(0.95);     ///< weight of the past in the coarse curvature's average, in [0, 1)

  void validate(const char* where) const {
    detail::check_option(vectors >= 1, where, "vectors", vectors, ">= 1");
    detail::check_option(iterations >= 1, where, "iterations", iterations, ">= 1");
    detail::check_option(decay >= 0 && decay < 1, where, "decay", decay, "in [0, 1)");
  }
};

/// The second level of a two-level preconditioner: what a preconditioner M that treats each layer
/// by itself knows nothing of, the curvature across layers, in a coarse space spanned by Z
/// (`CoarseSpace`). With C the exact generalised Gauss-Newton matrix and damping d, C_d = C + d I,
/// E = Z^T C_d Z and Q = Z E^-1 Z^T, a gradient g becomes
///
/// - additive: \f$ M^{-1} g + Q g \f$;
/// - deflated: \f$ P^T M^{-1} P g + Q g \f$ with \f$ P = I - C_d Q \f$, which solves C_d v = g
///   where g is in the range of C_d Z, and Z^T C_d v = Z^T g always.
///
/// Both are symmetric and positive definite if M is. C is known by its products with Z alone, of
/// the batches that come by (`update`), in running averages with `running_weight`.
///
/// An update costs a tangent pass for each column of Z, and in the deflated form a backward pass
/// and the memory of two copies of all parameters for each besides. It is no sure gain: Koroko et
/// al., 2023, arXiv 2303.18083, found none over one level with several coarse spaces.
/// \source Tselepidis, Kohler and Orvieto, Two-level K-FAC preconditioning for deep learning, 2020,
///         arXiv 2011.00573, for a second level; Mandel, Balancing domain decomposition, 1993, and
///         Tang, Nabben, Vuik and Erlangga, J. Sci. Comput. 39, 2009, for the deflated form (there
///         BNN)
template <RealScalar S>
class TwoLevel {
  using Curvatures = std::vector<std::unique_ptr<LayerCurvature<S>>>;

 public:
  /// For `model.layers()`, and the curvature of those of them that have any, which must outlive
  /// it: the spectral space is made of it. \throws OptionError
  TwoLevel(const std::vector<LayerView<S>>& layers, const Curvatures& curvatures,
           TwoLevelOptions<S> options)
      : options_((options.validate("kfac::TwoLevel"), options)),
        curvatures_(of_each(layers, curvatures)),
        basis_(layers, options.space, options.vectors,
               std::vector<bool>(curvatures_.begin(), curvatures_.end())),
        matrix_(basis_.size(), false),
        products_(deflated() ? basis_.rows() : 0, deflated() ? basis_.size() : 0),
        factor_(basis_.size(), basis_.size()),
        coarse_(basis_.size()),
        remainder_(basis_.size()),
        direction_(basis_.size() > 0 ? basis_.rows() : 0) {}

  const TwoLevelOptions<S>& options() const { return options_; }
  /// Z
  const CoarseBasis<S>& basis() const { return basis_; }
  /// The running average of Z^T C Z.
  Matrix<double> matrix() const { return matrix_.value(); }
  /// How many updates there are in it.
  Index updates() const { return matrix_.commits(); }

  /// How many numbers it takes, once there was an update, of the size of parameters or of so many
  /// outputs.
  Index memory_size(Index outputs) const {
    if (basis_.size() == 0) return 0;
    Index size = direction_.size() + outputs;
    for (const auto& own : basis_.columns()) size += own.vectors.size();
    if (deflated()) return size + basis_.rows() * (1 + 2 * basis_.size());
    return size + outputs * basis_.size();
  }

  /// Turns the spectral space towards the leading eigenvectors of the layers' blocks as they are
  /// now. Averages of products with the vectors before are of no use: they start anew, and nothing
  /// is corrected until the next `update`. Nothing happens in the other spaces.
  void refresh_space() {
    if (options_.space != CoarseSpace::Spectral) return;
    basis_.iterate(options_.iterations, [this](std::size_t layer, VectorMap<S> v) {
      LayerCurvature<S>* curvature = curvatures_[layer];
      if (!curvature || curvature->blocks().front()->commits() == 0) return false;
      multiply_blocks(*curvature, v);
      return true;
    });
    matrix_.reset();
    products_.reset();
  }

  /// Takes the curvature of the model's last forward pass (dropout and all) into the averages. The
  /// model's gradient stays as it is, and nothing is announced to observers. False, with everything
  /// as it was, if the curvature is not finite.
  /// \throws StateError if the model has made no forward pass
  template <class Model, Loss LossType>
  bool update(Model& model, const LossType& loss) {
    const auto& pass = model.workspace();
    add(model, loss, loss.scale(pass.output_shape.size(), pass.examples));
    return commit();
  }
  // Its parts, for a batch that comes in several passes.

  /// Adds the curvature of the model's last forward pass, where `scale` is the reduction factor of
  /// the loss of the whole batch. \throws StateError likewise
  template <class Model, Loss LossType>
  void add(Model& model, const LossType& loss, S scale) {
    if (basis_.size() == 0) return;
    const auto& pass = model.workspace();
    const ConstMatrixMap<S> outputs(pass.output.data(), pass.output_shape.size(), pass.examples);
    if (deflated())
      add_products(model, loss, scale, outputs);
    else
      add_inner_products(model, loss, static_cast<double>(scale), outputs);
  }
  /// Takes what was added into the averages; false as `update`.
  bool commit() {
    const bool finite = matrix_.fresh_is_finite() && products_.fresh_is_finite();
    if (finite && basis_.size() > 0) {
      matrix_.commit(1, static_cast<double>(options_.decay));
      products_.commit(1, options_.decay);
    }
    matrix_.discard();
    products_.discard();
    return finite;
  }

  /// Multiplies `gradient`, of all parameters, with the two-level preconditioner, in place;
  /// `inverse(gradient)` is to multiply it with M^-1, in place. Returns whether there was a second
  /// level: not before the first update, nor if E is not positive definite to working precision.
  /// \throws OptionError if the damping is negative or not finite; ShapeError
  template <class Inverse>
  bool precondition(S damping, VectorRef<S> gradient, Inverse&& inverse) {
    static constexpr const char* kWhere = "kfac::TwoLevel::precondition";
    detail::check_option(damping >= 0 && std::isfinite(damping), kWhere, "damping", damping,
                         ">= 0 and finite");
    detail::check_size(kWhere, "gradient", gradient.size(), basis_.rows(), "entries");
    if (!factor(damping)) {
      inverse(gradient);
      return false;
    }
    basis_.multiply_transposed(gradient, coarse_);
    solve(coarse_);
    if (deflated()) subtract_curved(damping, gradient);
    inverse(gradient);
    if (deflated()) {
      multiply_curved_transposed(damping, gradient);
      solve(remainder_);
      coarse_ -= remainder_;
    }
    basis_.add_product(coarse_, gradient);
    return true;
  }

  /// Averages, and the vectors of the spectral space.
  void visit_state(StateVisitor& visitor) {
    visitor.in("basis", basis_);
    visitor.in("matrix", matrix_);
    if (deflated()) visitor.in("products", products_);
  }

 private:
  using Pointers = std::vector<LayerCurvature<S>*>;

  /// Null where there is none.
  static Pointers of_each(const std::vector<LayerView<S>>& layers, const Curvatures& curvatures) {
    Pointers result(layers.size(), nullptr);
    for (std::size_t i = 0; i < layers.size(); ++i)
      for (const auto& curvature : curvatures)
        if (curvature->layer().name == layers[i].name) result[i] = curvature.get();
    return result;
  }

  static void multiply_blocks(LayerCurvature<S>& curvature, VectorMap<S> v) {
    S* data = v.data();
    for (const auto& block : curvature.blocks()) {
      MatrixMap<S> part(data, block->outputs(), block->columns());
      block->multiply(part);
      data += part.size();
    }
  }

  bool deflated() const { return options_.form == CoarseForm::Deflated; }

  /// Z^T C Z = R sum_n (J_n Z)^T H_n (J_n Z).
  template <class Model, Loss LossType>
  void add_inner_products(Model& model, const LossType& loss, double scale,
                          const ConstMatrixMap<S>& outputs) {
    MatrixMap<S> tangents = tangents_.map(outputs.size(), basis_.size());
    MatrixMap<S> curved = curved_.map(outputs.rows(), outputs.cols());
    const ConstVectorMap<S> flat_curved(curved.data(), curved.size());
    for (Index j = 0; j < basis_.size(); ++j) {
      basis_.write_column(j, direction_);
      MatrixMap<S>(tangents.col(j).data(), outputs.rows(), outputs.cols()) =
          model.tangent(direction_);
    }
    for (Index j = 0; j < basis_.size(); ++j) {
      loss.hessian_product(
          outputs, ConstMatrixMap<S>(tangents.col(j).data(), outputs.rows(), outputs.cols()),
          curved);
      for (Index i = j; i < basis_.size(); ++i)
        matrix_.fresh()(i, j) += scale * tangents.col(i).template cast<double>().dot(
                                             flat_curved.template cast<double>());
    }
  }

  /// C Z = R sum_n J_n^T H_n (J_n Z), and Z^T times that.
  template <class Model, Loss LossType>
  void add_products(Model& model, const LossType& loss, S scale, const ConstMatrixMap<S>& outputs) {
    const NoTracking<Model> untracked(model);
    MatrixMap<S> curved = curved_.map(outputs.rows(), outputs.cols());
    gradient_ = model.gradient();
    for (Index j = 0; j < basis_.size(); ++j) {
      basis_.write_column(j, direction_);
      loss.hessian_product(outputs, model.tangent(direction_), curved);
      curved *= scale;
      model.backward(curved);
      products_.fresh().col(j) += model.gradient();
      basis_.multiply_transposed(model.gradient(), remainder_);
      matrix_.fresh().col(j).tail(basis_.size() - j) += remainder_.tail(basis_.size() - j);
    }
    model.gradient() = gradient_;
  }

  /// E's triangular factor; false if there is none.
  bool factor(S damping) {
    if (updates() == 0) return false;
    matrix_.copy_to(factor_);
    // Z^T Z is the identity: the columns of one layer are orthonormal.
    factor_.diagonal().array() += static_cast<double>(damping);
    const Eigen::LLT<MatrixRef<double>, Eigen::Lower> cholesky(factor_);
    if (cholesky.info() != Eigen::Success) return false;
    // A pivot that may be mere rounding of the entry it was left from says that E is singular.
    constexpr auto kRounding = 10 * static_cast<double>(std::numeric_limits<S>::epsilon());
    for (Index j = 0; j < basis_.size(); ++j) {
      const double entry = matrix_.diagonal(j) + static_cast<double>(damping);
      if (!(factor_(j, j) * factor_(j, j) > kRounding * entry)) return false;
    }
    return true;
  }
  /// c <- E^-1 c
  void solve(Vector<double>& c) const {
    factor_.template triangularView<Eigen::Lower>().solveInPlace(c);
    factor_.transpose().template triangularView<Eigen::Upper>().solveInPlace(c);
  }

  /// gradient <- P gradient = gradient - C_d Z coarse_
  void subtract_curved(S damping, VectorRef<S> gradient) {
    for (Index j = 0; j < basis_.size(); ++j)
      gradient -= static_cast<S>(coarse_(j)) * products_.value().col(j);
    remainder_ = -static_cast<double>(damping) * coarse_;
    basis_.add_product(remainder_, gradient);
  }
  /// remainder_ <- (C_d Z)^T v
  void multiply_curved_transposed(S damping, const ConstVectorRef<S>& v) {
    basis_.multiply_transposed(v, remainder_);
    remainder_ *= static_cast<double>(damping);
    for (Index j = 0; j < basis_.size(); ++j)
      remainder_(j) +=
          products_.value().col(j).template cast<double>().dot(v.template cast<double>());
  }

  TwoLevelOptions<S> options_;
  Pointers curvatures_;  // of each layer
  CoarseBasis<S> basis_;
  RunningCovariance<double> matrix_;
  RunningMean<S> products_;  // C Z, in the deflated form
  Matrix<double> factor_;
  Vector<double> coarse_, remainder_;
  Vector<S> direction_, gradient_;
  Buffer<S> tangents_, curved_;
};

}  // namespace kfac
