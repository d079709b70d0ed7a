#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/laplace_options.hpp>

namespace kfac {

/// The normal prior of a network's parameters: independent, around a mean, with a precision for
/// each group of parameters.
template <RealScalar S>
class Prior {
 public:
  /// Of those blocks that are random. \throws OptionError, ShapeError
  Prior(const char* where, std::vector<ParameterBlock> blocks, std::vector<bool> random,
        const LaplaceOptions<S>& options)
      : blocks_(std::move(blocks)),
        random_(std::move(random)),
        per_parameter_(is_per_parameter(options)) {
    group(where, options);
    if (options.prior_precision.size() == 1)
      precision_ = Vector<double>::Constant(groups(), options.prior_precision[0]);
    else
      set_precision(where, Eigen::Map<const Vector<double>>(
                               options.prior_precision.data(),
                               static_cast<Index>(options.prior_precision.size())));
    Index parameters = 0;
    for (const ParameterBlock& block : blocks_) parameters += block.size();
    mean_ = Vector<S>::Zero(parameters);
    if (options.prior_mean.size() == 1)
      mean_.setConstant(options.prior_mean(0));
    else if (options.prior_mean.size() > 0)
      set_mean(where, options.prior_mean);
  }

  Index groups() const { return sizes_.size(); }
  /// Such as "all", "2", "2 weight", "2 bias", of each group that has a name.
  const std::vector<std::string>& names() const { return names_; }
  /// How many random parameters each group has.
  const Vector<double>& sizes() const { return sizes_; }
  /// delta of each group.
  const Vector<double>& precision() const { return precision_; }
  /// Of all parameters, flat.
  const Vector<S>& mean() const { return mean_; }
  bool per_parameter() const { return per_parameter_; }

  /// \throws ShapeError, OptionError
  void set_precision(const char* where, const Vector<double>& precision) {
    detail::check_size(where, "prior_precision", precision.size(), groups(), "entries");
    for (const double value : precision)
      detail::check_option(value >= 0 && std::isfinite(value), where, "prior_precision", value,
                           ">= 0 and finite");
    precision_ = precision;
  }
  /// \throws ShapeError, ValueError
  void set_mean(const char* where, const Vector<S>& mean) {
    detail::check_size(where, "prior_mean", mean.size(), mean_.size(), "entries");
    detail::check_finite(where, "prior_mean", mean);
    mean_ = mean;
  }

  /// The group of an entry of a block, which must be random.
  Index group_of(std::size_t block, Index row, Index column) const {
    const ParameterBlock& shape = blocks_[block];
    if (per_parameter_) return first_[block].weight + column * shape.outputs + row;
    return is_bias(shape, column) ? first_[block].bias : first_[block].weight;
  }
  Index weight_group(std::size_t block) const { return first_[block].weight; }
  Index bias_group(std::size_t block) const { return first_[block].bias; }

  /// The precisions of a block's parameters, `outputs x columns`.
  Matrix<double> precision_of(std::size_t block) const {
    const ParameterBlock& shape = blocks_[block];
    Matrix<double> result(shape.outputs, shape.columns());
    for (Index j = 0; j < result.cols(); ++j)
      for (Index i = 0; i < result.rows(); ++i) result(i, j) = precision_(group_of(block, i, j));
    return result;
  }

  /// The sum of (theta - mean)^2 over each group.
  Vector<double> square_distances(const Vector<S>& theta) const {
    Vector<double> sums = Vector<double>::Zero(groups());
    for_each([&](Index parameter, Index group) {
      const auto difference =
          static_cast<double>(theta(parameter)) - static_cast<double>(mean_(parameter));
      sums(group) += difference * difference;
    });
    return sums;
  }

  /// The precisions of all parameters, flat: 0 for those that are not random.
  Vector<double> flat_precision() const {
    Vector<double> flat = Vector<double>::Zero(mean_.size());
    for_each([&](Index parameter, Index group) { flat(parameter) = precision_(group); });
    return flat;
  }

  /// log det of the precision matrix; minus infinity if one is 0.
  double log_determinant() const { return (sizes_.array() * precision_.array().log()).sum(); }

  /// Calls `body(parameter, group)` for each random parameter, in order.
  template <class Body>
  void for_each(Body&& body) const {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (!random_[i]) continue;
      Index parameter = blocks_[i].offset;
      for (Index column = 0; column < blocks_[i].columns(); ++column)
        for (Index row = 0; row < blocks_[i].outputs; ++row)
          body(parameter++, group_of(i, row, column));
    }
  }

 private:
  struct First {
    Index weight = -1, bias = -1;
  };

  static bool is_per_parameter(const LaplaceOptions<S>& options) {
    return !options.prior_group && options.prior_grouping == PriorGrouping::Parameter;
  }
  static bool is_bias(const ParameterBlock& block, Index column) {
    return block.bias && column == block.inputs;
  }

  /// What tells groups apart, unless the user does.
  static std::string key(PriorGrouping grouping, const ParameterBlock& block, bool bias) {
    if (grouping == PriorGrouping::Scalar) return "all";
    if (grouping == PriorGrouping::Layer) return block.layer;
    return block.layer + (bias ? " bias" : " weight");
  }

  Index numbered(const std::string& name) {
    const auto number = std::find(names_.begin(), names_.end(), name) - names_.begin();
    if (number == static_cast<std::ptrdiff_t>(names_.size())) names_.push_back(name);
    return number;
  }

  void group(const char* where, const LaplaceOptions<S>& options) {
    first_.resize(blocks_.size());
    Index count = 0;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (!random_[i]) continue;
      const ParameterBlock& block = blocks_[i];
      if (per_parameter_) {
        first_[i].weight = count;
        count += block.size();
        continue;
      }
      for (const bool bias : {false, true}) {
        if (bias && !block.bias) continue;
        const Index group = options.prior_group
                                ? options.prior_group(block, bias)
                                : numbered(key(options.prior_grouping, block, bias));
        detail::check_option(group >= 0, where, "prior_group", group, ">= 0");
        (bias ? first_[i].bias : first_[i].weight) = group;
        count = std::max(count, group + 1);
      }
    }
    sizes_ = Vector<double>::Zero(count);
    for_each([&](Index, Index group) { sizes_(group) += 1; });
    for (auto g = static_cast<Index>(names_.size()); options.prior_group && g < count; ++g)
      names_.push_back("group " + std::to_string(g));
    for (Index g = 0; g < count; ++g)
      if (sizes_(g) == 0)
        raise<OptionError>(std::string(where) + ": 'prior_group' gives no parameter the group " +
                           std::to_string(g) + ", expected groups without gaps");
  }

  std::vector<ParameterBlock> blocks_;
  std::vector<bool> random_;
  bool per_parameter_;
  std::vector<First> first_;  ///< of each block
  std::vector<std::string> names_;
  Vector<double> sizes_;
  Vector<double> precision_;
  Vector<S> mean_;
};

}  // namespace kfac
