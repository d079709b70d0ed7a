#pragma once

#include <cmath>
#include <string>
#include <utility>

#include <kfac/loss/loss.hpp>

namespace kfac {

/// Of a `SummedLoss`.
template <RealScalar S>
struct SummedLossOptions {
  Index first_outputs = 1;  ///< the first loss is of the first so many outputs, >= 1; the second of
                            ///< the others
  /// Rows of the targets that are the first loss's, >= 0; the second has the others. 0: one, a
  /// label, or as many as it has outputs, whichever the loss wants.
  Index first_targets = 0;
  S first_weight = 1;   ///< > 0, finite
  S second_weight = 1;  ///< > 0, finite

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::SummedLossOptions";
    detail::check_option(first_outputs >= 1, kWhere, "first_outputs", first_outputs, ">= 1");
    detail::check_option(first_targets >= 0, kWhere, "first_targets", first_targets, ">= 0");
    const auto check = [](const char* name, S weight) {
      detail::check_option(weight > 0 && std::isfinite(weight), kWhere, name, weight,
                           "> 0 and finite");
    };
    check("first_weight", first_weight);
    check("second_weight", second_weight);
  }
};

/// Two losses on one network: the weighted sum of a loss of its first outputs and one of the
/// others, such as those of two heads (`Concatenate`):
///
///     kfac::SummedLoss loss(kfac::SoftmaxCrossEntropy<float>{}, kfac::MeanSquaredError<float>{},
///                           {.first_outputs = 10, .second_weight = 0.1f});
///
/// Targets are a matrix with one column an example: the rows of the first loss's, then those of the
/// second's; labels are numbers in it. A SummedLoss may be one of two again. With L1 = R1 sum_n c1
/// and L2 likewise, the criterion of an example is c1 + r c2, r = w2 R2 / (w1 R1), and R is w1 R1:
/// the curvature of the sum is the sum of the curvatures. Sampled gradients are those of targets
/// drawn from both likelihoods, the second times sqrt(r), so that their second moment is that
/// curvature too.
template <Loss First, Loss Second>
class SummedLoss {
  static_assert(std::same_as<typename First::Scalar, typename Second::Scalar>,
                "both losses have one scalar type");

 public:
  using Scalar = typename First::Scalar;
  using Targets = Matrix<Scalar>;
  using TargetsRef = ConstMatrixRef<Scalar>;

  /// \throws OptionError for a field outside its range, or if one loss is a mean over examples and
  ///         the other a sum
  SummedLoss(First first, Second second, SummedLossOptions<typename First::Scalar> options)
      : first_(std::move(first)),
        second_(std::move(second)),
        options_((options.validate(), options)) {
    const auto averages = [](const auto& loss) { return loss.scale(1, 2) < loss.scale(1, 1); };
    if (averages(first_) != averages(second_))
      raise<OptionError>(
          "kfac::SummedLoss: 'second' is reduced otherwise than 'first', expected both means over "
          "examples or both sums");
  }

  const First& first() const { return first_; }
  const Second& second() const { return second_; }
  const SummedLossOptions<Scalar>& options() const { return options_; }

  /// \throws ShapeError if no outputs or targets are left for the second loss; ValueError if a
  /// label
  ///         is no whole number; what either loss throws
  void check(const ConstMatrixRef<Scalar>& outputs, const TargetsRef& targets) const {
    if (outputs.rows() <= options_.first_outputs)
      raise<ShapeError>("kfac::SummedLoss: 'outputs' has " + std::to_string(outputs.rows()) +
                        " rows, expected more than the " + std::to_string(options_.first_outputs) +
                        " of the first loss");
    detail::check_size("kfac::SummedLoss", "targets", targets.cols(), outputs.cols(), "columns");
    if (targets.rows() <= first_targets())
      raise<ShapeError>("kfac::SummedLoss: 'targets' has " + std::to_string(targets.rows()) +
                        " rows, expected more than the " + std::to_string(first_targets()) +
                        " of the first loss");
    first_.check(top(outputs), first_of(targets));
    second_.check(bottom(outputs), second_of(targets));
  }

  Scalar scale(Index, Index batch) const {
    return options_.first_weight * first_.scale(options_.first_outputs, batch);
  }

  Scalar value(const ConstMatrixRef<Scalar>& outputs, const TargetsRef& targets) const {
    check(outputs, targets);
    return options_.first_weight * first_.value(top(outputs), first_of(targets)) +
           options_.second_weight * second_.value(bottom(outputs), second_of(targets));
  }
  void gradient(const ConstMatrixRef<Scalar>& outputs, const TargetsRef& targets,
                MatrixRef<Scalar> into) const {
    value_and_gradient(outputs, targets, into);
  }
  /// Writes the gradient and returns the value.
  Scalar value_and_gradient(const ConstMatrixRef<Scalar>& outputs, const TargetsRef& targets,
                            MatrixRef<Scalar> into) const {
    check(outputs, targets);
    auto first = top(into);
    auto second = bottom(into);
    const Scalar value =
        options_.first_weight *
            kfac::value_and_gradient(first_, top(outputs), first_of(targets), first) +
        options_.second_weight *
            kfac::value_and_gradient(second_, bottom(outputs), second_of(targets), second);
    first *= options_.first_weight;
    second *= options_.second_weight;
    return value;
  }
  Matrix<Scalar> gradient(const ConstMatrixRef<Scalar>& outputs, const TargetsRef& targets) const {
    Matrix<Scalar> result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }

  void hessian_product(const ConstMatrixRef<Scalar>& outputs, const ConstMatrixRef<Scalar>& v,
                       MatrixRef<Scalar> into) const {
    first_.hessian_product(top(outputs), top(v), top(into));
    second_.hessian_product(bottom(outputs), bottom(v), bottom(into));
    bottom(into) *= ratio(outputs.rows());
  }

  Index hessian_sqrt_columns(Index outputs) const {
    return first_columns() + second_.hessian_sqrt_columns(outputs - options_.first_outputs);
  }
  void hessian_sqrt(const ConstMatrixRef<Scalar>& outputs, Index column,
                    MatrixRef<Scalar> into) const {
    if (column < first_columns()) {
      first_.hessian_sqrt(top(outputs), column, top(into));
      bottom(into).setZero();
      return;
    }
    top(into).setZero();
    second_.hessian_sqrt(bottom(outputs), column - first_columns(), bottom(into));
    bottom(into) *= std::sqrt(ratio(outputs.rows()));
  }
  void hessian_sqrt_product(const ConstMatrixRef<Scalar>& outputs, const ConstMatrixRef<Scalar>& u,
                            MatrixRef<Scalar> into) const requires HessianSqrtLoss<First> &&
      HessianSqrtLoss<Second> {
    first_.hessian_sqrt_product(top(outputs), u.topRows(first_columns()), top(into));
    second_.hessian_sqrt_product(bottom(outputs), u.bottomRows(u.rows() - first_columns()),
                                 bottom(into));
    bottom(into) *= std::sqrt(ratio(outputs.rows()));
  }

  Targets sample(const ConstMatrixRef<Scalar>& outputs, Rng& rng) const {
    const auto first = as_rows(first_.sample(top(outputs), rng), outputs.cols());
    const auto second = as_rows(second_.sample(bottom(outputs), rng), outputs.cols());
    Targets result(first.rows() + second.rows(), outputs.cols());
    result << first, second;
    return result;
  }
  void sampled_gradient(const ConstMatrixRef<Scalar>& outputs, Rng& rng,
                        MatrixRef<Scalar> into) const {
    first_.sampled_gradient(top(outputs), rng, top(into));
    second_.sampled_gradient(bottom(outputs), rng, bottom(into));
    bottom(into) *= std::sqrt(ratio(outputs.rows()));
  }

 private:
  template <class Values>
  auto top(Values& values) const {
    return values.topRows(options_.first_outputs);
  }
  template <class Values>
  auto bottom(Values& values) const {
    return values.bottomRows(values.rows() - options_.first_outputs);
  }

  Index first_targets() const {
    if (options_.first_targets > 0) return options_.first_targets;
    return std::same_as<typename First::Targets, Labels> ? 1 : options_.first_outputs;
  }
  auto first_of(const TargetsRef& targets) const {
    return as<First>(targets.topRows(first_targets()));
  }
  auto second_of(const TargetsRef& targets) const {
    return as<Second>(targets.bottomRows(targets.rows() - first_targets()));
  }
  /// Rows of the targets as a loss takes them.
  template <class L, class Rows>
  static auto as(const Rows& rows) {
    if constexpr (std::same_as<typename L::Targets, Labels>) {
      const Matrix<Scalar> numbers = rows;
      for (Index n = 0; n < numbers.size(); ++n)
        if (!(std::floor(numbers.data()[n]) == numbers.data()[n] &&
              std::abs(numbers.data()[n]) < Scalar(1 << 24)))
          raise<ValueError>("kfac::SummedLoss: 'targets' has label " +
                            std::to_string(numbers.data()[n]) + ", expected a whole number");
      return Labels(numbers.reshaped().template cast<int>());
    } else {
      return rows;
    }
  }
  static Matrix<Scalar> as_rows(const Labels& labels, Index examples) {
    return labels.template cast<Scalar>().reshaped(labels.size() / examples, examples);
  }
  static const Matrix<Scalar>& as_rows(const Matrix<Scalar>& values, Index) { return values; }

  Index first_columns() const { return first_.hessian_sqrt_columns(options_.first_outputs); }
  /// r; the same for all numbers of examples.
  Scalar ratio(Index outputs) const {
    return options_.second_weight * second_.scale(outputs - options_.first_outputs, 1) /
           scale(outputs, 1);
  }

  First first_;
  Second second_;
  SummedLossOptions<Scalar> options_;
};

}  // namespace kfac
