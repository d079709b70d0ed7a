// The three convolutions of W4, a batch of 128 images each. Patches are beside what they are for:
// their "GEMM share" counts the operations of the product of the forward pass, so that the inverse
// of it is what making them adds to that product.

#include <array>

#include <kfac/linalg/patches.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/sequential.hpp>

#include "kernels/kernel.hpp"

namespace {

using kfac::Index;

constexpr Index kBatch = 128;

struct Convolution {
  kfac::Conv2dOptions options;
  Index image;  // height and width
};

const Convolution& convolution(const benchmark::State& state) {
  static const std::array<Convolution, 3> kAll{
      {{{.in_channels = 1, .out_channels = 32}, 28},
       {{.in_channels = 32, .out_channels = 64, .stride = {2, 2}}, 26},
       {{.in_channels = 64, .out_channels = 64, .stride = {2, 2}}, 12}}};
  return kAll.at(static_cast<std::size_t>(state.range(0) - 1));
}

kfac::PatchGeometry<2> geometry(const Convolution& layer) {
  return {.channels = layer.options.in_channels,
          .image = {layer.image, layer.image},
          .kernel = layer.options.kernel_size,
          .stride = layer.options.stride};
}

/// Of one of the products of a convolution's passes.
double operations(const Convolution& layer) {
  const kfac::PatchGeometry<2> sizes = geometry(layer);
  return 2 * static_cast<double>(sizes.features() * sizes.positions() * kBatch) *
         static_cast<double>(layer.options.out_channels);
}

/// A network of one convolution and a batch for it.
template <class S>
struct Batch {
  explicit Batch(const Convolution& layer)
      : shape{layer.options.in_channels, layer.image, layer.image},
        model{kfac::Conv2d<S>(layer.options, rng)},
        x(benchmarks::random_matrix<S>(shape.size(), kBatch)),
        gradient(benchmarks::random_matrix<S>(model.output_shape(shape).size(), kBatch)) {}

  kfac::Rng rng{1};
  kfac::Shape shape;
  kfac::Sequential<kfac::Conv2d<S>> model;
  kfac::Matrix<S> x, gradient;
};

template <class S>
void convolution_forward(benchmark::State& state) {
  const Convolution& layer = convolution(state);
  Batch<S> batch(layer);
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    benchmark::DoNotOptimize(batch.model.forward(batch.x, batch.shape).data());
    benchmark::ClobberMemory();
  }
  benchmarks::count_operations<S>(state, operations(layer), state.range(1));
}

/// The gradients of the weights alone, as the first layer of a network has them.
template <class S>
void convolution_backward_to_weights(benchmark::State& state) {
  const Convolution& layer = convolution(state);
  Batch<S> batch(layer);
  const benchmarks::Team team(state.range(1));
  batch.model.forward(batch.x, batch.shape);
  for (auto _ : state) {
    batch.model.backward(batch.gradient);
    benchmark::DoNotOptimize(batch.model.gradient().data());
    benchmark::ClobberMemory();
  }
  benchmarks::count_operations<S>(state, operations(layer), state.range(1));
}

template <class S>
void convolution_backward(benchmark::State& state) {
  const Convolution& layer = convolution(state);
  Batch<S> batch(layer);
  const benchmarks::Team team(state.range(1));
  batch.model.forward(batch.x, batch.shape);
  for (auto _ : state) {
    const kfac::Matrix<S> to_inputs = batch.model.input_gradient(batch.gradient);
    benchmark::DoNotOptimize(to_inputs.data());
    benchmark::ClobberMemory();
  }
  benchmarks::count_operations<S>(state, 2 * operations(layer), state.range(1));
}

template <class S>
void patch_extraction(benchmark::State& state) {
  const Convolution& layer = convolution(state);
  const kfac::PatchGeometry<2> sizes = geometry(layer);
  const kfac::Matrix<S> images =
      benchmarks::random_matrix<S>(sizes.channels * sizes.plane_size(), kBatch);
  kfac::Matrix<S> patches(kBatch * sizes.positions(), sizes.features());
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    kfac::unfold_patches<S>(sizes, images, patches);
    benchmark::DoNotOptimize(patches.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * patches.size() * Index{sizeof(S)});
  benchmarks::count_operations<S>(state, operations(layer), state.range(1));
}

KFAC_BENCHMARK(convolution_forward, 1, 3, false);
KFAC_BENCHMARK(convolution_backward_to_weights, 1, 3, false);
KFAC_BENCHMARK(convolution_backward, 1, 3, false);
KFAC_BENCHMARK(patch_extraction, 1, 3, false);

}  // namespace
