#include <limits>

#include <Eigen/LU>

#include <kfac/curvature/inverse_free_block.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::inverse_free_block_test {

using linalg::Structure;

namespace {

template <class A, class B>
double error(const A& actual, const B& expected) {
  return (actual - expected).norm() / expected.norm();
}

Matrix<double> augmented(const Matrix<double>& x) {
  Matrix<double> result(x.rows() + 1, x.cols());
  result << x, Matrix<double>::Ones(1, x.cols());
  return result;
}

Matrix<double> identity(Index size) {
  return Matrix<double>::Identity(size, size);
}

Matrix<double> inverse(const Matrix<double>& m) {
  return m.partialPivLu().inverse();
}

/// A stream of batches whose second moments are the same over and over.
struct Stream {
  Matrix<double> x, g;
  Matrix<double> a_factor, g_factor;  // A, G of a mean loss

  Stream(Index inputs, Index outputs, Index batch, double scale, Rng& rng)
      : x(scale * normal<double>(inputs, batch, rng)), g(normal<double>(outputs, batch, rng)) {
    const double n = static_cast<double>(batch);
    a_factor = augmented(x) * augmented(x).transpose() / n;
    g_factor = n * g * g.transpose();
  }
};

}  // namespace

TEST_CASE("InverseFreeBlock: a refresh uses the mean of the commits since the last one") {
  Rng rng(5);
  const Stream first(4, 3, 8, 1.0, rng), second(4, 3, 8, 2.0, rng);
  Matrix<double> x(4, 16), g(3, 16);
  x << first.x, second.x;
  g << first.g, second.g;
  InverseFreeBlock<double> apart({.inputs = 4, .outputs = 3}),
      together({.inputs = 4, .outputs = 3});
  apart.accumulate(first.x, first.g);
  apart.accumulate(second.x, second.g);
  together.accumulate(x, g / 2);
  apart.refresh_inverse(0.1);
  together.refresh_inverse(0.1);
  CHECK(error(apart.input_root().dense(), together.input_root().dense()) < 1e-13);
  CHECK(error(apart.output_root().dense(), together.output_root().dense()) < 1e-13);
  // Nothing new: nothing moves. Nor while something is added but not committed.
  const Matrix<double> before = apart.input_root().dense();
  CHECK(apart.refresh_inverse(0.1));
  CHECK(apart.input_root().dense() == before);
  apart.accumulate(first.x, first.g);
  const SharedBatch<double> input({first.x.data(), 4, 8});
  apart.add_input(input);
  CHECK(apart.refresh_inverse(0.1));
  CHECK(apart.input_root().dense() == before);
  apart.discard();
  CHECK(apart.refresh_inverse(0.1));
  CHECK(apart.input_root().dense() != before);
}

TEST_CASE("InverseFreeBlock: its matrix is the inverse of its preconditioner") {
  Rng rng(6);
  InverseFreeBlock<double> block({.inputs = 3, .outputs = 4},
                                 {.output_structure = Structure::UpperToeplitz});
  for (int step = 0; step < 5; ++step) {
    const Stream data(3, 4, 7, 1.0, rng);
    block.accumulate(data.x, data.g);
    block.refresh_inverse(0.1);
  }
  const auto matrix = block.matrix();
  const Matrix<double> dense = matrix->dense();
  Matrix<double> v = normal<double>(4, 4, rng);
  const Matrix<double> original = v;
  block.precondition(v);
  Matrix<double> solved = original;
  matrix->solve(solved);
  CHECK(error(solved, v) < 1e-12);
  matrix->multiply(solved);
  CHECK(error(solved, original) < 1e-12);
  CHECK(error(Vector<double>(dense * v.reshaped()), Vector<double>(original.reshaped())) < 1e-12);
  CHECK(matrix->trace() == Approx(dense.trace()));
  CHECK(error(Vector<double>(matrix->diagonal().reshaped()), Vector<double>(dense.diagonal())) <
        1e-13);
  CHECK(matrix->log_determinant() == Approx(std::log(dense.determinant())));
  CHECK(!matrix->singular());
  const auto operator_of = [&](auto&& apply) {
    Matrix<double> result(16, 16);
    for (Index j = 0; j < 16; ++j) {
      Matrix<double> unit = Matrix<double>::Zero(4, 4);
      unit.data()[j] = 1;
      apply(unit);
      result.col(j) = unit.reshaped();
    }
    return result;
  };
  const Matrix<double> root =
      operator_of([&](Matrix<double>& unit) { matrix->multiply_sqrt(unit); });
  CHECK(error(root * root.transpose(), dense) < 1e-12);
  const Matrix<double> inverse_root =
      operator_of([&](Matrix<double>& unit) { matrix->multiply_inverse_sqrt(unit); });
  CHECK(error(inverse_root * inverse_root.transpose(), inverse(dense)) < 1e-12);
}

TEST_CASE("InverseFreeBlock: clones, assigns and begins anew") {
  Rng rng(7);
  const Stream data(3, 2, 7, 1.0, rng), other(3, 2, 7, 1.0, rng);
  InverseFreeBlock<double> block({.inputs = 3, .outputs = 2});
  block.accumulate(data.x, data.g);
  block.refresh_inverse(0.1);
  const auto copy = block.clone();
  const Matrix<double> before = block.input_root().dense();
  block.accumulate(other.x, other.g);
  block.refresh_inverse(0.1);
  CHECK(block.input_root().dense() != before);
  block.assign(*copy);
  CHECK(block.input_root().dense() == before);
  CHECK(block.begin_pass(0));
  CHECK(!block.begin_pass(1));
  CHECK(block.input_root().dense() == identity(4));
  block.accumulate(data.x, data.g);
  block.refresh_inverse(0.1);
  CHECK(block.input_root().dense() == before);
}

TEST_CASE("InverseFreeBlock: forward-only curvature takes G as the identity") {
  Rng rng(8);
  const Stream data(3, 2, 7, 1.0, rng);
  InverseFreeBlock<double> block({.inputs = 3, .outputs = 2},
                                 {.method = InverseFreeMethod::Ikfac, .learning_rate = 0.5});
  const SharedBatch<double> input({data.x.data(), 3, 7});
  for (int step = 0; step < 200; ++step) {
    block.add_input(input);
    block.add_output_identity();
    block.commit(1.0);
    block.refresh_inverse(0.1);
  }
  const Matrix<double> c = block.output_root().dense();
  const double pi = std::sqrt(data.a_factor.trace() / 4);
  CHECK(error(c * c.transpose(), identity(2) / (1 + std::sqrt(0.1) / pi)) < 1e-10);
}

TEST_CASE("InverseFreeBlock: data that is not finite is seen, and a step that is not is refused") {
  Rng rng(9);
  const Stream data(3, 2, 7, 1.0, rng);
  InverseFreeBlock<double> block({.inputs = 3, .outputs = 2});
  block.accumulate(data.x, data.g);
  block.refresh_inverse(0.1);
  const Matrix<double> before = block.input_root().dense();
  Matrix<double> bad = data.x;
  bad(1, 1) = std::numeric_limits<double>::quiet_NaN();
  const SharedBatch<double> input({bad.data(), 3, 7});
  block.add_input(input);
  CHECK(!block.fresh_is_finite());
  block.add_output_gradient(input, SharedBatch<double>({data.g.data(), 2, 7}), 1.0);
  block.commit(1.0);
  CHECK(!block.refresh_inverse(0.1));
  CHECK(block.input_root().dense() == before);
}

TEST_CASE("InverseFreeBlock: positions that share the weights are expanded or reduced") {
  Rng rng(10);
  constexpr Index kPositions = 3, kExamples = 4;
  const Matrix<double> x = normal<double>(3, kPositions * kExamples, rng);
  const Matrix<double> g = normal<double>(2, kPositions * kExamples, rng);
  PositionMask mask = PositionMask::Constant(kPositions, kExamples, true);
  mask(2, 1) = mask(1, 3) = mask(2, 3) = false;
  for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce})
    for (const bool masked : {false, true})
      for (const bool by_rows : {false, true}) {
        Matrix<double> real = g;
        Matrix<double> a = Matrix<double>::Zero(4, 4), c = Matrix<double>::Zero(2, 2);
        Index columns = 0;
        for (Index n = 0; n < kExamples; ++n) {
          Vector<double> mean = Vector<double>::Zero(4), sum = Vector<double>::Zero(2);
          Index count = 0;
          for (Index s = 0; s < kPositions; ++s) {
            const Index column = n * kPositions + s;
            if (masked && !mask(s, n)) {
              real.col(column).setZero();
              continue;
            }
            const Vector<double> one = augmented(x.col(column));
            mean += one;
            sum += g.col(column);
            ++count;
            if (sharing == WeightSharing::Reduce) continue;
            a += one * one.transpose();
            c += g.col(column) * g.col(column).transpose();
            ++columns;
          }
          if (sharing == WeightSharing::Expand) continue;
          mean /= static_cast<double>(count);
          a += mean * mean.transpose();
          c += sum * sum.transpose();
          ++columns;
        }
        a /= static_cast<double>(columns);
        c *= 2.5 / kExamples;

        InverseFreeBlock<double> block({.inputs = 3, .outputs = 2, .sharing = sharing},
                                       {.method = InverseFreeMethod::Ikfac,
                                        .learning_rate = 1,
                                        .scaled_start = false,
                                        .bound = InverseFreeBound::None});
        using Order = SharedBatch<double>::Order;
        const Order order = by_rows ? Order::RowMajor : Order::ColumnMajor;
        const Matrix<double> x_rows = x.transpose(), g_rows = real.transpose();
        const SharedBatch<double> input(by_rows ? x_rows.data() : x.data(), 3, x.cols(), kPositions,
                                        order);
        const SharedBatch<double> gradient(by_rows ? g_rows.data() : real.data(), 2, x.cols(),
                                           kPositions, order);
        block.add_input(input, masked ? &mask : nullptr);
        block.add_output_gradient(input, gradient, 1.0);
        block.commit(2.5);
        REQUIRE(block.refresh_inverse(0.0));
        // From K = I one full step without damping is K = I - (A - I) / 2.
        CHECK(error(block.input_root().dense(), 1.5 * identity(4) - a / 2) < 1e-13);
        CHECK(error(block.output_root().dense(), 1.5 * identity(2) - c / 2) < 1e-13);
      }
}

TEST_CASE("InverseFreeBlock: batches longer than are transformed at once are summed") {
  Rng rng(11);
  const Stream data(3, 2, 700, 1.0, rng);
  InverseFreeBlock<double> block({.inputs = 3, .outputs = 2}, {.method = InverseFreeMethod::Ikfac,
                                                               .learning_rate = 1,
                                                               .scaled_start = false,
                                                               .bound = InverseFreeBound::None});
  block.accumulate(data.x, data.g);
  REQUIRE(block.refresh_inverse(0.0));
  CHECK(error(block.input_root().dense(), 1.5 * identity(4) - data.a_factor / 2) < 1e-13);
  CHECK(error(block.output_root().dense(), 1.5 * identity(2) - data.g_factor / 2) < 1e-12);
}

TEST_CASE("InverseFreeBlock names the option that is wrong") {
  const BlockOptions<double> sizes{.inputs = 3, .outputs = 2};
  CHECK_THROWS_WITH(InverseFreeBlock<double>(sizes, {.block_size = 0}),
                    "kfac::InverseFreeBlock: 'block_size' is 0, expected >= 1");
  CHECK_THROWS_WITH(InverseFreeBlock<double>(sizes, {.learning_rate = 1.5}),
                    "kfac::InverseFreeBlock: 'learning_rate' is 1.5, expected in (0, 1]");
  CHECK_THROWS_WITH(InverseFreeBlock<double>(sizes, {.momentum = 1}),
                    "kfac::InverseFreeBlock: 'momentum' is 1, expected in [0, 1)");
  InverseFreeBlock<double> block(sizes);
  CHECK_THROWS_AS(block.refresh_inverse(0.1), StateError);
}

}  // namespace kfac::test::inverse_free_block_test
