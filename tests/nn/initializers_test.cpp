#include <cmath>
#include <string>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/named_initializers.hpp>
#include <kfac/nn/residual.hpp>

#include "nn/support.hpp"

namespace kfac::test::initializers_test {

using kfac::test::error_of;
using kfac::test::normal;

namespace {

double variance(const Matrix<double>& weight) {
  return weight.squaredNorm() / static_cast<double>(weight.size());
}

template <class I>
double variance_of_linear(const I& initializer) {
  Rng rng(1);
  Linear<double> layer(300, 200, rng);
  initialize(layer, initializer, rng);
  const Matrix<double> weight = layer.augmented_weight().leftCols(300);
  REQUIRE(std::abs(weight.mean()) < 0.01 * std::sqrt(variance(weight)));
  REQUIRE((layer.augmented_weight().rightCols(1).array() == 0).all());
  return variance(weight);
}

bool is_orthogonal(const Matrix<double>& matrix, double gain = 1) {
  const Matrix<double> gram = matrix.rows() >= matrix.cols()
                                  ? Matrix<double>(matrix.transpose() * matrix)
                                  : Matrix<double>(matrix * matrix.transpose());
  return error_of(gram, Matrix<double>::Identity(gram.rows(), gram.cols()) * (gain * gain)) < 1e-12;
}

}  // namespace

TEST_CASE("Initialisers have the variance that their papers say", "[nn][statistics]") {
  const double g = gain(Nonlinearity::Tanh);
  CHECK(variance_of_linear(XavierNormal{}) == Approx(2.0 / 500).epsilon(0.02));
  CHECK(variance_of_linear(XavierUniform{.gain = g}) == Approx(g * g * 2.0 / 500).epsilon(0.02));
  CHECK(variance_of_linear(KaimingNormal{}) == Approx(2.0 / 300).epsilon(0.02));
  CHECK(variance_of_linear(KaimingUniform{.gain = 1}) == Approx(1.0 / 300).epsilon(0.02));
  CHECK(variance_of_linear(KaimingNormal{.fan = Fan::Out}) == Approx(2.0 / 200).epsilon(0.02));
  CHECK(variance_of_linear(KaimingUniform{.fan = Fan::Out}) == Approx(2.0 / 200).epsilon(0.02));
}

TEST_CASE("Uniform initialisers are within their bounds, and reach them", "[nn][statistics]") {
  Rng rng(2);
  Linear<double> layer(300, 200, rng);
  initialize(layer, XavierUniform{}, rng);
  const double bound = std::sqrt(6.0 / 500);
  CHECK(layer.parameters().maxCoeff() < bound);
  CHECK(layer.parameters().maxCoeff() > 0.999 * bound);
  initialize(layer, KaimingUniform{}, rng);
  CHECK(layer.parameters().minCoeff() > -std::sqrt(6.0 / 300));
  CHECK(layer.parameters().minCoeff() < -0.999 * std::sqrt(6.0 / 300));
}

TEST_CASE("The gains of nonlinearities are those of PyTorch", "[nn][exact]") {
  CHECK(gain(Nonlinearity::Linear) == 1);
  CHECK(gain(Nonlinearity::Sigmoid) == 1);
  CHECK(gain(Nonlinearity::Tanh) == Approx(5.0 / 3));
  CHECK(gain(Nonlinearity::ReLU) == Approx(std::sqrt(2.0)));
  CHECK(gain(Nonlinearity::LeakyReLU, 0.2) == Approx(std::sqrt(2.0 / 1.04)));
  CHECK(gain(Nonlinearity::SELU) == Approx(0.75));
}

TEST_CASE("The fans of convolutions count their kernels, in a group", "[nn][statistics]") {
  Rng rng(3);
  Conv2d<double> conv({.in_channels = 64, .out_channels = 128, .kernel_size = {3, 5}, .groups = 4},
                      rng);
  initialize(conv, KaimingNormal{}, rng);
  CHECK(variance(conv.augmented_weight(2).leftCols(240)) == Approx(2.0 / 240).epsilon(0.05));
  initialize(conv, KaimingNormal{.fan = Fan::Out}, rng);
  CHECK(variance(conv.augmented_weight(3).leftCols(240)) == Approx(2.0 / 480).epsilon(0.05));
  ConvTranspose2d<double> up({.in_channels = 16, .out_channels = 32, .kernel_size = {4, 4}}, rng);
  initialize(up, XavierNormal{}, rng);
  CHECK(variance(up.augmented_weight().leftCols(256)) == Approx(2.0 / (256 + 512)).epsilon(0.05));
}

TEST_CASE("Orthogonal weights have orthonormal rows or columns", "[nn][exact]") {
  Rng rng(4);
  Linear<double> wide(7, 4, rng), tall(3, 8, rng);
  initialize(wide, Orthogonal{}, rng);
  CHECK(is_orthogonal(wide.augmented_weight().leftCols(7)));
  initialize(tall, Orthogonal{.gain = 1.5}, rng);
  CHECK(is_orthogonal(tall.augmented_weight().leftCols(3), 1.5));
  Conv2d<double> conv({.in_channels = 4, .out_channels = 6, .groups = 2}, rng);
  initialize(conv, Orthogonal{}, rng);
  for (const Index group : {0, 1}) CHECK(is_orthogonal(conv.augmented_weight(group).leftCols(18)));
  CHECK(error_of(conv.augmented_weight(0), conv.augmented_weight(1)) > 0.1);
}

TEST_CASE("Orthogonal matrices are drawn without preference", "[nn][statistics]") {
  // Of a uniform orthogonal matrix every entry has mean 0 and variance 1/n.
  Rng rng(5);
  Matrix<double> mean = Matrix<double>::Zero(3, 3), squares = mean;
  const int draws = 4000;
  for (int i = 0; i < draws; ++i) {
    const Matrix<double> q = kfac::detail::random_orthogonal<double>(3, 3, rng);
    mean += q / draws;
    squares += q.cwiseAbs2() / draws;
  }
  CHECK(mean.cwiseAbs().maxCoeff() < 5 * std::sqrt(1.0 / 3 / draws));
  CHECK((squares.array() - 1.0 / 3).abs().maxCoeff() < 0.03);
}

TEST_CASE("Delta-orthogonal kernels are zero but in the middle, where they are orthogonal",
          "[nn][exact]") {
  Rng rng(6);
  Conv2d<double> conv({.in_channels = 3, .out_channels = 5, .kernel_size = {3, 4}}, rng);
  initialize(conv, DeltaOrthogonal{.gain = 2}, rng, {.bias = 0.25});
  const Matrix<double> weight = conv.augmented_weight();
  Matrix<double> middle(5, 3);
  for (Index channel = 0; channel < 3; ++channel)
    middle.col(channel) = weight.col(channel * 12 + 5);
  CHECK(is_orthogonal(middle, 2));
  CHECK(weight.leftCols(36).norm() == Approx(middle.norm()));
  CHECK((weight.col(36).array() == 0.25).all());
}

TEST_CASE("A delta-orthogonal convolution that keeps the size of images keeps their norm",
          "[nn][property]") {
  Rng rng(7);
  DynamicSequential<double> model;
  for (const Index channels : {2, 3, 5})
    model.push_back(Conv2d<double>({.in_channels = channels,
                                    .out_channels = channels == 2 ? Index{3} : Index{5},
                                    .padding = {1, 1}},
                                   rng));
  initialize(model, DeltaOrthogonal{}, rng);
  const Matrix<double> x = normal<double>(84, 4, rng);
  const Matrix<double> y = model.forward(x, {2, 6, 7});
  for (Index n = 0; n < 4; ++n) CHECK(y.col(n).norm() == Approx(x.col(n).norm()).epsilon(1e-12));
}

TEST_CASE("initialize draws all linear maps of a network, and nothing else", "[nn][exact]") {
  Rng rng(8);
  DynamicSequential<double> model(
      {Conv2d<double>({.in_channels = 1, .out_channels = 4}, rng), ReLU<double>{},
       Flatten<double>{}, Residual(Linear<double>(64, 64, rng)), Linear<double>(64, 3, rng)});
  initialize(model, Orthogonal{}, rng, {.bias = 0.5});
  for (const auto& layer : model.layers())
    for (const ParameterInfo& info : layer.parameter_info) {
      const ConstMatrixMap<double> values(layer.parameters.data() + info.offset, info.rows,
                                          info.columns);
      if (info.name == "weight")
        CHECK(is_orthogonal(values));
      else
        CHECK((values.array() == 0.5).all());
    }
  AnyLayer<double> layer = Linear<double>(3, 3, rng);
  initialize(layer, Constant{.value = 2}, rng);
  CHECK(layer.target<Linear<double>>()->parameters().head(9) == Vector<double>::Constant(9, 2));
  initialize(
      layer,
      [](const Weight<double>& weight, Rng&) { MatrixMap<double>(weight.values).setIdentity(); },
      rng);
  CHECK(layer.target<Linear<double>>()->augmented_weight().leftCols(3).isIdentity());
}

TEST_CASE("initialize takes the names of all initialisers, and names them for another",
          "[nn][error]") {
  for (const char* name : kInitializerNames) {
    Rng one(9), other(9);
    Linear<double> layer(4, 4, one), before(4, 4, other);
    initialize(layer, name, one);
    INFO(name);
    CHECK(error_of(layer.parameters(), before.parameters()) > 0.1);
    CHECK((layer.parameters().tail(4).array() == 0).all());
  }
  Rng a(10), b(10);
  Linear<double> first(5, 4, a), second(5, 4, b);
  initialize(first, "kaiming_uniform", a);
  initialize(second, KaimingUniform{}, b);
  CHECK(first.parameters() == second.parameters());
  CHECK_THROWS_WITH(initialize(first, "he", a),
                    "kfac::initialize: 'name' is 'he', expected one of zeros, xavier_uniform, "
                    "xavier_normal, kaiming_uniform, kaiming_normal, orthogonal, delta_orthogonal");
  CHECK(first.parameters() == second.parameters());
}

}  // namespace kfac::test::initializers_test
