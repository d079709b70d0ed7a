#pragma once

#include <string>
#include <vector>

#include <kfac/data/slices.hpp>

namespace kfac {

/// A copy of the examples with those numbers, in that order; a number may come more than once. Of
/// labels there may be several for each example, as for tokens.
/// \throws ShapeError if there are none, or the data have no examples; ValueError if a number is
///         none of the data's
template <RealScalar S, class Targets>
Dataset<S, Targets> subset(const Dataset<S, Targets>& data, const std::vector<Index>& examples) {
  static constexpr const char* kWhere = "kfac::subset";
  if (data.examples() == 0) raise<ShapeError>(std::string(kWhere) + ": 'data' has no examples");
  if (examples.empty())
    raise<ShapeError>(std::string(kWhere) + ": 'examples' is empty, expected at least one");
  for (const Index example : examples)
    if (example < 0 || example >= data.examples())
      raise<ValueError>(std::string(kWhere) + ": 'examples' has " + std::to_string(example) +
                        ", expected 0 to " + std::to_string(data.examples() - 1));
  const auto count = static_cast<Index>(examples.size());
  const Index entries = data.targets.size() / data.examples();
  Dataset<S, Targets> result;
  result.inputs.resize(data.inputs.rows(), count);
  if constexpr (std::same_as<Targets, Labels>)
    result.targets.resize(entries * count);
  else
    result.targets.resize(entries, count);
  for (Index i = 0; i < count; ++i) {
    const Index example = examples[static_cast<std::size_t>(i)];
    result.inputs.col(i) = data.inputs.col(example);
    for (Index k = 0; k < entries; ++k)
      result.targets.data()[i * entries + k] = data.targets.data()[example * entries + k];
  }
  return result;
}

}  // namespace kfac
