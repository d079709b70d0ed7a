// clang-format off: before Eigen
#include "noalloc/forbid.hpp"
// clang-format on

#include <kfac/nn/gru.hpp>
#include <kfac/nn/lstm.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace kfac;
using namespace kfac::test;

namespace {

/// All passes must not allocate once the largest batch, which comes first, has gone through.
template <class Layer>
void check_recurrent_passes(const Layer& layer) {
  Rng rng(1);
  typename Layer::Scratch scratch;
  bool warm = false;
  for (const Index steps : {7, 3, 1})
    for (const Index examples : {40, 3, 17, 1}) {
      const Shape shape{steps, layer.inputs()};
      const Shape output = layer.output_shape(shape);
      const Matrix<float> x = normal<float>(shape.size(), examples, rng);
      const Matrix<float> g = normal<float>(output.size(), examples, rng);
      const PositionMask mask = PositionMask::Constant(steps, examples, true);
      const Mode mode{.mask = &mask};
      Matrix<float> y = g, y_tangent = g, grad_x = x;
      Vector<float> gradient = normal<float>(layer.parameter_count(), 1, rng);
      const Vector<float> direction = gradient;
      const ConstVectorMap<float> parameter_tangent(direction.data(), direction.size());
      VectorMap<float> grad_parameters(gradient.data(), gradient.size());
      const ConstBatchView<float> in({x.data(), x.rows(), x.cols()}, shape);
      const ConstBatchView<float> grad_output({g.data(), g.rows(), g.cols()}, output);
      const BatchView<float> out{{y.data(), y.rows(), y.cols()}, output};
      const BatchView<float> tangent{{y_tangent.data(), y.rows(), y.cols()}, output};
      BatchView<float> grad_input{{grad_x.data(), x.rows(), x.cols()}, shape};
      const auto passes = [&] {
        layer.forward(in, out, scratch, mode);
        layer.tangent(in, out, &in, &parameter_tangent, tangent, scratch);
        layer.backward_tangent(in, out, grad_output, &in, &parameter_tangent, grad_output,
                               &grad_input, &grad_parameters, scratch);
        layer.backward(in, out, grad_output, &grad_input, &grad_parameters, scratch, mode);
      };
      if (!warm) passes();
      warm = true;
      CHECK(allocations_in(passes) == Allocations{});
    }
}

}  // namespace

TEST_CASE("noalloc: warm passes of recurrent layers", "[noalloc]") {
  Rng rng(1);
  check_recurrent_passes(GRU<float>(9, 16, rng));
  check_recurrent_passes(LSTM<float>(9, 16, rng, {.return_last = true}));
}
