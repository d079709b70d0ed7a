#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/posterior/output_covariance.hpp>

namespace kfac {
namespace detail {

/// What the covariance of outputs takes for so many examples at once, its results included.
template <class Model, RealScalar S>
MemoryEstimate predictive_memory(BlockPasses<Model>& passes, const Laplace<S>& posterior,
                                 const Shape& shape, Index examples, OutputCovariance wanted) {
  const Index outputs = passes.forward(Matrix<S>::Zero(shape.size(), 1), shape).rows();
  const auto c = static_cast<double>(outputs);
  const auto n = static_cast<double>(examples);
  constexpr auto kBytes = static_cast<double>(sizeof(S));
  const auto passed = static_cast<double>(passes.model().workspace_size(shape, examples).total());
  MemoryEstimate estimate{{{"passes", kBytes * passed}}};
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i) {
    const PosteriorBlock<S>& block = posterior.blocks()[i];
    if (!block.random()) continue;
    const Index positions = passes.inputs(i).positions();
    const bool same = is_output_layer(passes.model(), block.block(), positions, outputs);
    const ParameterBlock& shape_of = block.block();
    const auto inputs = static_cast<double>(shape_of.columns());
    const auto rows = static_cast<double>(shape_of.outputs);
    // Two copies of the inputs, and of the gradients of one output, beside those of all.
    const double each = static_cast<double>(positions) * (2 * inputs + (same ? 2 : 2 + c) * rows);
    estimate.parts.push_back({block.block().name(), kBytes * n * each});
  }
  if (any_flat(posterior)) {
    const double at_once = wanted == OutputCovariance::Joint ? n + 1 : 1;
    estimate.parts.push_back(
        {"gradients", kBytes * static_cast<double>(posterior.parameters()) * c * at_once});
  }
  const double each = wanted == OutputCovariance::Variances ? 2 * c : (2 + c) * c;
  const double joint = wanted == OutputCovariance::Joint ? 2 * c * c * n * n : 0;
  estimate.parts.push_back({"covariances", kBytes * (n * each + joint)});
  return estimate;
}

/// How many examples to take at once: all for the joint covariance, else as many as about 64 MB
/// have room for within the limit. \throws OptionError, MemoryError
template <class Model, RealScalar S>
Index predictive_piece(const char* where, BlockPasses<Model>& passes, const Laplace<S>& posterior,
                       const Shape& shape, Index examples, OutputCovariance wanted, double limit) {
  static constexpr double kAtOnce = 64e6;
  const auto memory = [&](Index count) {
    return predictive_memory(passes, posterior, shape, count, wanted);
  };
  if (wanted == OutputCovariance::Joint) {
    check_memory(where, memory(examples), limit);
    return examples;
  }
  // The covariances of all examples stay, the rest is of a piece.
  const double results = memory(examples).parts.back().bytes;
  const auto needed = [&](Index count) {
    MemoryEstimate estimate = memory(count);
    estimate.parts.back().bytes += results;
    return estimate;
  };
  const MemoryEstimate least = needed(1);
  check_memory(where, least, limit);
  const double slope = needed(2).total() - least.total();
  const double room = std::min(limit - least.total(), kAtOnce) / std::max(slope, 1.0);
  return std::clamp(1 + static_cast<Index>(std::min(room, static_cast<double>(examples))), Index{1},
                    examples);
}

}  // namespace detail

/// What `predict` takes for so many examples of a shape at once, which it takes in smaller pieces
/// where that is more than about 64 MB or the limit that it is given, unless the covariance is
/// joint. Grows with outputs times the widths of the layers (and their positions where weights are
/// shared), not with the number of parameters, unless the posterior's curvature is dense.
/// \throws OptionError unless examples >= 1; ShapeError if the network cannot take the shape
template <class Model, RealScalar S>
MemoryEstimate predictive_memory(Model& model, const Laplace<S>& posterior, const Shape& shape,
                                 Index examples,
                                 OutputCovariance wanted = OutputCovariance::PerExample) {
  static constexpr const char* kWhere = "kfac::predictive_memory";
  detail::check_option(examples >= 1, kWhere, "examples", examples, ">= 1");
  detail::check_posterior(kWhere, model, posterior);
  BlockPasses<Model> passes(model);
  return detail::predictive_memory(passes, posterior, shape, examples, wanted);
}

}  // namespace kfac
