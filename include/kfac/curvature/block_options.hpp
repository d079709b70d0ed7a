#pragma once

#include <string>

#include <kfac/core/reduction.hpp>
#include <kfac/curvature/weight_sharing.hpp>
#include <kfac/linalg/factor_balance.hpp>

namespace kfac {

/// Of one curvature block, of the parameters [W b] of a linear map or of anything else that has
/// them (`outputs` parameters, 1 input, no bias).
template <RealScalar S>
struct BlockOptions {
  Index inputs = 0;   ///< >= 1
  Index outputs = 0;  ///< >= 1
  bool bias = true;   ///< the block is of [W b], and a 1 is appended to every input
  /// Of parameters that are a `units x (parameters / units)` matrix, one row for each output unit;
  /// 0: as many as outputs. For `UnitwiseBlock`.
  Index units = 0;
  /// Weight of the past in the running averages once there is enough of it, in [0, 1).
  S factor_decay = S(0.95);
  /// How damping that is split over two factors is balanced between them.
  FactorBalance pi = FactorBalance::Trace;
  /// Refreshes of an eigenbasis from one full decomposition to the next, >= 1; in between the basis
  /// is tracked by a step of orthogonal iteration, which is several times cheaper.
  Index decompose_every = 1;
  /// How far from diagonal a factor may be in a tracked basis, as `SymmetricEigen::residual`
  /// measures it, before it is decomposed after all; >= 0.
  S track_tolerance = S(0.1);
  /// What Kronecker factors do with positions that share the weights.
  WeightSharing sharing = WeightSharing::Expand;
  /// How the loss was reduced whose gradients are given to `KroneckerBlock::accumulate`.
  GradientScale<S> gradient_scale = {};
  std::string name = "block";  ///< for error messages

  /// Columns of [W b].
  Index columns() const { return inputs + (bias ? 1 : 0); }

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(inputs >= 1, where, "inputs", inputs, ">= 1");
    detail::check_option(outputs >= 1, where, "outputs", outputs, ">= 1");
    detail::check_option(units >= 0 && (units == 0 || outputs * columns() % units == 0), where,
                         "units", units, "0 or a divisor of the number of parameters");
    detail::check_option(factor_decay >= 0 && factor_decay < 1, where, "factor_decay", factor_decay,
                         "in [0, 1)");
    detail::check_option(decompose_every >= 1, where, "decompose_every", decompose_every, ">= 1");
    detail::check_option(track_tolerance >= 0, where, "track_tolerance", track_tolerance, ">= 0");
    gradient_scale.validate(where);
  }
};

}  // namespace kfac
