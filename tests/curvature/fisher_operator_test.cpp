#include <cmath>

#include <kfac/curvature/fisher_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

namespace kfac::test::fisher_operator_test {

namespace {

using Model = DynamicSequential<double>;

Model network(Rng& rng) {
  return Model({Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)});
}

/// R sum_n (J_n^T v_n)(J_n^T v_n)^T, from the rows of the Jacobian.
Matrix<double> outer_products(const Matrix<double>& jacobian, const Matrix<double>& v, double r) {
  Matrix<double> sum = Matrix<double>::Zero(jacobian.cols(), jacobian.cols());
  for (Index n = 0; n < v.cols(); ++n) {
    const Vector<double> gradient =
        jacobian.middleRows(n * v.rows(), v.rows()).transpose() * v.col(n);
    sum += r * gradient * gradient.transpose();
  }
  return sum;
}

}  // namespace

TEST_CASE("EmpiricalFisher is R times the sum of outer products of the criteria's gradients") {
  Rng rng(1);
  const Model model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  for_each_loss([&](const auto& loss) {
    const auto y = targets_for(loss, 2, 5, rng);
    const EmpiricalFisher fisher(model, loss, x, y);
    const Matrix<double> outputs = fisher.outputs();
    const double r = loss.scale(2, 5);
    const Matrix<double> expected =
        outer_products(Ggn(model, loss, x).jacobian(), loss.gradient(outputs, y) / r, r);
    CHECK(relative_error(fisher.dense(), expected) < 1e-13);
    const Vector<double> v = normal<double>(fisher.rows(), 1, rng);
    CHECK(relative_error(fisher * v, expected * v) < 1e-13);
  });
}

TEST_CASE("MonteCarloFisher of given targets is the mean of their empirical Fishers") {
  Rng rng(2);
  const Model model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  for_each_loss([&](const auto& loss) {
    const std::vector samples{targets_for(loss, 2, 5, rng), targets_for(loss, 2, 5, rng),
                              targets_for(loss, 2, 5, rng)};
    const MonteCarloFisher fisher(model, loss, x, samples);
    const Matrix<double> outputs = fisher.outputs();
    const Matrix<double> jacobian = Ggn(model, loss, x).jacobian();
    const double r = loss.scale(2, 5);
    Matrix<double> expected = Matrix<double>::Zero(fisher.rows(), fisher.rows());
    for (const auto& y : samples)
      expected += outer_products(jacobian, loss.gradient(outputs, y) / r, r) / 3;
    CHECK(relative_error(fisher.dense(), expected) < 1e-13);
  });
}

TEST_CASE("MonteCarloFisher draws its targets once, as the loss does with the same generator") {
  Rng rng(3);
  const Model model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  for_each_loss([&](const auto& loss) {
    Rng drawing(31);
    Rng same(31);
    const MonteCarloFisher fisher(model, loss, x, 2, drawing);
    const Matrix<double> outputs = fisher.outputs();
    const Matrix<double> jacobian = Ggn(model, loss, x).jacobian();
    Matrix<double> expected = Matrix<double>::Zero(fisher.rows(), fisher.rows());
    for (int sample = 0; sample < 2; ++sample) {
      Matrix<double> v(2, 5);
      loss.sampled_gradient(outputs, same, v);
      expected += outer_products(jacobian, v, loss.scale(2, 5)) / 2;
    }
    CHECK(drawing() == same());
    CHECK(relative_error(fisher.dense(), expected) < 1e-13);
    const Vector<double> v = normal<double>(fisher.rows(), 1, rng);
    const Vector<double> product = fisher * v;
    CHECK(fisher * v == product);
  });
}

TEST_CASE("MonteCarloFisher on a data set has the same targets in every product") {
  Rng rng(4);
  const Model model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Dataset<double> data{normal<double>(3, 7, rng), Labels::Zero(7)};
  Rng drawing(5);
  const MonteCarloFisher fisher(model, loss, slices(data, 3), 4, drawing);
  const Vector<double> v = normal<double>(fisher.rows(), 1, rng);
  const Vector<double> product = fisher * v;
  CHECK(fisher * v == product);
  CHECK(relative_error(fisher.dense() * v, product) < 1e-13);

  Rng one(6);
  Rng other(6);
  const MonteCarloFisher whole(model, loss, data.inputs, 4, one);
  const MonteCarloFisher slice(model, loss, slices(data, 7), 4, other);
  CHECK(relative_error(slice * v, whole * v) < 1e-14);
}

TEST_CASE("MonteCarloFisher converges to the GGN as one over the root of the samples") {
  Rng rng(7);
  const Model model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  for_each_loss([&](const auto& loss) {
    const Matrix<double> exact = Ggn(model, loss, x).dense();
    const auto error = [&](Index samples) {
      double squares = 0;
      constexpr int kRepeats = 8;
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        const double e =
            relative_error(MonteCarloFisher(model, loss, x, samples, rng).dense(), exact);
        squares += e * e / kRepeats;
      }
      return std::sqrt(squares);
    };
    const double few = error(16);
    const double many = error(16 * 36);
    CHECK(many < 0.1);
    CHECK(few / many > 6 / 2.0);
    CHECK(few / many < 6 * 2.0);
  });
}

TEST_CASE("Fishers of targets that do not fit, or of none, are errors that name them") {
  Rng rng(8);
  const Model model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Labels y = Labels::Zero(5);
  const Labels few = Labels::Zero(4);
  CHECK_THROWS_WITH(EmpiricalFisher(model, loss, x, few),
                    "kfac::SoftmaxCrossEntropy: 'targets' has 4 labels, expected 5");
  CHECK_THROWS_WITH(MonteCarloFisher(model, loss, x, 0, rng),
                    "kfac::MonteCarloFisher: 'samples' is 0, expected >= 1");
  CHECK_THROWS_AS(MonteCarloFisher(model, loss, x, 0, rng), OptionError);
  CHECK_THROWS_WITH(MonteCarloFisher(model, loss, x, std::vector<Labels>{}),
                    "kfac::MonteCarloFisher: 'samples' is empty, expected at least one");
  CHECK_THROWS_AS(MonteCarloFisher(model, loss, x, std::vector<Labels>{y, few}), ShapeError);
  const Dataset<double> wrong{x, Labels::Constant(5, 2)};
  CHECK_THROWS_WITH(EmpiricalFisher(model, loss, slices(wrong, 2)),
                    "kfac::SoftmaxCrossEntropy: 'targets' has label 2 at 0, expected 0 to 1");
}

}  // namespace kfac::test::fisher_operator_test
