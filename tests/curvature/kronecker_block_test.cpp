#include <limits>

#include <Eigen/Eigenvalues>
#include <Eigen/LU>

#include <kfac/curvature/kronecker_eigen_block.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"

namespace kfac::test::kronecker_block_test {

namespace {

struct Sizes {
  Index inputs, outputs, batch;
};

Sizes random_sizes(Rng& rng) {
  return {1 + rng.below(8), 1 + rng.below(7), 1 + rng.below(15)};
}

Matrix<double> augmented(const Matrix<double>& x, bool bias) {
  Matrix<double> result(x.rows() + (bias ? 1 : 0), x.cols());
  result.topRows(x.rows()) = x;
  if (bias) result.bottomRows(1).setOnes();
  return result;
}

Matrix<double> shifted(const Matrix<double>& m, double shift) {
  return m + shift * Matrix<double>::Identity(m.rows(), m.cols());
}

/// vec^-1(block^-1 vec(V)).
Matrix<double> solve(const Matrix<double>& block, const Matrix<double>& v) {
  return Matrix<double>(block.partialPivLu().solve(Vector<double>(v.reshaped())))
      .reshaped(v.rows(), v.cols());
}

}  // namespace

TEST_CASE("KroneckerBlock: A is the mean second moment and A (x) G the empirical curvature") {
  Rng rng(1);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto [inputs, outputs, batch] = random_sizes(rng);
    const bool bias = repeat % 2 == 0;
    const Matrix<double> x = random_matrix(inputs, batch, rng);
    const Matrix<double> g = random_matrix(outputs, batch, rng);
    KroneckerBlock<double> block({.inputs = inputs, .outputs = outputs, .bias = bias});
    block.accumulate(x, g);
    const Matrix<double> a = augmented(x, bias);
    const auto n = static_cast<double>(batch);
    CHECK(relative_error(block.input_factor(), a * a.transpose() / n) < 1e-13);
    // Of a mean loss g is 1/N of an example's gradient, and G the mean of its outer product.
    CHECK(relative_error(block.output_gradient_factor(), (n * g) * (n * g).transpose() / n) <
          1e-13);
  }
}

TEST_CASE("KroneckerBlock: the gradient's scale is declared") {
  Rng rng(2);
  const Matrix<double> x = random_matrix(3, 8, rng);
  const Matrix<double> g = random_matrix(2, 8, rng);
  const auto factor = [&](GradientScale<double> scale, double of_gradient) {
    KroneckerBlock<double> block({.inputs = 3, .outputs = 2, .gradient_scale = scale});
    block.accumulate(x, of_gradient * g);
    return block.output_gradient_factor();
  };
  // g are the gradients of the criterion of each example.
  const Matrix<double> mean = factor({.reduction = Reduction::Mean}, 1.0 / 8);
  const Matrix<double> sum = factor({.reduction = Reduction::Sum}, 1.0);
  const Matrix<double> weighted = factor({.reduction = Reduction::Mean, .weight = 0.5}, 0.5 / 8);
  CHECK(relative_error(mean, g * g.transpose() / 8) < 1e-13);
  CHECK(relative_error(sum, 8 * mean) < 1e-13);
  CHECK(relative_error(weighted, 0.5 * mean) < 1e-13);
}

TEST_CASE("KroneckerBlock: with a sum, batches of other sizes change the scale, not the average") {
  Rng rng(3);
  const Matrix<double> x = random_matrix(3, 9, rng);
  const Matrix<double> g = random_matrix(2, 9, rng);
  KroneckerBlock<double> block(
      {.inputs = 3, .outputs = 2, .gradient_scale = {.reduction = Reduction::Sum}});
  block.accumulate(x.leftCols(6), g.leftCols(6));
  block.accumulate(x.rightCols(3), g.rightCols(3));
  const Matrix<double> of_one = (g.leftCols(6) * g.leftCols(6).transpose() / 6 +
                                 g.rightCols(3) * g.rightCols(3).transpose() / 3) /
                                2;
  CHECK(relative_error(block.output_gradient_factor(), 3 * of_one) < 1e-13);
}

TEST_CASE("KroneckerBlock: damped inverses equal the dense inverse of the damped block") {
  Rng rng(4);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto [inputs, outputs, batch] = random_sizes(rng);
    const Matrix<double> x = random_matrix(inputs, batch, rng);
    const Matrix<double> g = random_matrix(outputs, batch, rng);
    const Matrix<double> v = random_matrix(outputs, inputs + 1, rng);
    for (const double damping : {1.0, 1e-2, 1e-4}) {
      const double root = std::sqrt(damping);
      const BlockOptions<double> options{.inputs = inputs, .outputs = outputs};

      KroneckerEigenBlock<double> exact(options);
      exact.accumulate(x, g);
      const Matrix<double>& a = exact.input_factor();
      const Matrix<double>& gg = exact.output_gradient_factor();
      REQUIRE(exact.refresh_inverse(damping));
      Matrix<double> result = v;
      exact.precondition(result);
      const Matrix<double> damped = shifted(linalg::kronecker_product<double>(a, gg), damping);
      CHECK(relative_error(result, solve(damped, v)) < 1e-8);

      KroneckerBlock<double> factored(options);
      factored.accumulate(x, g);
      REQUIRE(factored.refresh_inverse(damping));
      result = v;
      factored.precondition(result);
      const double pi = std::sqrt((a.trace() / static_cast<double>(a.rows())) /
                                  (gg.trace() / static_cast<double>(gg.rows())));
      CHECK(relative_error(result, solve(linalg::kronecker_product<double>(shifted(a, pi * root),
                                                                           shifted(gg, root / pi)),
                                         v)) < 1e-8);

      BlockOptions<double> without_pi = options;
      without_pi.pi = FactorBalance::None;
      KroneckerBlock<double> plain(without_pi);
      plain.accumulate(x, g);
      REQUIRE(plain.refresh_inverse(damping));
      result = v;
      plain.precondition(result);
      CHECK(relative_error(result, solve(linalg::kronecker_product<double>(shifted(a, root),
                                                                           shifted(gg, root)),
                                         v)) < 1e-8);
    }
  }
}

TEST_CASE("KroneckerBlock: weights and bias stored apart, in either order, are one block") {
  Rng rng(5);
  const Matrix<double> x = random_matrix(4, 9, rng);
  const Matrix<double> g = random_matrix(3, 9, rng);
  KroneckerBlock<double> block({.inputs = 4, .outputs = 3});
  block.accumulate(x, g);
  block.refresh_inverse(0.1);
  const Matrix<double> v = random_matrix(3, 5, rng);
  Matrix<double> expected = v;
  block.precondition(expected);

  Matrix<double> weights = v.leftCols(4);
  Vector<double> bias = v.col(4);
  block.precondition(weights, bias);
  CHECK(weights == expected.leftCols(4));
  CHECK(bias == expected.col(4));

  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = v.leftCols(4);
  Eigen::RowVectorXd row_bias = v.col(4).transpose();
  block.precondition(rows, row_bias);
  CHECK(rows == expected.leftCols(4));
  CHECK(row_bias.transpose() == expected.col(4));
}

TEST_CASE("KroneckerBlock: blocks of larger matrices are read where they are") {
  Rng rng(6);
  const Matrix<double> large = random_matrix(10, 12, rng);
  const Matrix<double> x = large.block(2, 3, 4, 6);
  const Matrix<double> g = large.block(6, 3, 2, 6);
  KroneckerBlock<double> copied({.inputs = 4, .outputs = 2});
  copied.accumulate(x, g);
  KroneckerBlock<double> in_place({.inputs = 4, .outputs = 2});
  in_place.accumulate(large.block(2, 3, 4, 6), large.block(6, 3, 2, 6));
  CHECK(in_place.input_factor() == copied.input_factor());
  CHECK(in_place.output_gradient_factor() == copied.output_gradient_factor());
}

TEST_CASE("KroneckerBlock: a dead layer is survived: a zero factor takes pi = 1") {
  KroneckerBlock<double> block({.inputs = 3, .outputs = 2});
  Rng rng(7);
  block.accumulate(random_matrix(3, 5, rng), Matrix<double>::Zero(2, 5));
  REQUIRE(block.refresh_inverse(0.04));
  Matrix<double> v = random_matrix(2, 4, rng);
  const Matrix<double> expected = v * shifted(block.input_factor(), 0.2).inverse() / 0.2;
  block.precondition(v);
  CHECK(relative_error(v, expected) < 1e-12);
}

TEST_CASE(
    "KroneckerBlock: without damping, a regular factor is inverted and a singular one refused") {
  Rng rng(8);
  const auto check = [&](const auto& kind) {
    using Block = std::remove_cvref_t<decltype(kind)>;
    Block regular({.inputs = 3, .outputs = 2});
    regular.accumulate(random_matrix(3, 20, rng), random_matrix(2, 20, rng));
    CHECK(regular.refresh_inverse(0.0));

    Block singular({.inputs = 3, .outputs = 2, .name = "fc1"});
    singular.accumulate(random_matrix(3, 2, rng), random_matrix(2, 2, rng));
    CHECK_THROWS_MATCHES(
        singular.refresh_inverse(0.0), SingularError,
        Catch::Matchers::Message("kfac::CurvatureBlock::refresh_inverse: 'damping' is 0 and a "
                                 "factor is singular, expected damping > 0 (layer 'fc1')"));
    CHECK_FALSE(singular.has_inverse());
    CHECK(singular.refresh_inverse(1e-3));
    Matrix<double> v = Matrix<double>::Ones(2, 4);
    singular.precondition(v);
    Matrix<double> again = Matrix<double>::Ones(2, 4);
    CHECK_THROWS_AS(singular.refresh_inverse(0.0), SingularError);
    singular.precondition(again);
    CHECK(again == v);
  };
  check(KroneckerBlock<double>({.inputs = 1, .outputs = 1}));
  check(KroneckerEigenBlock<double>({.inputs = 1, .outputs = 1}));
}

TEST_CASE("KroneckerBlock: bad input is an exception that leaves the block as it was") {
  Rng rng(9);
  KroneckerBlock<double> block({.inputs = 3, .outputs = 2, .name = "fc1"});
  const Matrix<double> x = random_matrix(3, 5, rng);
  const Matrix<double> g = random_matrix(2, 5, rng);
  using Catch::Matchers::Message;

  CHECK_THROWS_AS(block.refresh_inverse(0.1), StateError);
  block.accumulate(x, g);
  Matrix<double> v = Matrix<double>::Ones(2, 4);
  CHECK_THROWS_AS(block.precondition(v), StateError);
  block.refresh_inverse(0.1);
  const Matrix<double> a = block.input_factor();
  block.precondition(v);

  CHECK_THROWS_MATCHES(
      block.accumulate(random_matrix(4, 5, rng), g), ShapeError,
      Message(
          "kfac::CurvatureBlock::accumulate: 'activations' is 4x5, expected 3x5 (layer 'fc1')"));
  CHECK_THROWS_MATCHES(block.accumulate(x, random_matrix(2, 4, rng)), ShapeError,
                       Message("kfac::CurvatureBlock::accumulate: 'output_gradients' is 2x4, "
                               "expected 2x5 (layer 'fc1')"));
  CHECK_THROWS_AS(block.accumulate(Matrix<double>(3, 0), Matrix<double>(2, 0)), ShapeError);
  Matrix<double> bad = x;
  bad(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(block.accumulate(bad, g), ValueError);
  bad = g;
  bad(0, 0) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(block.accumulate(x, bad), ValueError);
  CHECK_THROWS_AS(block.refresh_inverse(-1.0), OptionError);
  CHECK_THROWS_AS(block.refresh_inverse(std::numeric_limits<double>::quiet_NaN()), OptionError);
  Matrix<double> wrong = Matrix<double>::Ones(2, 3);
  CHECK_THROWS_AS(block.precondition(wrong), ShapeError);

  CHECK(block.input_factor() == a);
  Matrix<double> again = Matrix<double>::Ones(2, 4);
  block.precondition(again);
  CHECK(again == v);
}

TEST_CASE("KroneckerBlock: options out of range are named") {
  using Catch::Matchers::Message;
  using Block = KroneckerBlock<double>;
  CHECK_THROWS_MATCHES(Block({.inputs = 0, .outputs = 2}), OptionError,
                       Message("kfac::KroneckerBlock: 'inputs' is 0, expected >= 1"));
  CHECK_THROWS_AS(Block({.inputs = 2, .outputs = -1}), OptionError);
  CHECK_THROWS_AS(Block({.inputs = 2, .outputs = 1, .factor_decay = 1.0}), OptionError);
  CHECK_THROWS_AS(Block({.inputs = 2, .outputs = 1, .gradient_scale = {.weight = 0.0}}),
                  OptionError);
}

}  // namespace kfac::test::kronecker_block_test
