#pragma once

#include <string>
#include <variant>

#include <nlohmann/json.hpp>

#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>

#include "comparison.hpp"

namespace golden {

using kfac::Index;
using kfac::Labels;
using Json = nlohmann::json;

/// The loss of a case. All have matrices for targets here (labels as one row of numbers), so that
/// what follows is compiled once.
class Loss {
  using Choice = std::variant<kfac::MeanSquaredError<double>, kfac::BinaryCrossEntropy<double>,
                              kfac::SoftmaxCrossEntropy<double>>;
  using Ref = kfac::ConstMatrixRef<double>;

  template <class Body>
  auto with_targets(const Ref& targets, const Body& body) const {
    return std::visit(
        [&](const auto& loss) {
          using Own = typename std::remove_cvref_t<decltype(loss)>::Targets;
          if constexpr (std::same_as<Own, Labels>)
            return body(loss, Labels(targets.reshaped().template cast<int>()));
          else
            return body(loss, targets);
        },
        choice_);
  }

 public:
  using Scalar = double;
  using Targets = Matrix;
  using TargetsRef = Ref;

  /// `classes` is the size of the class axis, the last one of the outputs.
  Loss(const Json& spec, Index classes) : choice_(choose(spec, classes)) {}

  void check(const Ref& outputs, const Ref& targets) const {
    with_targets(targets, [&](const auto& loss, const auto& y) { loss.check(outputs, y); });
  }
  double value(const Ref& outputs, const Ref& targets) const {
    return with_targets(targets,
                        [&](const auto& loss, const auto& y) { return loss.value(outputs, y); });
  }
  void gradient(const Ref& outputs, const Ref& targets, kfac::MatrixRef<double> into) const {
    with_targets(targets,
                 [&](const auto& loss, const auto& y) { loss.gradient(outputs, y, into); });
  }
  Matrix gradient(const Ref& outputs, const Ref& targets) const {
    Matrix result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }
  double scale(Index outputs, Index batch) const {
    return std::visit([&](const auto& loss) { return loss.scale(outputs, batch); }, choice_);
  }
  void hessian_product(const Ref& outputs, const Ref& v, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.hessian_product(outputs, v, into); }, choice_);
  }
  Index hessian_sqrt_columns(Index outputs) const {
    return std::visit([&](const auto& loss) { return loss.hessian_sqrt_columns(outputs); },
                      choice_);
  }
  void hessian_sqrt(const Ref& outputs, Index column, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.hessian_sqrt(outputs, column, into); }, choice_);
  }
  Matrix sample(const Ref& outputs, kfac::Rng& rng) const {
    return std::visit(
        [&](const auto& loss) -> Matrix {
          return loss.sample(outputs, rng).template cast<double>();
        },
        choice_);
  }
  void sampled_gradient(const Ref& outputs, kfac::Rng& rng, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.sampled_gradient(outputs, rng, into); }, choice_);
  }

  bool has_labels() const {
    return std::holds_alternative<kfac::SoftmaxCrossEntropy<double>>(choice_);
  }

 private:
  static Choice choose(const Json& spec, Index classes) {
    const kfac::Reduction reduction =
        spec["reduction"] == "sum" ? kfac::Reduction::Sum : kfac::Reduction::Mean;
    const std::string type = spec["type"].get<std::string>();
    if (type == "mse") return kfac::MeanSquaredError<double>({.reduction = reduction});
    if (type == "bce") return kfac::BinaryCrossEntropy<double>({.reduction = reduction});
    if (type == "ce")
      return kfac::SoftmaxCrossEntropy<double>({.reduction = reduction, .classes = classes});
    throw Skip("loss '" + type + "'");
  }

  Choice choice_;
};

}  // namespace golden
