#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>

namespace kfac {

/// How the criteria of the entries of a batch become one loss, as PyTorch defines them: `Mean`
/// divides by the number of targets (labels, or entries of the target matrix).
enum class Reduction { Mean, Sum };

/// How the loss whose gradients something is given was reduced: L = R sum_n c_n over the examples
/// of a batch, with R = weight / examples (Mean) or R = weight (Sum). The weight is 1 for a mean or
/// sum over examples; a mean over all entries of `outputs x batch` targets has 1 / outputs
/// (torch.nn.MSELoss, whose criterion is taken with a 1/2: 2 / outputs).
template <RealScalar S>
struct GradientScale {
  Reduction reduction = Reduction::Mean;
  S weight = 1;  ///< > 0, finite

  S factor(Index examples) const {
    return reduction == Reduction::Mean ? weight / static_cast<S>(examples) : weight;
  }
  void validate(const char* where) const {
    detail::check_option(weight > 0 && std::isfinite(weight), where, "gradient_scale.weight",
                         weight, "> 0 and finite");
  }
};

}  // namespace kfac
