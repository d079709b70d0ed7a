#pragma once

/// What training needs, with Eigen alone. Apart from it stand the blocks in an eigenbasis (Eigen's
/// eigensolver takes seconds to compile) and the exact operators in `kfac/curvature/`, the algebra
/// in `kfac/linalg/`, `kfac/io/*.hpp` (zlib, nlohmann_json) and `kfac/testing/*.hpp`.

#include <kfac/core/parallel.hpp>
#include <kfac/core/schedules.hpp>
#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/fisher.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/data/batch_stream.hpp>
#include <kfac/data/batches.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/data/slices.hpp>
#include <kfac/data/two_moons.hpp>
#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/any_layer.hpp>
#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/nn/static_sequential.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/callbacks.hpp>
#include <kfac/optim/fit.hpp>
#include <kfac/optim/gradient_optimizer.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/optim/rmsprop.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/train_step.hpp>
#include <kfac/version.hpp>
