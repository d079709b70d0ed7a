// Convolutions of all sizes that their kernels treat differently: many channels and few, places
// that fill registers and that do not, strides beyond the kernel, with any number of threads.

#include <algorithm>

#include <kfac/core/parallel.hpp>
#include <kfac/linalg/patches.hpp>
#include <kfac/nn/conv.hpp>

#include "nn/support.hpp"

namespace kfac::test::conv_products_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

template <std::size_t Axes>
struct Problem {
  ConvOptions<Axes> options;
  Shape shape;
};

template <std::size_t Axes>
PatchGeometry<Axes> geometry_of(const Problem<Axes>& problem) {
  const ConvOptions<Axes>& options = problem.options;
  PatchGeometry<Axes> geometry{.channels = options.in_channels,
                               .image = detail::image_of<Axes>(problem.shape),
                               .kernel = options.kernel_size,
                               .stride = options.stride,
                               .padding = options.padding,
                               .dilation = options.dilation};
  for (std::size_t axis = 0; axis < Axes; ++axis)
    if (options.padding_end[axis] >= 0)
      geometry.extra_padding[axis] = options.padding_end[axis] - options.padding[axis];
  return geometry;
}

template <std::size_t Axes>
Problem<Axes> random_problem(Rng& rng) {
  for (;;) {
    Problem<Axes> problem;
    ConvOptions<Axes>& options = problem.options;
    options.groups = rng.below(3) == 0 ? between(2, 3, rng) : 1;
    options.in_channels = options.groups * between(1, rng.below(2) == 0 ? 3 : 19, rng);
    options.out_channels = options.groups * between(1, rng.below(2) == 0 ? 9 : 60, rng);
    options.bias = rng.below(2) == 0;
    problem.shape = {options.in_channels};
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      options.kernel_size[axis] = between(1, 4, rng);
      options.stride[axis] = between(1, rng.below(3) == 0 ? 5 : 2, rng);
      options.padding[axis] = rng.below(2) == 0 ? between(0, 3, rng) : 0;
      options.padding_end[axis] = rng.below(2) == 0 ? between(0, 3, rng) : -1;
      options.dilation[axis] = rng.below(3) == 0 ? between(2, 4, rng) : 1;
      const Index size = between(1, Axes == 1 ? 150 : Axes == 2 ? 15 : 6, rng);
      problem.shape.push_back(size);
    }
    if (geometry_of(problem).positions() > 0) return problem;
  }
}

/// A layer, a batch, and what it makes of it.
template <class S, std::size_t Axes>
class Batch {
 public:
  Batch(const Problem<Axes>& problem, Index examples, Rng& rng)
      : problem_(problem),
        layer_(problem.options, rng),
        output_(layer_.output_shape(problem.shape)),
        x(normal<S>(problem.shape.size(), examples, rng)),
        x_tangent(normal<S>(problem.shape.size(), examples, rng)),
        g(normal<S>(output_.size(), examples, rng)),
        g_tangent(normal<S>(output_.size(), examples, rng)),
        direction(normal<S>(layer_.parameter_count(), 1, rng)) {}

  /// By the layer.
  struct Results {
    Matrix<S> y, tangent, grad_input, grad_input_tangent;
    Vector<S> gradient, gradient_tangent;

    bool operator==(const Results& other) const {
      return y == other.y && tangent == other.tangent && grad_input == other.grad_input &&
             grad_input_tangent == other.grad_input_tangent && gradient == other.gradient &&
             gradient_tangent == other.gradient_tangent;
    }
  };
  Results run() const {
    Results r{g, g, x, x, direction, direction};
    typename Conv<S, Axes>::Scratch scratch;
    const ConstBatchView<S> in = view(x, problem_.shape),
                            in_tangent = view(x_tangent, problem_.shape);
    const ConstBatchView<S> grad = view(g, output_), grad_tangent = view(g_tangent, output_);
    const ConstVectorMap<S> along(direction.data(), direction.size());
    const BatchView<S> y = view(r.y, output_);
    BatchView<S> grad_input = view(r.grad_input, problem_.shape);
    BatchView<S> grad_input_tangent = view(r.grad_input_tangent, problem_.shape);
    VectorMap<S> gradient(r.gradient.data(), r.gradient.size());
    VectorMap<S> gradient_tangent(r.gradient_tangent.data(), r.gradient_tangent.size());
    layer_.forward(in, y, scratch, Mode{});
    layer_.tangent(in, y, &in_tangent, &along, view(r.tangent, output_), scratch);
    layer_.backward(in, y, grad, &grad_input, &gradient, scratch, Mode{});
    layer_.backward_tangent(in, y, grad, &in_tangent, &along, grad_tangent, &grad_input_tangent,
                            &gradient_tangent, scratch);
    return r;
  }

  /// By unfolded patches, whose rows are places, one group and example after another.
  Results expected() {
    Results r{Matrix<S>::Zero(g.rows(), g.cols()),
              Matrix<S>::Zero(g.rows(), g.cols()),
              Matrix<S>(x),
              Matrix<S>(x),
              Vector<S>::Zero(direction.size()),
              Vector<S>::Zero(direction.size())};
    const PatchGeometry<Axes> geometry = geometry_of(problem_);
    const KroneckerStructure sizes = layer_.kronecker_structure();
    const Index positions = geometry.positions();
    Matrix<S> patches(positions, geometry.features()), patches_tangent(patches);
    Matrix<S> grad_patches(patches), grad_patches_tangent(patches);
    const Index step = sizes.outputs * sizes.columns();
    for (Index n = 0; n < x.cols(); ++n) {
      unfold_patches<S>(geometry, x.col(n), patches);
      unfold_patches<S>(geometry, x_tangent.col(n), patches_tangent);
      for (Index group = 0; group < sizes.groups; ++group) {
        const ConstMatrixMap<S> w(layer_.parameters().data() + group * step, sizes.outputs,
                                  sizes.columns());
        const ConstMatrixMap<S> v(direction.data() + group * step, sizes.outputs, sizes.columns());
        MatrixMap<S> gradient(r.gradient.data() + group * step, sizes.outputs, sizes.columns());
        MatrixMap<S> gradient_tangent(r.gradient_tangent.data() + group * step, sizes.outputs,
                                      sizes.columns());
        const Matrix<S> p = ones_behind(patches, group), q = zeros_behind(patches_tangent, group);
        const auto part = [&](const Matrix<S>& of) {
          return ConstMatrixMap<S>(of.col(n).data() + group * positions * sizes.outputs, positions,
                                   sizes.outputs);
        };
        const auto into = [&](Matrix<S>& of) {
          return MatrixMap<S>(of.col(n).data() + group * positions * sizes.outputs, positions,
                              sizes.outputs);
        };
        into(r.y) = p * w.transpose();
        into(r.tangent) = p * v.transpose() + q * w.transpose();
        gradient += part(g).transpose() * p;
        gradient_tangent += part(g_tangent).transpose() * p + part(g).transpose() * q;
        const Index first = group * sizes.inputs;
        grad_patches.middleCols(first, sizes.inputs) = part(g) * w.leftCols(sizes.inputs);
        grad_patches_tangent.middleCols(first, sizes.inputs) =
            part(g_tangent) * w.leftCols(sizes.inputs) + part(g) * v.leftCols(sizes.inputs);
      }
      fold_patches<S>(geometry, grad_patches, r.grad_input.col(n));
      fold_patches<S>(geometry, grad_patches_tangent, r.grad_input_tangent.col(n));
    }
    return r;
  }

 private:
  Matrix<S> with_behind(const Matrix<S>& patches, Index group, S value) const {
    const KroneckerStructure sizes = layer_.kronecker_structure();
    Matrix<S> result = Matrix<S>::Constant(patches.rows(), sizes.columns(), value);
    result.leftCols(sizes.inputs) = patches.middleCols(group * sizes.inputs, sizes.inputs);
    return result;
  }
  Matrix<S> ones_behind(const Matrix<S>& patches, Index group) const {
    return with_behind(patches, group, 1);
  }
  Matrix<S> zeros_behind(const Matrix<S>& patches, Index group) const {
    return with_behind(patches, group, 0);
  }
  static ConstBatchView<S> view(const Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }
  static BatchView<S> view(Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }

  Problem<Axes> problem_;
  Conv<S, Axes> layer_;
  Shape output_;
  Matrix<S> x, x_tangent, g, g_tangent;
  Vector<S> direction;
};

template <std::size_t Axes>
void check_products(Rng& rng) {
  const Problem<Axes> problem = random_problem<Axes>(rng);
  Batch<double, Axes> batch(problem, between(1, 5, rng), rng);
  const auto actual = batch.run(), expected = batch.expected();
  const double tolerance = 1e-13;
  INFO("image " << problem.shape.to_string() << ", out " << problem.options.out_channels
                << ", groups " << problem.options.groups << ", kernel "
                << problem.options.kernel_size[0] << ", stride " << problem.options.stride[0]
                << ", padding " << problem.options.padding[0] << ", dilation "
                << problem.options.dilation[0]);
  REQUIRE(error_of(actual.y, expected.y) < tolerance);
  REQUIRE(error_of(actual.tangent, expected.tangent) < tolerance);
  REQUIRE(error_of(actual.grad_input, expected.grad_input) < tolerance);
  REQUIRE(error_of(actual.grad_input_tangent, expected.grad_input_tangent) < tolerance);
  REQUIRE(error_of(actual.gradient, expected.gradient) < tolerance);
  REQUIRE(error_of(actual.gradient_tangent, expected.gradient_tangent) < tolerance);
}

template <std::size_t Axes>
void check_threads(ThreadPool& pool, Rng& rng) {
  const Problem<Axes> problem = random_problem<Axes>(rng);
  const Batch<double, Axes> batch(problem, between(1, 40, rng), rng);
  const auto alone = batch.run();
  const ParallelScope parallel(&pool);
  REQUIRE(batch.run() == alone);
}

}  // namespace

TEST_CASE("Passes of a convolution equal products with unfolded patches", "[nn][property]") {
  Rng rng(1);
  for (int trial = 0; trial < 60; ++trial) {
    check_products<1>(rng);
    check_products<2>(rng);
    check_products<3>(rng);
  }
}

TEST_CASE("Passes of a convolution are bit for bit the same with any number of threads",
          "[nn][property]") {
  Rng rng(2);
  for (const Index threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int trial = 0; trial < 10; ++trial) {
      check_threads<1>(pool, rng);
      check_threads<2>(pool, rng);
      check_threads<3>(pool, rng);
    }
  }
}

}  // namespace kfac::test::conv_products_test
