#include <kfac/curvature/ggn.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

namespace kfac::test::ggn_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{},
                    Residual(Linear<double>(4, 4, rng), GELU<double>{}), Linear<double>(4, 2, rng)};
}

}  // namespace

TEST_CASE("Ggn: the Jacobian agrees with central finite differences of the outputs") {
  Rng rng(1);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Ggn ggn(model, loss, x);
  const Matrix<double> jacobian = ggn.jacobian();
  for (Index j = 0; j < ggn.cols(); ++j) {
    const Matrix<double> slope = derivative_along(model, Vector<double>::Unit(ggn.cols(), j),
                                                  [&] { return Matrix<double>(model.forward(x)); });
    CHECK((jacobian.col(j) - slope.reshaped()).norm() < 1e-8);
  }
}

TEST_CASE("Ggn: products with C, J and J^T agree with the dense matrices") {
  Rng rng(2);
  auto model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  const auto check = [&](const auto& loss) {
    Ggn ggn(model, loss, x);
    const Matrix<double> c = ggn.dense();
    const Matrix<double> j = ggn.jacobian();
    CHECK(c.rows() == ggn.rows());
    CHECK(relative_error(c, c.transpose()) < 1e-14);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Vector<double> v = normal<double>(ggn.cols(), 1, rng);
      const Matrix<double> u = normal<double>(2, 5, rng);
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
  const Matrix<double> x = normal<double>(3, 6, rng);
  const Labels y = targets_for(loss, 4, 6, rng);
  Ggn ggn(model, loss, x);
  const Matrix<double> c = ggn.dense();
  for (Index j = 0; j < c.cols(); ++j) {
    const Vector<double> slope = derivative_along(model, Vector<double>::Unit(c.cols(), j), [&] {
      model.backward(loss.gradient(model.forward(x), y));
      return Vector<double>(model.gradient());
    });
    CHECK((c.col(j) - slope).norm() < 1e-8);
  }
}

TEST_CASE("Ggn: on slices, the dense form and Jacobian products are those of all the data") {
  Rng rng(6);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Dataset<double> data{normal<double>(3, 7, rng), Labels::Zero(7)};
  const Ggn whole(model, loss, data.inputs);
  const Ggn sliced(model, loss, slices(data, 3));
  const Vector<double> v = normal<double>(whole.cols(), 1, rng);
  const Matrix<double> u = normal<double>(4, 9, rng);
  CHECK(relative_error(sliced.dense(), whole.dense()) < 1e-13);
  CHECK(relative_error(sliced.jacobian_product(v), whole.jacobian_product(v)) < 1e-14);
  CHECK(relative_error(sliced.jacobian_transposed_product(u.block(1, 2, 2, 7)),
                       whole.jacobian().transpose() * u.block(1, 2, 2, 7).reshaped()) < 1e-13);
}

TEST_CASE("Ggn: leaves the model's own workspace and observers alone") {
  Rng rng(4);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Labels y = targets_for(loss, 2, 5, rng);
  struct Counter : Observer<double> {
    int heard = 0;
    void on_input(const std::string&, const SharedBatch<double>&) override { ++heard; }
  } counter;
  model.forward(x);
  model.backward(loss.gradient(model.forward(x), y));
  const Vector<double> gradient = model.gradient();
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(counter);
  Ggn ggn(model, loss, normal<double>(3, 2, rng));
  const Vector<double> v = normal<double>(ggn.cols(), 1, rng);
  CHECK((ggn * v).norm() > 0);
  CHECK(counter.heard == 0);
  CHECK(model.gradient() == gradient);
}

TEST_CASE("Ggn: a vector of the wrong length is a ShapeError") {
  Rng rng(5);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  Ggn ggn(model, loss, normal<double>(3, 2, rng));
  const Vector<double> v = Vector<double>::Ones(ggn.cols() + 1);
  CHECK_THROWS_AS(ggn * v, ShapeError);
  CHECK_THROWS_WITH(ggn.jacobian_product(v),
                    "kfac::Ggn::jacobian_product: 'v' has 47 entries, expected 46");
  CHECK_THROWS_WITH(ggn.jacobian_transposed_product(Matrix<double>::Zero(2, 3)),
                    "kfac::Ggn::jacobian_transposed_product: 'u' is 2x3, expected 2x2");
}

}  // namespace kfac::test::ggn_test
