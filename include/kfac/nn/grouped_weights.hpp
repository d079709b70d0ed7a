#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac::detail {

/// The parameters of a layer that is a linear map in each of its groups: those of one group after
/// another, [W b] as its `KroneckerStructure` says.
template <RealScalar S>
class GroupedWeights {
 public:
  /// [W b] of a group, `outputs x (inputs + bias)` of the layer's `kronecker_structure()`.
  MatrixMap<S> augmented_weight(Index group = 0) {
    return {parameters_.data() + group * group_size(), sizes_.outputs, sizes_.columns()};
  }
  Index parameter_count() const { return parameters_.size(); }
  VectorMap<S> parameters() { return {parameters_.data(), parameters_.size()}; }
  /// Those of several groups are called "weight.0", "bias.0", "weight.1", ...
  std::vector<ParameterInfo> parameter_info() const {
    std::vector<ParameterInfo> info;
    for (Index group = 0; group < sizes_.groups; ++group) {
      const std::string suffix = sizes_.groups == 1 ? "" : '.' + std::to_string(group);
      const Index offset = group * group_size();
      info.push_back({"weight" + suffix, offset, sizes_.outputs, sizes_.inputs, kernel_});
      if (sizes_.bias)
        info.push_back(
            {"bias" + suffix, offset + sizes_.outputs * sizes_.inputs, sizes_.outputs, 1});
    }
    return info;
  }

 protected:
  GroupedWeights() = default;
  ~GroupedWeights() = default;
  GroupedWeights(const GroupedWeights&) = default;
  GroupedWeights& operator=(const GroupedWeights&) = default;
  GroupedWeights(GroupedWeights&&) noexcept = default;
  GroupedWeights& operator=(GroupedWeights&&) noexcept = default;

  /// Draws all of them from +-1/sqrt(fan_in).
  template <std::size_t Axes>
  void begin(const KroneckerStructure& sizes, const std::array<Index, Axes>& kernel, Index fan_in,
             Rng& rng) {
    sizes_ = sizes;
    for (const Index entries : kernel) kernel_.push_back(entries);
    parameters_.resize(sizes.groups * group_size());
    const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
    rng.fill_uniform(parameters_, -bound, bound);
  }

  const S* data() const { return parameters_.data(); }
  Index group_size() const { return sizes_.outputs * sizes_.columns(); }

 private:
  KroneckerStructure sizes_;
  Shape kernel_;
  Vector<S> parameters_;
};

}  // namespace kfac::detail
