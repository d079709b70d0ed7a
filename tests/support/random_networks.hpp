#pragma once

#include <kfac/nn/conv.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/dense_blocks.hpp"

/// Random small networks of all kinds, for what holds of any.
namespace kfac::test {

/// A network and the shape of its input.
struct RandomNetwork {
  AnyModel model;
  Shape shape;
};

inline AnyLayer<double> random_activation(Rng& rng) {
  switch (rng.below(4)) {
    case 0:
      return Tanh<double>{};
    case 1:
      return Sigmoid<double>{};
    case 2:
      return ReLU<double>{};
    default:
      return Identity<double>{};
  }
}

/// One or two layers, up to a returned width.
inline Index append_hidden(AnyModel& model, Index inputs, Rng& rng) {
  for (Index depth = 1 + rng.below(2); depth > 0; --depth) {
    const Index width = 1 + rng.below(4);
    model.push_back(Linear<double>(inputs, width, rng, {.bias = rng.below(2) == 0}));
    model.push_back(random_activation(rng));
    inputs = width;
  }
  return inputs;
}

inline RandomNetwork random_network(Rng& rng) {
  RandomNetwork result;
  AnyModel& model = result.model;
  Index width = 0;
  const Index kind = rng.below(4);
  if (kind == 3) {
    const Index channels = 1 + rng.below(2);
    result.shape = {channels, 2 + rng.below(3), 2 + rng.below(3)};
    width = 1 + rng.below(3);
    model.push_back(Conv2d<double>({.in_channels = channels,
                                    .out_channels = width,
                                    .kernel_size = {1 + rng.below(2), 1 + rng.below(2)},
                                    .stride = {1 + rng.below(2), 1},
                                    .padding = {rng.below(2), rng.below(2)},
                                    .bias = rng.below(2) == 0,
                                    .workspace = rng.below(2) == 0 ? 0 : 1 << 20},
                                   rng));
    model.push_back(random_activation(rng));
    model.push_back(SpatialMean<double>{});
  } else {
    const Index inputs = 1 + rng.below(4);
    result.shape = kind == 0 ? Shape{inputs} : Shape{1 + rng.below(4), inputs};
    width = append_hidden(model, inputs, rng);
    if (kind == 1) model.push_back(MeanTokens<double>{});
    if (kind == 2) {
      width *= result.shape[0];
      model.push_back(Flatten<double>{});
    }
  }
  model.push_back(Linear<double>(width, 2 + rng.below(2), rng, {.bias = rng.below(2) == 0}));
  return result;
}

/// Calls `body(model, task, options, samples)` for 200 random networks of vectors, tokens and
/// images, each loss, and curvature of all vectors, of the labels and of given samples.
template <class Body>
void for_each_random_task(Body&& body) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    RandomNetwork network = random_network(rng);
    const LossOptions reduction{.reduction = rng.below(2) == 0 ? Reduction::Mean : Reduction::Sum};
    const Index examples = 1 + rng.below(6);
    const EstimatorOptions<double> options{
        .fisher = seed % 3 == 1 ? FisherType::Empirical : FisherType::Type2,
        .sharing = rng.below(2) == 0 ? WeightSharing::Expand : WeightSharing::Reduce};
    const AnyLoss loss = all_losses(reduction)[seed / 3 % 3];
    const Task task(network.model, loss, network.shape, examples, rng);
    Samples samples;
    if (seed % 3 == 1) samples = {task.y};
    if (seed % 3 == 2)
      for (Index sample = 1 + rng.below(3); sample > 0; --sample)
        samples.push_back(Task(network.model, loss, network.shape, examples, rng).y);
    body(network.model, task, options, samples);
  }
}

/// The exact block of each layer that a task with such options and samples has.
inline Blocks exact_blocks(AnyModel& model, const Task& task, const Samples& samples) {
  return samples.empty() ? ggn_blocks(model, task) : fisher_blocks(model, task, samples);
}

}  // namespace kfac::test
