#include <string>
#include <vector>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/loss/summed_loss.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::summed_loss_test {

using testing::relative_error;

namespace {

constexpr Index kClasses = 3, kValues = 2, kExamples = 4;

using Both = SummedLoss<SoftmaxCrossEntropy<double>, MeanSquaredError<double>>;

/// A label and two values for each example.
Matrix<double> random_targets(Rng& rng) {
  Matrix<double> targets = normal<double>(1 + kValues, kExamples, rng);
  for (Index n = 0; n < kExamples; ++n) targets(0, n) = static_cast<double>(rng.below(kClasses));
  return targets;
}
Both loss_of(Reduction reduction, double first, double second) {
  return {SoftmaxCrossEntropy<double>({.reduction = reduction}),
          MeanSquaredError<double>({.reduction = reduction}),
          {.first_outputs = kClasses, .first_weight = first, .second_weight = second}};
}

}  // namespace

TEST_CASE("SummedLoss: passes the battery, also of three losses", "[loss][property]") {
  Rng rng(1);
  const auto reduction = GENERATE(Reduction::Mean, Reduction::Sum, Reduction::ExampleMean);
  // So weighted that the criteria count alike, as the check of `sample` wants it.
  const double r = MeanSquaredError<double>({.reduction = reduction}).scale(kValues, 1) /
                   SoftmaxCrossEntropy<double>({.reduction = reduction}).scale(kClasses, 1);
  const Both two = loss_of(reduction, 1, 1 / r);
  auto check =
      testing::check_loss(two, normal<double>(5, kExamples, rng), random_targets(rng), rng);
  INFO(check.report());
  CHECK(check.passes(1e-8));

  const SummedLoss three(BinaryCrossEntropy<double>({.reduction = Reduction::Sum}),
                         loss_of(Reduction::Sum, 1, 0.5), {.first_outputs = 2});
  Matrix<double> targets(2 + 1 + kValues, kExamples);
  targets << Matrix<double>::Constant(2, kExamples, 0.25), random_targets(rng);
  check = testing::check_loss(three, normal<double>(7, kExamples, rng), targets, rng);
  INFO(check.report());
  CHECK(check.passes(1e-8));
}

TEST_CASE("SummedLoss: value, gradient and Hessian are the weighted sums", "[loss][exact]") {
  Rng rng(2);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean}) {
    const double w1 = 0.7, w2 = 2.5;
    const Both loss = loss_of(reduction, w1, w2);
    const Matrix<double> f = normal<double>(5, kExamples, rng), y = random_targets(rng);
    const Labels labels = y.row(0).transpose().cast<int>();
    CHECK(loss.value(f, y) == Approx(w1 * loss.first().value(f.topRows(3), labels) +
                                     w2 * loss.second().value(f.bottomRows(2), y.bottomRows(2))));
    Matrix<double> expected(5, kExamples);
    expected << w1 * loss.first().gradient(f.topRows(3), labels),
        w2 * loss.second().gradient(f.bottomRows(2), y.bottomRows(2));
    CHECK(relative_error(loss.gradient(f, y), expected) < 1e-14);

    const Matrix<double> v = normal<double>(5, kExamples, rng);
    Matrix<double> product(5, kExamples), first(3, kExamples), second(2, kExamples);
    loss.hessian_product(f, v, product);
    loss.first().hessian_product(f.topRows(3), v.topRows(3), first);
    loss.second().hessian_product(f.bottomRows(2), v.bottomRows(2), second);
    expected << w1 * loss.first().scale(3, kExamples) * first,
        w2 * loss.second().scale(2, kExamples) * second;
    CHECK(relative_error(loss.scale(5, kExamples) * product, expected) < 1e-14);
  }
}

TEST_CASE("SummedLoss: the exact curvature is the sum of the losses' own", "[loss][exact]") {
  Rng rng(3);
  Sequential model{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 5, rng)};
  const Matrix<double> x = normal<double>(3, kExamples, rng), y = random_targets(rng);
  const double w1 = 0.7, w2 = 2.5;
  const Both loss = loss_of(Reduction::Mean, w1, w2);
  const Matrix<double> both = Ggn(model, loss, x).dense();

  // Of each head alone: the last layer cut down to its rows, the curvature put where they are.
  const auto& last = model.layer<2>();
  const auto head_curvature = [&](Index first_row, Index rows, const auto& own_loss) {
    Linear<double> head(4, rows, rng);
    auto copy = last;
    head.augmented_weight() = copy.augmented_weight().middleRows(first_row, rows);
    Sequential one{model.layer<0>(), Tanh<double>{}, head};
    const Matrix<double> own = Ggn(one, own_loss, x).dense();
    const Index shared = model.layer<0>().parameter_count();
    std::vector<Index> place(static_cast<std::size_t>(own.rows()));
    for (Index i = 0; i < own.rows(); ++i) {
      const Index j = i - shared;
      place[static_cast<std::size_t>(i)] =
          i < shared ? i : shared + first_row + j % rows + (j / rows) * 5;
    }
    Matrix<double> result = Matrix<double>::Zero(both.rows(), both.cols());
    result(place, place) = own;
    return result;
  };
  const Matrix<double> expected = w1 * head_curvature(0, kClasses, loss.first()) +
                                  w2 * head_curvature(kClasses, kValues, loss.second());
  CHECK(relative_error(both, expected) < 1e-12);

  CurvatureEstimator estimator(model, loss, {}, block_factory<FullBlock<double>>());
  estimator.fit(x, y);
  Index offset = 0;
  for (const auto& layer : estimator.layers()) {
    const Matrix<double> block = layer->blocks()[0]->matrix()->dense();
    CHECK(relative_error(block, both.block(offset, offset, block.rows(), block.cols())) < 1e-12);
    offset += block.rows();
  }
}

TEST_CASE("SummedLoss: sampled gradients have the curvature as second moment", "[loss]") {
  Rng rng(4);
  const Both loss = loss_of(Reduction::Mean, 0.7, 2.5);
  const Matrix<double> f = normal<double>(5, 1, rng);
  Matrix<double> moment = Matrix<double>::Zero(5, 5), gradient(5, 1), expected(5, 5), column(5, 1);
  constexpr int kSamples = 20000;
  for (int i = 0; i < kSamples; ++i) {
    loss.sampled_gradient(f, rng, gradient);
    moment += gradient * gradient.transpose() / kSamples;
  }
  for (Index i = 0; i < 5; ++i) {
    loss.hessian_product(f, Vector<double>::Unit(5, i), column);
    expected.col(i) = column;
  }
  CHECK(relative_error(moment, expected) < 0.05);
}

TEST_CASE("SummedLoss: says what is wrong", "[loss][errors]") {
  const auto says = [](const std::string& message, const char* text) {
    INFO(message);
    return message.find(text) != std::string::npos;
  };
  const auto make = [](SummedLossOptions<double> options) {
    return message_of<OptionError>(
        [&] { Both(SoftmaxCrossEntropy<double>{}, MeanSquaredError<double>{}, options); });
  };
  CHECK(make({.first_outputs = 0}) ==
        "kfac::SummedLossOptions: 'first_outputs' is 0, expected >= 1");
  CHECK(make({.first_targets = -1}) ==
        "kfac::SummedLossOptions: 'first_targets' is -1, expected >= 0");
  CHECK(says(make({.second_weight = 0}), "'second_weight' is 0"));
  CHECK(says(make({.first_weight = -1}), "'first_weight' is -1"));
  CHECK(says(message_of<OptionError>([] {
               SummedLoss(SoftmaxCrossEntropy<double>{},
                          MeanSquaredError<double>({.reduction = Reduction::Sum}),
                          {.first_outputs = 3});
             }),
             "'second' is reduced otherwise"));
  const Both loss = loss_of(Reduction::Mean, 1, 1);
  const auto check = [&](const Matrix<double>& f, const Matrix<double>& y) {
    return message_of<std::exception>([&] { loss.check(f, y); });
  };
  const Matrix<double> f = Matrix<double>::Zero(5, 2);
  Matrix<double> y = Matrix<double>::Zero(3, 2);
  CHECK(check(f, y) == "nothing was thrown");
  CHECK(says(check(f.topRows(3), y), "'outputs' has 3 rows, expected more than"));
  CHECK(says(check(f, y.topRows(1)), "'targets' has 1 rows, expected more than"));
  CHECK(says(check(f, y.leftCols(1)), "'targets' has 1 columns, expected 2"));
  y(0, 1) = 0.5;
  CHECK(says(check(f, y), "'targets' has label 0.5"));
  y(0, 1) = 3;
  CHECK(says(check(f, y), "'targets' has label 3 at 1"));
}

}  // namespace kfac::test::summed_loss_test
