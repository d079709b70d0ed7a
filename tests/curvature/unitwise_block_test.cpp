#include <kfac/curvature/unitwise_block.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/dense_blocks.hpp"
#include "support/message_of.hpp"
#include "support/units.hpp"

// One small matrix a unit, of linear maps and by itself; normalization_theorems_test.cpp has that
// of scales and shifts.

namespace kfac::test::unitwise_block_test {

namespace {

constexpr double kExact = 1e-12;

}  // namespace

TEST_CASE("UnitwiseBlock of linear maps is the exact block of each output") {
  Rng rng(3);
  for (const bool bias : {true, false}) {
    AnyModel tokens;
    append_linear(tokens, {3, 4}, rng, bias);
    tokens.push_back(Tanh<double>{});
    append_linear(tokens, {4, 2}, rng, bias);
    for (const Shape& shape : {Shape{3}, Shape{3, 3}})
      for (const AnyLoss& loss : all_losses({.reduction = Reduction::Sum})) {
        const Task task(tokens, loss, shape, 4, rng);
        Blocks expected = ggn_blocks(tokens, task);
        CHECK(expected.size() == 2);
        expected[0] = between_own_units(expected[0], 4);
        expected[1] = between_own_units(expected[1], 2);
        CHECK(largest_error(
                  estimated_blocks(tokens, task, {}, block_factory<UnitwiseBlock<double>>()),
                  expected) < kExact);
      }
  }
}

TEST_CASE("UnitwiseBlock: its inverse is that of each small matrix, damped exactly") {
  Rng rng(4);
  for (int repeat = 0; repeat < 6; ++repeat) {
    const MapData data = MapData::random(rng);
    UnitwiseBlock<double> block(data.options());
    data.fit(block, 1.7);
    const Matrix<double> expected = between_own_units(data.exact(1.7), data.outputs);
    CHECK(relative_error(dense_of(block), expected) < kExact);
    for (Index unit = 0; unit < data.outputs; ++unit)
      for (Index i = 0; i < data.columns(); ++i)
        for (Index j = 0; j < data.columns(); ++j)
          CHECK(block.unit_matrix(unit)(i, j) ==
                Approx(expected(i * data.outputs + unit, j * data.outputs + unit)));
    const Matrix<double> v = random_matrix(data.outputs, data.columns(), rng);
    const auto solved = [&](double damping) {
      Matrix<double> damped = expected;
      damped.diagonal().array() += damping;
      return Vector<double>(damped.llt().solve(Vector<double>(v.reshaped())));
    };
    REQUIRE(block.refresh_inverse(0.1));
    Matrix<double> result = v;
    const double dot = block.precondition_with_dot(result);
    CHECK(relative_error(result.reshaped(), solved(0.1)) < 1e-11);
    CHECK(dot == Approx(result.cwiseProduct(v).sum()));
    // Small matrices take another damping at once.
    const bool is_small = data.columns() <= 4;
    CHECK(block.set_damping(0.7) == is_small);
    result = v;
    block.precondition(result);
    CHECK(relative_error(result.reshaped(), solved(is_small ? 0.7 : 0.1)) < 1e-11);
  }
}

TEST_CASE("UnitwiseBlock: with units of several parameters, and in single precision") {
  Rng rng(5);
  // As for normalisations: parameters `3 x 2`, one column for the block.
  const Matrix<float> gradients = random_matrix<float>(6, 7, rng);
  const Matrix<float> ones = Matrix<float>::Ones(1, 7);
  UnitwiseBlock<float> block({.inputs = 1, .outputs = 6, .bias = false, .units = 3});
  CHECK(block.units() == 3);
  block.accumulate(ones, gradients);
  const Matrix<float> v = random_matrix<float>(6, 1, rng);
  Matrix<float> result = v;
  REQUIRE(block.refresh_inverse(0.25F));
  block.precondition(result);
  for (Index unit = 0; unit < 3; ++unit) {
    const Matrix<float> own = gradients(Eigen::seqN(unit, 2, 3), Eigen::all);
    Matrix<float> expected = 7 * own * own.transpose();
    CHECK((block.unit_matrix(unit) - expected).norm() < 1e-5F * expected.norm());
    expected.diagonal().array() += 0.25F;
    const Vector<float> solved = expected.llt().solve(v(Eigen::seqN(unit, 2, 3), 0));
    CHECK((result(Eigen::seqN(unit, 2, 3), 0) - solved).norm() < 1e-4F * solved.norm());
  }
  CHECK(block.cost().factors == "3 of C 2x2");
}

TEST_CASE("UnitwiseBlock: what it cannot be is named") {
  CHECK(message_of<OptionError>([] {
          UnitwiseBlock<double>({.inputs = 2, .outputs = 4, .bias = false, .units = 2});
        }) ==
        "kfac::UnitwiseBlock: 'units' is 2, expected the outputs, or any divisor of these where "
        "there is one column");
  CHECK(message_of<OptionError>([] {
          UnitwiseBlock<double>({.inputs = 1, .outputs = 4, .bias = false, .units = 3});
        }) ==
        "kfac::UnitwiseBlock: 'units' is 3, expected 0 or a divisor of the number of parameters");
}

}  // namespace kfac::test::unitwise_block_test
