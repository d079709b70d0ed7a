#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>

namespace kfac {

/// How many bytes something will take, part by part, known before any of it is allocated.
struct MemoryEstimate {
  struct Part {
    std::string name;
    double bytes = 0;
  };
  std::vector<Part> parts;

  double total() const {
    double sum = 0;
    for (const Part& part : parts) sum += part.bytes;
    return sum;
  }
  MemoryEstimate& operator+=(const MemoryEstimate& other) {
    parts.insert(parts.end(), other.parts.begin(), other.parts.end());
    return *this;
  }
};

namespace detail {

/// Such as "1.2 GB".
inline std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = next;
  }
  return text(bytes) + ' ' + unit;
}

/// Raises a MemoryError, naming the largest part, if the estimate is above the limit; an
/// OptionError if that is not > 0.
inline void check_memory(const char* where, const MemoryEstimate& estimate, double limit) {
  check_option(limit > 0, where, "memory_limit", limit, "> 0");
  if (estimate.total() <= limit) return;
  const MemoryEstimate::Part* largest = &estimate.parts.front();
  for (const MemoryEstimate::Part& part : estimate.parts)
    if (part.bytes > largest->bytes) largest = &part;
  raise<MemoryError>(std::string(where) + ": 'memory_limit' is " + bytes_text(limit) +
                     ", expected at least " + bytes_text(estimate.total()) + " (of which '" +
                     largest->name + "' takes " + bytes_text(largest->bytes) + ")");
}

}  // namespace detail

/// What a `CurvatureEstimate` of these blocks takes, with what `estimate_curvature` needs beside it
/// while it makes it: three copies of each factor and diagonal.
template <RealScalar S>
MemoryEstimate curvature_memory(const std::vector<ParameterBlock>& blocks,
                                CurvatureStructure structure) {
  MemoryEstimate estimate;
  for (const ParameterBlock& block : blocks) {
    const auto a = static_cast<double>(block.columns());
    const auto g = static_cast<double>(block.outputs);
    const bool factored = block.factored && structure != CurvatureStructure::Diagonal;
    double entries = 3 * a * g;
    if (structure == CurvatureStructure::Full)
      entries = 3 * a * g * a * g;
    else if (factored && structure == CurvatureStructure::Kronecker)
      entries = 3 * (a * a + g * g);
    else if (factored)  // the bases, and the moments in them
      entries = 4 * (a * a + g * g) + 4 * a * g;
    estimate.parts.push_back({block.name(), entries * sizeof(S)});
  }
  return estimate;
}

}  // namespace kfac
