#pragma once

#include <memory>

#include "workloads/workload.hpp"

namespace benchmarks {

/// A network that grows: 784 inputs, so many hidden layers of so many units with ReLU, 10 outputs.
std::unique_ptr<Workload> growing_mlp(kfac::Index width, kfac::Index depth, kfac::Index batch);
/// Convolutions of an image of `size x size`: 3x3 to 16, 3x3 to 32 with stride 2, mean over
/// positions, linear to 10, with ReLU.
std::unique_ptr<Workload> growing_cnn(kfac::Index size, kfac::Index batch);

}  // namespace benchmarks
