#pragma once

#include <string>
#include <vector>

#include <kfac/curvature/block_factory.hpp>

namespace examples {

/// A way to approximate the curvature of each layer.
struct BlockKind {
  std::string name;
  kfac::BlockFactory<double> factory;
  /// The matrix is that of another kind, and only its damping differs.
  bool differs_in_damping = false;
};

/// The exact block first, then all others.
std::vector<BlockKind> block_kinds();

}  // namespace examples
