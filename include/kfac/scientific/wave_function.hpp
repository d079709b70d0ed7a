#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/jet_network.hpp>

namespace kfac {

/// Of a WaveFunction that is its network alone.
struct NoEnvelope {};

/// log |psi|(x) = network(features(x)) + envelope(x). Features and envelope are functions of a
/// vector of coordinates that are written for numbers and jets alike: the features return a
/// container of them, the envelope one. (Of hydrogen: x, y, z, r and -r/2.)
///
///     const auto radius = [](const auto& x) { return sqrt(x[0] * x[0] + x[1] * x[1] + x[2] *
///     x[2]); }; kfac::WaveFunction psi(model, 3,
///         [=](const auto& x) { return std::vector{x[0], x[1], x[2], radius(x)}; },
///         [=](const auto& x) { return -0.5 * radius(x); });
///     const Eigen::VectorXd energies = psi.local_energies(x, [](const auto& x) { ... });
///
/// The model must outlive it and stay where it is.
template <class Model, class Features = NoFeatures, class Envelope = NoEnvelope>
class WaveFunction {
 public:
  using Scalar = typename Model::Scalar;
  using S = Scalar;

  /// \throws OptionError, and as `jet_network`
  WaveFunction(Model& model, Index coordinates, Features features = {}, Envelope envelope = {})
      : model_(&model),
        features_(features),
        envelope_(std::move(envelope)),
        workspace_(model.make_workspace()),
        jets_(jet_network(model, JetSlots<S>::laplacian(coordinates), NoResidual{},
                          std::move(features))) {
    workspace_.mode = {false, false};
    jets_.workspace().mode = {false, false};
  }

  Model& model() const { return *model_; }
  Index coordinates() const { return jets_.slots().inputs(); }

  /// The network's inputs, `features x walkers`, for `x` of `coordinates x walkers`.
  Matrix<S> inputs(const ConstMatrixRef<S>& x) const {
    if constexpr (std::same_as<Features, NoFeatures>)
      return x;
    else
      return feature_values<S>(x, features_);
  }
  /// log |psi| of each walker. \throws ShapeError
  Vector<S> log_abs(const ConstMatrixRef<S>& x) {
    check(x, "kfac::WaveFunction::log_abs");
    const ConstMatrixMap<S> outputs = model_->forward(inputs(x), workspace_);
    check_outputs(outputs.rows());
    Vector<S> result = outputs.row(0).transpose();
    if constexpr (!std::same_as<Envelope, NoEnvelope>)
      result += feature_values<S>(x, envelope_).row(0).transpose();
    return result;
  }
  /// log |psi|, its gradient and its Laplacian: `(coordinates + 2) x walkers`. \throws ShapeError
  Matrix<S> log_jets(const ConstMatrixRef<S>& x) {
    check(x, "kfac::WaveFunction::log_jets");
    Matrix<S> result = jets_.forward(x);
    check_outputs(result.rows() / jets_.slots().count());
    if constexpr (!std::same_as<Envelope, NoEnvelope>)
      result += input_jets<S>(jets_.slots(), x, envelope_);
    return result;
  }

  /// -(Laplacian log |psi| + |gradient log |psi||^2) / 2 + potential(x): (H psi) / psi in atomic
  /// units at each walker, constant where psi is an eigenstate. \throws ShapeError
  template <class Potential>
  Vector<S> local_energies(const ConstMatrixRef<S>& x, const Potential& potential) {
    const Matrix<S> jets = log_jets(x);
    Vector<S> energies(x.cols());
    std::vector<S> point(static_cast<std::size_t>(x.rows()));
    for (Index n = 0; n < x.cols(); ++n) {
      for (Index i = 0; i < x.rows(); ++i) point[static_cast<std::size_t>(i)] = x(i, n);
      energies(n) =
          S(-0.5) * (jets(x.rows() + 1, n) + jets.col(n).segment(1, x.rows()).squaredNorm()) +
          static_cast<S>(potential(std::as_const(point)));
    }
    return energies;
  }

 private:
  using Jets = decltype(jet_network(std::declval<Model&>(), std::declval<JetSlots<S>>(),
                                    NoResidual{}, std::declval<Features>()));

  void check(const ConstMatrixRef<S>& x, const char* where) const {
    detail::check_size(where, "x", x.rows(), coordinates(), "rows");
    if (x.cols() == 0)
      raise<ShapeError>(std::string(where) + ": 'x' has 0 walkers, expected at least 1");
  }
  static void check_outputs(Index outputs) {
    detail::check_size("kfac::WaveFunction", "model", outputs, 1, "outputs");
  }

  Model* model_;
  Features features_;
  Envelope envelope_;
  typename Model::Workspace workspace_;
  Jets jets_;
};

template <class Model>
WaveFunction(Model&, Index) -> WaveFunction<Model>;
template <class Model, class Features>
WaveFunction(Model&, Index, Features) -> WaveFunction<Model, Features>;
template <class Model, class Features, class Envelope>
WaveFunction(Model&, Index, Features, Envelope) -> WaveFunction<Model, Features, Envelope>;

}  // namespace kfac
