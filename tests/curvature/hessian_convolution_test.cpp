#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/hessian.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/pooling.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

// The Hessian of networks with convolutions and poolings.

namespace kfac::test::hessian_convolution_test {

namespace {

using Model = DynamicSequential<double>;

struct Case {
  const char* name;
  Model model;
  Shape shape;
};

std::vector<Case> cases(Rng& rng) {
  std::vector<Case> result;
  result.push_back({"one axis",
                    Model({Conv1d<double>({.in_channels = 2, .out_channels = 3}, rng),
                           Tanh<double>{}, MaxPool1d<double>({.kernel_size = {2}}),
                           Flatten<double>{}, Linear<double>(9, 3, rng)}),
                    {2, 8}});
  result.push_back(
      {"two axes, padded, dilated, in groups",
       Model({Conv2d<double>({.in_channels = 2,
                              .out_channels = 4,
                              .kernel_size = {3, 2},
                              .stride = {2, 1},
                              .padding = {1, 1},
                              .dilation = {1, 2},
                              .groups = 2},
                             rng),
              GELU<double>{},
              Conv2d<double>({.in_channels = 4, .out_channels = 3, .bias = false}, rng),
              Softplus<double>{}, SpatialMean<double>{}}),
       {2, 5, 5}});
  result.push_back(
      {"patches of one example at a time",
       Model({Conv2d<double>({.in_channels = 1, .out_channels = 2, .workspace = 0}, rng),
              Sigmoid<double>{}, AvgPool2d<double>{}, MaxPool2d<double>{}, Flatten<double>{},
              Linear<double>(2, 3, rng)}),
       {1, 6, 6}});
  result.push_back(
      {"three axes",
       Model({Conv3d<double>({.in_channels = 1, .out_channels = 3, .kernel_size = {2, 2, 2}}, rng),
              Tanh<double>{}, Flatten<double>{}, Linear<double>(24, 3, rng)}),
       {1, 3, 3, 3}});
  result.push_back({"mean over tokens",
                    Model({Linear<double>(2, 4, rng), Tanh<double>{}, MeanTokens<double>{},
                           Linear<double>(4, 3, rng)}),
                    {3, 2}});
  return result;
}

}  // namespace

TEST_CASE("Hessian: products are the derivative of the gradient in convolutional networks") {
  Rng rng(1);
  for (Case& c : cases(rng)) {
    INFO(c.name);
    const Matrix<double> x = normal<double>(c.shape.size(), 4, rng);
    const auto check = [&](const auto& loss) {
      const auto y = targets_for(loss, 3, 4, rng);
      const Hessian hessian(c.model, loss, x, y, c.shape);
      const Vector<double> v = normal<double>(hessian.rows(), 1, rng);
      const Vector<double> slope = derivative_along(c.model, v, [&] {
        c.model.backward(loss.gradient(c.model.forward(x, c.shape), y));
        return Vector<double>(c.model.gradient());
      });
      CHECK(relative_error(hessian * v, slope) < 1e-7);
      const Matrix<double> dense = hessian.dense();
      CHECK(relative_error(dense, dense.transpose()) < 1e-12);
      CHECK(relative_error(hessian * v, dense * v) < 1e-12);
    };
    check(SoftmaxCrossEntropy<double>());
    check(MeanSquaredError<double>());
  }
}

TEST_CASE("T8: with convolutions and max pooling too the diagonal blocks are the GGN's") {
  Rng rng(2);
  const Model model({Conv2d<double>({.in_channels = 1, .out_channels = 3, .padding = {1, 1}}, rng),
                     ReLU<double>{}, MaxPool2d<double>{},
                     Conv2d<double>({.in_channels = 3, .out_channels = 2}, rng), ReLU<double>{},
                     Flatten<double>{}, Linear<double>(2, 3, rng)});
  const Matrix<double> x = normal<double>(36, 6, rng);
  const SoftmaxCrossEntropy<double> loss;
  const Hessian hessian(model, loss, x, targets_for(loss, 3, 6, rng), {1, 6, 6});
  const Ggn ggn(model, loss, x, {1, 6, 6});
  for (const Index layer : {0, 3, 6})
    CHECK(relative_error(hessian.block(layer).dense(), ggn.block(layer).dense()) < 1e-10);
  CHECK(relative_error(hessian.dense(), ggn.dense()) > 1e-2);
}

TEST_CASE("Exact operators: on images of different shapes they are the sum over all") {
  Rng rng(3);
  const Model model({Conv2d<double>({.in_channels = 1, .out_channels = 3}, rng), Tanh<double>{},
                     SpatialMean<double>{}, Linear<double>(3, 2, rng)});
  const SoftmaxCrossEntropy<double> mean;
  const Matrix<double> small = normal<double>(16, 2, rng);
  const Matrix<double> large = normal<double>(30, 3, rng);
  const Labels y_small = targets_for(mean, 2, 2, rng);
  const Labels y_large = targets_for(mean, 2, 3, rng);
  const std::vector both{Slice(small, y_small, {1, 4, 4}), Slice(large, y_large, {1, 5, 6})};
  const Matrix<double> ggn = Ggn(model, mean, both).dense();
  CHECK(relative_error(ggn, 0.4 * Ggn(model, mean, small, {1, 4, 4}).dense() +
                                0.6 * Ggn(model, mean, large, {1, 5, 6}).dense()) < 1e-13);
  const Matrix<double> hessian = Hessian(model, mean, both).dense();
  CHECK(relative_error(hessian, 0.4 * Hessian(model, mean, small, y_small, {1, 4, 4}).dense() +
                                    0.6 * Hessian(model, mean, large, y_large, {1, 5, 6}).dense()) <
        1e-13);
}

}  // namespace kfac::test::hessian_convolution_test
