#include <kfac/curvature/ggn.hpp>

#include "support/catch.hpp"
#include "support/networks.hpp"

using namespace kfac;
using namespace kfac::test;

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{},
                    Residual(Linear<double>(4, 4, rng), GELU<double>{}), Linear<double>(4, 2, rng)};
}

/// Moves the model's parameters along a flat direction.
template <class Model>
void move(Model& model, const Vector<double>& direction, double length) {
  Index offset = 0;
  for (auto& layer : model.layers()) {
    layer.parameters += length * direction.segment(offset, layer.parameters.size());
    offset += layer.parameters.size();
  }
}

}  // namespace

TEST_CASE("Ggn: the Jacobian agrees with central finite differences of the outputs") {
  Rng rng(1);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(3, 5, rng);
  Ggn ggn(model, loss, x);
  const Matrix<double> jacobian = ggn.jacobian();
  constexpr double kStep = 1e-5;
  for (Index j = 0; j < ggn.cols(); ++j) {
    const Vector<double> direction = Vector<double>::Unit(ggn.cols(), j);
    move(model, direction, kStep);
    const Matrix<double> above = model.forward(x);
    move(model, direction, -2 * kStep);
    const Matrix<double> below = model.forward(x);
    move(model, direction, kStep);
    const Matrix<double> slope = (above - below) / (2 * kStep);
    CHECK((jacobian.col(j) - slope.reshaped()).norm() < 1e-8);
  }
}

TEST_CASE("Ggn: products with C, J and J^T agree with the dense matrices") {
  Rng rng(2);
  auto model = network(rng);
  const Matrix<double> x = random_matrix(3, 5, rng);
  const auto check = [&](const auto& loss) {
    Ggn ggn(model, loss, x);
    const Matrix<double> c = ggn.dense();
    const Matrix<double> j = ggn.jacobian();
    CHECK(c.rows() == ggn.rows());
    CHECK(relative_error(c, c.transpose()) < 1e-14);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Vector<double> v = random_matrix(ggn.cols(), 1, rng);
      const Matrix<double> u = random_matrix(2, 5, rng);
      CHECK(relative_error(ggn * v, c * v) < 1e-12);
      CHECK(relative_error(ggn.jacobian_product(v).reshaped(), j * v) < 1e-12);
      CHECK(relative_error(ggn.jacobian_transposed_product(u), j.transpose() * u.reshaped()) <
            1e-12);
    }
  };
  check(MeanSquaredError<double>());
  check(SoftmaxCrossEntropy<double>({.reduction = Reduction::Sum}));
  check(BinaryCrossEntropy<double>());
}

TEST_CASE(
    "T8b: the GGN of one linear layer is the Hessian, by finite differences of the gradient") {
  Rng rng(3);
  Sequential model{Linear<double>(3, 4, rng)};
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Labels y = random_labels(4, 6, rng);
  Ggn ggn(model, loss, x);
  const Matrix<double> c = ggn.dense();
  const auto gradient = [&] {
    model.backward(loss.gradient(model.forward(x), y));
    return Vector<double>(model.gradient());
  };
  constexpr double kStep = 1e-5;
  for (Index j = 0; j < c.cols(); ++j) {
    const Vector<double> direction = Vector<double>::Unit(c.cols(), j);
    move(model, direction, kStep);
    const Vector<double> above = gradient();
    move(model, direction, -2 * kStep);
    const Vector<double> below = gradient();
    move(model, direction, kStep);
    CHECK((c.col(j) - (above - below) / (2 * kStep)).norm() < 1e-8);
  }
}

TEST_CASE("Ggn: leaves the model's own workspace and observers alone") {
  Rng rng(4);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(3, 5, rng);
  const Labels y = random_labels(2, 5, rng);
  struct Counter : Observer<double> {
    int heard = 0;
    void on_input(const std::string&, const SharedBatch<double>&) override { ++heard; }
  } counter;
  model.forward(x);
  model.backward(loss.gradient(model.forward(x), y));
  const Vector<double> gradient = model.gradient();
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(counter);
  Ggn ggn(model, loss, random_matrix(3, 2, rng));
  const Vector<double> v = random_matrix(ggn.cols(), 1, rng);
  CHECK((ggn * v).norm() > 0);
  CHECK(counter.heard == 0);
  CHECK(model.gradient() == gradient);
}

TEST_CASE("Ggn: a vector of the wrong length is a ShapeError") {
  Rng rng(5);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  Ggn ggn(model, loss, random_matrix(3, 2, rng));
  const Vector<double> v = Vector<double>::Ones(ggn.cols() + 1);
  CHECK_THROWS_AS(ggn * v, ShapeError);
}
