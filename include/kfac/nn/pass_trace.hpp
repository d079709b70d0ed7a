#pragma once

#include <string>

#include <kfac/core/shape.hpp>

namespace kfac {

/// A layer's pass forward.
struct LayerPass {
  std::string name = {};  ///< the layer's path in the network
  std::string kind = {};
  bool is_leaf = true;            ///< it is not made of other layers, whose passes follow
  Shape input = {}, output = {};  ///< of an example
  Index examples = 1;
  Index parameters = 0;  ///< of a leaf
  /// Multiplications, each with an addition, for an example, those of inner layers apart.
  double multiply_adds = 0;
};

/// Hears of the passes forward of all layers of a network, each before it happens:
/// `Mode::trace`.
class PassTrace {
 public:
  PassTrace() = default;
  PassTrace(const PassTrace&) = delete;
  PassTrace& operator=(const PassTrace&) = delete;
  virtual ~PassTrace() = default;

  virtual void on_forward(const LayerPass& pass) = 0;
};

}  // namespace kfac
