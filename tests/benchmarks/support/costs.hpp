#pragma once

#include <cstddef>
#include <vector>

#include "support/schedule.hpp"

namespace benchmarks {

/// A layer with Kronecker-factored curvature: `groups` matrices [W b] of `outputs x columns`, each
/// used at `positions` places of an example.
struct LayerSizes {
  kfac::Index inputs = 0;
  kfac::Index columns = 0;  ///< inputs, and one for a bias
  kfac::Index outputs = 0;
  kfac::Index groups = 1;
  kfac::Index positions = 1;
};

/// Floating-point operations of the parts of a step that grow faster than the network, an addition
/// or multiplication each: matrix products, with the symmetry of factors made use of, and inverses
/// by Cholesky. The gradient of the network's inputs is not needed.
struct Operations {
  double forward = 0;
  double backward = 0;
  double factors = 0;
  double inverses = 0;
  double precondition = 0;

  double gradient() const { return forward + backward; }
  /// Of a step of K-FAC, a period's on average.
  double step(const Schedule& schedule) const {
    return gradient() + factors / static_cast<double>(schedule.factor_every) +
           inverses / static_cast<double>(schedule.inverse_every) + precondition;
  }
};
Operations operations(const std::vector<LayerSizes>& layers, kfac::Index batch);

/// What training cannot do without, in bytes: parameters, the two factors and two inverses of each
/// layer as full matrices, and the inputs of all layers and the outputs of the last, for a batch.
struct Memory {
  double parameters = 0;
  double factors = 0;
  double inverses = 0;
  double activations = 0;

  double total() const { return parameters + factors + inverses + activations; }
};
/// `input_features`: of an example.
Memory memory(const std::vector<LayerSizes>& layers, kfac::Index input_features, kfac::Index batch,
              std::size_t scalar_bytes);

}  // namespace benchmarks
