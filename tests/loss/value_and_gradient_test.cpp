#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include <kfac/core/parallel.hpp>
#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

// A loss's value and gradient together, in batches of all sizes, by any number of threads.

namespace kfac::test::value_and_gradient_test {

using kfac::test::normal;
using kfac::testing::relative_error;

namespace {

using S = double;

/// Only what a Loss must have.
struct UserLoss : MeanSquaredError<S> {
  UserLoss() : MeanSquaredError<S>(LossOptions{}) {}
  void value_and_gradient() const = delete;
};
static_assert(Loss<UserLoss>);

template <class L, class Targets>
void check(const L& loss, const Matrix<S>& f, const Targets& y) {
  const Matrix<S> expected = loss.gradient(f, y);
  const S value = loss.value(f, y);
  Matrix<S> gradient(f.rows(), f.cols());
  REQUIRE(value_and_gradient(loss, f, y, gradient) == Approx(value).epsilon(1e-13));
  REQUIRE(relative_error(gradient, expected) < 1e-14);

  // The same where outputs and gradient are blocks of larger matrices.
  Matrix<S> larger = Matrix<S>::Constant(f.rows() + 3, f.cols(), 7);
  larger.middleRows(1, f.rows()) = f;
  Matrix<S> wide = Matrix<S>::Constant(f.rows() + 2, f.cols(), 7);
  REQUIRE(value_and_gradient(loss, larger.middleRows(1, f.rows()), y, wide.topRows(f.rows())) ==
          Approx(value).epsilon(1e-13));
  REQUIRE(loss.value(larger.middleRows(1, f.rows()), y) == Approx(value).epsilon(1e-13));
  REQUIRE(relative_error(wide.topRows(f.rows()), expected) < 1e-14);
  REQUIRE((wide.bottomRows(2).array() == 7).all());

  ThreadPool pool(2);
  const ParallelScope scope(&pool);
  Matrix<S> shared(f.rows(), f.cols());
  const S by_three = value_and_gradient(loss, f, y, shared);
  REQUIRE(shared == gradient);
  REQUIRE(loss.value(f, y) == value);
  Matrix<S> again(f.rows(), f.cols());
  REQUIRE(value_and_gradient(loss, f, y, again) == by_three);
}

/// Straight from the definition, in extended precision.
long double cross_entropy(const Matrix<S>& f, const Labels& y, Index classes) {
  long double sum = 0;
  const auto entries = f.reshaped(classes, f.size() / classes);
  for (Index n = 0; n < entries.cols(); ++n) {
    long double total = 0;
    for (Index k = 0; k < classes; ++k) total += std::exp(static_cast<long double>(entries(k, n)));
    sum += std::log(total) - static_cast<long double>(entries(y(n), n));
  }
  return sum / static_cast<long double>(entries.cols());
}

}  // namespace

TEST_CASE("Value and gradient at once are those one by one", "[loss][exact]") {
  Rng rng(1);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const auto& [rows, columns] : {std::pair<Index, Index>{1, 1}, {3, 5}, {97, 301}}) {
      const Matrix<S> f = normal<S>(rows, columns, rng);
      Matrix<S> y(rows, columns);
      rng.fill_uniform(y, 0, 1);
      check(MeanSquaredError<S>({reduction}), f, y);
      check(BinaryCrossEntropy<S>({reduction}), f, y);
      check(UserLoss{}, f, y);
    }
}

TEST_CASE("The cross-entropy is that of its definition for few and many classes and positions",
          "[loss][exact]") {
  Rng rng(2);
  for (const auto& [classes, positions, batch] : {std::array<Index, 3>{2, 1, 64},
                                                  {1, 1, 3},
                                                  {2, 1, 20000},
                                                  {8, 3, 50},
                                                  {9, 2, 65},
                                                  {10, 1, 3000},
                                                  {511, 1, 7},
                                                  {512, 2, 3},
                                                  {513, 1, 5},
                                                  {9000, 1, 3}}) {
    INFO(classes << " classes, " << positions << " positions, batch " << batch);
    const Matrix<S> f = 3 * normal<S>(classes * positions, batch, rng);
    Labels y(positions * batch);
    for (int& label : y) label = static_cast<int>(rng.below(classes));
    const SoftmaxCrossEntropy<S> loss(CrossEntropyOptions{.classes = classes});
    check(loss, f, y);
    const auto expected = static_cast<double>(cross_entropy(f, y, classes));
    REQUIRE(std::abs(loss.value(f, y) - expected) <= 1e-13 * std::max(1.0, expected));
  }
}

TEST_CASE("A loss of numbers that are not finite is not finite", "[loss][exact]") {
  for (const S bad : {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity()})
    for (const Index row : {0, 1, 11}) {
      Matrix<S> f = Matrix<S>::Zero(12, 3);
      f(row, 1) = bad;
      REQUIRE_FALSE(std::isfinite(SoftmaxCrossEntropy<S>{}.value(f, Labels::Zero(3))));
      REQUIRE_FALSE(std::isfinite(
          SoftmaxCrossEntropy<S>(CrossEntropyOptions{.classes = 2}).value(f, Labels::Zero(18))));
    }
}

}  // namespace kfac::test::value_and_gradient_test
