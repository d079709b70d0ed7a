#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/hessian.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

namespace kfac::test::hessian_test {

namespace {

using Model = DynamicSequential<double>;

struct Case {
  const char* name;
  Model model;
  Shape shape;
  Index outputs;
};

Model mlp(AnyLayer<double> activation, Rng& rng, bool bias = true) {
  return Model({Linear<double>(3, 5, rng, {.bias = bias}), activation,
                Linear<double>(5, 4, rng, {.bias = bias}), activation,
                Linear<double>(4, 3, rng, {.bias = bias})});
}

std::vector<Case> cases(Rng& rng) {
  std::vector<Case> result;
  result.push_back({"ReLU", mlp(ReLU<double>{}, rng), {3}, 3});
  result.push_back({"Tanh", mlp(Tanh<double>{}, rng), {3}, 3});
  result.push_back({"Sigmoid", mlp(Sigmoid<double>{}, rng), {3}, 3});
  result.push_back({"GELU", mlp(GELU<double>{}, rng), {3}, 3});
  result.push_back({"Softplus", mlp(Softplus<double>{}, rng), {3}, 3});
  result.push_back({"Identity", mlp(Identity<double>{}, rng), {3}, 3});
  result.push_back({"no bias", mlp(Tanh<double>{}, rng, false), {3}, 3});
  result.push_back({"an activation first and last",
                    Model({Tanh<double>{}, Linear<double>(3, 2, rng), GELU<double>{}}),
                    {3},
                    2});
  result.push_back({"dropout", mlp(Dropout<double>(0.4, rng), rng), {3}, 3});
  result.push_back({"tokens",
                    Model({Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng),
                           Flatten<double>{}, Softplus<double>{}, Linear<double>(4, 3, rng)}),
                    {2, 3},
                    3});
  result.push_back({"residual",
                    Model({Residual(Linear<double>(3, 3, rng), GELU<double>{},
                                    Residual(Linear<double>(3, 4, rng), Tanh<double>{},
                                             Linear<double>(4, 3, rng)),
                                    Sigmoid<double>{}),
                           Linear<double>(3, 2, rng)}),
                    {3},
                    2});
  result.push_back({"containers in containers",
                    Model({Sequential{Linear<double>(3, 4, rng), Tanh<double>{}},
                           Model({Linear<double>(4, 3, rng),
                                  Sequential{Softplus<double>{}, Linear<double>(3, 2, rng)}}),
                           Tanh<double>{}}),
                    {3},
                    2});
  return result;
}

template <class AnyModel, class LossType>
Vector<double> gradient_of(AnyModel& model, const LossType& loss, const Matrix<double>& x,
                           const typename LossType::Targets& y, const Shape& shape) {
  model.eval();
  model.backward(loss.gradient(model.forward(x, shape), y));
  return model.gradient();
}

}  // namespace

TEST_CASE("Hessian: products are the derivative of the gradient, for every layer and loss") {
  Rng rng(1);
  for (Case& c : cases(rng)) {
    INFO(c.name);
    const Matrix<double> x = normal<double>(c.shape.size(), 6, rng);
    for_each_loss([&](const auto& loss) {
      const auto y = targets_for(loss, c.outputs, 6, rng);
      const Hessian hessian(c.model, loss, x, y, c.shape);
      REQUIRE(hessian.rows() == c.model.parameter_count());
      for (int repeat = 0; repeat < 2; ++repeat) {
        const Vector<double> v = normal<double>(hessian.rows(), 1, rng);
        const Vector<double> slope =
            derivative_along(c.model, v, [&] { return gradient_of(c.model, loss, x, y, c.shape); });
        CHECK(relative_error(hessian * v, slope) < 1e-7);
      }
    });
  }
}

TEST_CASE("Hessian: the dense form is symmetric, and its columns are the products") {
  Rng rng(2);
  for (Case& c : cases(rng)) {
    INFO(c.name);
    const Matrix<double> x = normal<double>(c.shape.size(), 4, rng);
    const SoftmaxCrossEntropy<double> loss;
    const Hessian hessian(c.model, loss, x, targets_for(loss, c.outputs, 4, rng), c.shape);
    const Matrix<double> dense = hessian.dense();
    CHECK(relative_error(dense, dense.transpose()) < 1e-12);
    const Matrix<double> v = normal<double>(hessian.rows(), 3, rng);
    CHECK(relative_error(hessian * v, dense * v) < 1e-12);
  }
}

TEST_CASE("T8: in ReLU networks the diagonal blocks of Hessian and GGN agree, the others do not") {
  Rng rng(3);
  const Model model({Linear<double>(4, 6, rng), ReLU<double>{}, Linear<double>(6, 5, rng),
                     ReLU<double>{}, Linear<double>(5, 3, rng)});
  const Matrix<double> x = normal<double>(4, 8, rng);
  for_each_loss([&](const auto& loss) {
    const Hessian hessian(model, loss, x, targets_for(loss, 3, 8, rng));
    const Ggn ggn(model, loss, x);
    for (const Index layer : {0, 2, 4})
      CHECK(relative_error(hessian.block(layer).dense(), ggn.block(layer).dense()) < 1e-10);
    const auto off_diagonal = [](const Matrix<double>& full) {
      return full.block(30, 0, 35, 30).eval();
    };
    CHECK(relative_error(off_diagonal(hessian.dense()), off_diagonal(ggn.dense())) > 1e-2);
  });
}

TEST_CASE("Negative control: in tanh networks the diagonal blocks of Hessian and GGN differ") {
  Rng rng(4);
  const Model model({Linear<double>(4, 6, rng), Tanh<double>{}, Linear<double>(6, 3, rng)});
  const Matrix<double> x = normal<double>(4, 8, rng);
  const MeanSquaredError<double> loss;
  const Hessian hessian(model, loss, x, normal<double>(3, 8, rng));
  const Ggn ggn(model, loss, x);
  CHECK(relative_error(hessian.block(0).dense(), ggn.block(0).dense()) > 1e-2);
  CHECK(relative_error(hessian.block(2).dense(), ggn.block(2).dense()) < 1e-12);
}

TEST_CASE("T8b: the Hessian of one linear layer is the GGN") {
  Rng rng(5);
  const Model model({Linear<double>(4, 3, rng)});
  const Matrix<double> x = normal<double>(4, 6, rng);
  for_each_loss([&](const auto& loss) {
    const Hessian hessian(model, loss, x, targets_for(loss, 3, 6, rng));
    CHECK(relative_error(hessian.dense(), Ggn(model, loss, x).dense()) < 1e-13);
  });
}

TEST_CASE("Hessian: a layer chosen at run time that has no second derivatives is named") {
  struct Half {
    static const char* kind() { return "Half"; }
    static void value(const Eigen::ArrayWrapper<const ConstMatrixMap<double>>& x,
                      Eigen::ArrayWrapper<MatrixMap<double>>&& y) {
      y = x / 2;
    }
    static void derivative(const Eigen::ArrayWrapper<const ConstMatrixMap<double>>&,
                           const Eigen::ArrayWrapper<const ConstMatrixMap<double>>&,
                           Eigen::ArrayWrapper<MatrixMap<double>>&& d) {
      d.setConstant(0.5);
    }
  };
  Rng rng(6);
  const Model model({Linear<double>(3, 2, rng), Activation<double, Half>{}});
  const MeanSquaredError<double> loss;
  const Hessian hessian(model, loss, normal<double>(3, 4, rng), normal<double>(2, 4, rng));
  const Vector<double> v = Vector<double>::Ones(hessian.rows());
  CHECK_THROWS_AS(hessian * v, StateError);
  CHECK_THROWS_WITH(hessian * v,
                    "kfac::Network::backward_tangent: a layer has no second derivatives, expected "
                    "a TwiceDifferentiableLayer (layer '1')");
}

}  // namespace kfac::test::hessian_test
