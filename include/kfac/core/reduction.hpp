#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>

namespace kfac {

/// How the criteria of the targets of a batch (labels, or entries of the target matrix) become one
/// loss, as PyTorch defines it.
enum class Reduction {
  Mean,         ///< over all targets
  Sum,          ///< of all targets
  ExampleMean,  ///< over the examples, of the sum of an example's targets ("batchmean")
};

namespace detail {

/// What the sum over all targets is multiplied with.
template <RealScalar S>
S reduction_factor(Reduction reduction, Index targets_each, Index examples) {
  switch (reduction) {
    case Reduction::Mean:
      return S(1) / static_cast<S>(targets_each * examples);
    case Reduction::ExampleMean:
      return S(1) / static_cast<S>(examples);
    case Reduction::Sum:
      break;
  }
  return 1;
}

}  // namespace detail

/// How the loss whose gradients something is given was reduced: L = R sum_n c_n over the examples
/// of a batch, with R = weight (Sum) or R = weight / examples (the others). The weight is 1 for a
/// mean or sum over examples; a mean over all entries of `outputs x batch` targets has 1 / outputs
/// (torch.nn.MSELoss, whose criterion is taken with a 1/2: 2 / outputs).
template <RealScalar S>
struct GradientScale {
  Reduction reduction = Reduction::Mean;
  S weight = 1;  ///< > 0, finite

  S factor(Index examples) const {
    return weight * detail::reduction_factor<S>(reduction, 1, examples);
  }
  void validate(const char* where) const {
    detail::check_option(weight > 0 && std::isfinite(weight), where, "gradient_scale.weight",
                         weight, "> 0 and finite");
  }
};

}  // namespace kfac
