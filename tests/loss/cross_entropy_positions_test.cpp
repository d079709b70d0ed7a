#include <limits>
#include <string>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::cross_entropy_positions_test {

using kfac::Index;
using kfac::Labels;
using kfac::Matrix;
using kfac::Reduction;
using kfac::SoftmaxCrossEntropy;
using kfac::test::normal;

namespace {

Labels random_labels(Index classes, Index count, kfac::Rng& rng) {
  Labels labels(count);
  for (int& label : labels) label = static_cast<int>(rng.below(classes));
  return labels;
}

/// Every position a column of its own.
template <class S>
Matrix<S> columns(const Matrix<S>& outputs, Index classes) {
  return outputs.reshaped(classes, outputs.size() / classes);
}

}  // namespace

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy of positions: passes the battery", "[loss][property]",
                   float, double) {
  using S = TestType;
  const auto reduction = GENERATE(Reduction::Mean, Reduction::Sum, Reduction::ExampleMean);
  const auto seed = GENERATE(range(std::uint64_t{0}, std::uint64_t{4}));
  kfac::Rng rng(seed);
  const Index classes = 2 + rng.below(3);
  const Index positions = 1 + rng.below(4);
  const Index batch = 1 + rng.below(4);
  const SoftmaxCrossEntropy<S> loss({.reduction = reduction, .classes = classes});
  const kfac::testing::LossCheck check =
      kfac::testing::check_loss(loss, normal<S>(positions * classes, batch, rng),
                                random_labels(classes, positions * batch, rng), rng);
  INFO(positions << " x " << classes << " x " << batch << ", seed " << seed << '\n'
                 << check.report());
  CHECK(check.passes(std::same_as<S, float> ? 1e-3 : 1e-8));
}

TEST_CASE("SoftmaxCrossEntropy of positions: is that of as many examples", "[loss][exact]") {
  kfac::Rng rng(1);
  const Index classes = 3, positions = 4, batch = 5;
  const Matrix<double> f = normal<double>(positions * classes, batch, rng);
  const Matrix<double> v = normal<double>(positions * classes, batch, rng);
  const Labels y = random_labels(classes, positions * batch, rng);
  const Matrix<double> flat_f = columns(f, classes);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum}) {
    const SoftmaxCrossEntropy<double> loss({.reduction = reduction, .classes = classes});
    const SoftmaxCrossEntropy<double> flat({.reduction = reduction});
    CHECK(loss.scale(f.rows(), batch) == flat.scale(classes, positions * batch));
    CHECK(loss.value(f, y) == Approx(flat.value(flat_f, y)).epsilon(1e-15));
    CHECK(columns(loss.gradient(f, y), classes).isApprox(flat.gradient(flat_f, y), 1e-14));

    Matrix<double> product(f.rows(), batch), flat_product(classes, positions * batch);
    loss.hessian_product(f, v, product);
    flat.hessian_product(flat_f, columns(v, classes), flat_product);
    CHECK(columns(product, classes).isApprox(flat_product, 1e-14));

    kfac::Rng one(7), same(7);
    CHECK(loss.sample(f, one) == flat.sample(flat_f, same));
    loss.sampled_gradient(f, one, product);
    flat.sampled_gradient(flat_f, same, flat_product);
    CHECK(columns(product, classes).isApprox(flat_product, 1e-14));
  }
}

TEST_CASE("SoftmaxCrossEntropy of positions: the mean is over the labels of all positions",
          "[loss][exact]") {
  const SoftmaxCrossEntropy<double> mean({.classes = 2});
  const SoftmaxCrossEntropy<double> sum({.reduction = Reduction::Sum, .classes = 2});
  CHECK(mean.scale(6, 5) == 1.0 / 15);
  CHECK(sum.scale(6, 5) == 1);
  CHECK(SoftmaxCrossEntropy<double>({.reduction = Reduction::ExampleMean, .classes = 2})
            .scale(6, 5) == 1.0 / 5);
  CHECK(SoftmaxCrossEntropy<double>{}.scale(6, 5) == 1.0 / 5);
}

TEST_CASE("SoftmaxCrossEntropy of positions: a column of the square root is one position's",
          "[loss][exact]") {
  kfac::Rng rng(2);
  const Index classes = 3, positions = 2;
  const SoftmaxCrossEntropy<double> loss({.classes = classes});
  const SoftmaxCrossEntropy<double> flat;
  const Matrix<double> f = normal<double>(positions * classes, 4, rng);
  REQUIRE(loss.hessian_sqrt_columns(f.rows()) == 6);
  Matrix<double> column(6, 4), expected(3, 4);
  for (Index position = 0; position < positions; ++position)
    for (Index k = 0; k < classes; ++k) {
      column.setConstant(std::numeric_limits<double>::quiet_NaN());
      loss.hessian_sqrt(f, position * classes + k, column);
      flat.hessian_sqrt(f.middleRows(position * classes, classes), k, expected);
      CHECK(column.middleRows(position * classes, classes).isApprox(expected, 1e-14));
      CHECK(column.middleRows((1 - position) * classes, classes).isZero(0));
    }
}

TEST_CASE("SoftmaxCrossEntropy of positions: misuse is named", "[loss][error]") {
  const SoftmaxCrossEntropy<double> loss({.classes = 4});
  const Matrix<double> f = Matrix<double>::Zero(10, 3);
  Matrix<double> into = Matrix<double>::Constant(10, 3, 7);
  kfac::Rng rng(1);
  const std::string message =
      "kfac::SoftmaxCrossEntropy: 'outputs' has 10 rows, expected a multiple of 'classes', 4";
  CHECK_THROWS_WITH(loss.check(f, Labels::Zero(6)), message);
  CHECK_THROWS_WITH(loss.value(f, Labels::Zero(6)), message);
  CHECK_THROWS_WITH(loss.gradient(f, Labels::Zero(6), into), message);
  CHECK_THROWS_WITH(loss.scale(10, 3), message);
  CHECK_THROWS_WITH(loss.hessian_product(f, f, into), message);
  CHECK_THROWS_WITH(loss.hessian_sqrt_columns(10), message);
  CHECK_THROWS_WITH(loss.hessian_sqrt(f, 0, into), message);
  CHECK_THROWS_WITH(loss.hessian_sqrt_product(f, f, into), message);
  CHECK_THROWS_WITH(loss.sample(f, rng), message);
  CHECK_THROWS_WITH(loss.sampled_gradient(f, rng, into), message);
  CHECK_THROWS_AS(loss.check(f, Labels::Zero(6)), kfac::ShapeError);
  CHECK((into.array() == 7).all());

  const Matrix<double> whole = Matrix<double>::Zero(8, 3);
  CHECK_THROWS_WITH(loss.check(whole, Labels::Zero(3)),
                    "kfac::SoftmaxCrossEntropy: 'targets' has 3 labels, expected 6");
  CHECK_THROWS_WITH(loss.check(whole, Labels::Constant(6, 4)),
                    "kfac::SoftmaxCrossEntropy: 'targets' has label 4 at 0, expected 0 to 3");
  CHECK_THROWS_WITH(SoftmaxCrossEntropy<double>({.classes = -1}),
                    "kfac::CrossEntropyOptions: 'classes' is -1, expected >= 0");
}

TEST_CASE("SoftmaxCrossEntropy takes the options that all losses have", "[loss]") {
  const kfac::LossOptions options{.reduction = Reduction::Sum};
  CHECK(SoftmaxCrossEntropy<double>(options).scale(3, 5) == 1);
}

}  // namespace kfac::test::cross_entropy_positions_test
