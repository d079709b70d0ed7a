#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include <kfac/core/random.hpp>
#include <kfac/linalg/kronecker_eigen.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/with_state_of.hpp"

namespace kfac::test::kronecker_eigen_test {

using kfac::linalg::kronecker_product;
using kfac::linalg::KroneckerEigen;
using kfac::linalg::MatrixFunction;

namespace {

constexpr MatrixFunction kFunctions[] = {MatrixFunction::Identity, MatrixFunction::Inverse,
                                         MatrixFunction::Sqrt, MatrixFunction::InverseSqrt,
                                         MatrixFunction::Log};

/// Two factors of random shape, rank and scale, and what they make.
struct Case {
  Matrix<double> a, g;
  KroneckerEigen<double> eigen;
  double scale = 0;  // of the largest eigenvalue
};

Matrix<double> random_factor(Index size, Index rank, double scale, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, rank, rng);
  return scale * x * x.transpose();
}

/// With eigenvalues 1, 1/2, 1/3, ...
Matrix<double> decaying_factor(Index size, Rng& rng) {
  linalg::SymmetricEigen<double> basis;
  REQUIRE(basis.compute(random_factor(size, size, 1.0, rng)));
  const Vector<double> values =
      Vector<double>::LinSpaced(size, 1.0, static_cast<double>(size)).cwiseInverse();
  return basis.vectors * values.asDiagonal() * basis.vectors.transpose();
}

Case random_case(Rng& rng) {
  static constexpr std::pair<Index, Index> kShapes[] = {{1, 1}, {1, 6}, {6, 1}, {3, 8}, {8, 3}};
  const auto [inputs, outputs] = kShapes[rng.below(5)];
  Case c;
  c.a = random_factor(inputs, 1 + rng.below(inputs + 2), std::pow(10.0, rng.uniform(-8, 8)), rng);
  c.g = random_factor(outputs, 1 + rng.below(outputs + 2), std::pow(10.0, rng.uniform(-8, 8)), rng);
  REQUIRE(c.eigen.compute(c.a, c.g));
  c.scale = c.eigen.grid().maxCoeff();
  return c;
}

/// vec of a matrix.
Vector<double> vec(const Matrix<double>& v) {
  return v.reshaped();
}

Matrix<double> damped(const Matrix<double>& c, double damping) {
  return c + damping * Matrix<double>::Identity(c.rows(), c.cols());
}

double error(const Matrix<double>& actual, const Matrix<double>& expected) {
  REQUIRE(actual.rows() == expected.rows());
  REQUIRE(actual.cols() == expected.cols());
  return expected.norm() > 0 ? (actual - expected).norm() / expected.norm() : actual.norm();
}

}  // namespace

TEST_CASE("KroneckerEigen: is the Kronecker product of its factors") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Case c = random_case(rng);
    const Matrix<double> dense = kronecker_product<double>(c.a, c.g);
    CHECK(error(c.eigen.dense(), dense) < 1e-13);
    CHECK(c.eigen.inputs() == c.a.rows());
    CHECK(c.eigen.outputs() == c.g.rows());
    CHECK(c.eigen.size() == dense.rows());
    CHECK(c.eigen.trace() == Approx(dense.trace()).epsilon(1e-12));
    CHECK(c.eigen.frobenius_norm() == Approx(dense.norm()).epsilon(1e-12));
    const Vector<double> diagonal = dense.diagonal();
    CHECK(error(c.eigen.diagonal().reshaped(), diagonal) < 1e-13);
  }
}

TEST_CASE("KroneckerEigen: applies the product as the matrix identity says") {
  Rng rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    const Case c = random_case(rng);
    const Matrix<double> v = test::normal<double>(c.g.rows(), c.a.rows(), rng);
    const double damping = rng.below(2) == 0 ? 0 : c.scale * rng.uniform();
    Matrix<double> product = v;
    c.eigen.apply(MatrixFunction::Identity, damping, product);
    const Matrix<double> half = c.g * v;
    const Matrix<double> expected = half * c.a.transpose() + damping * v;
    CHECK((product - expected).norm() <= 1e-13 * (c.scale + damping) * v.norm());
  }
}

TEST_CASE("KroneckerEigen: functions of the damped product equal their dense definitions") {
  Rng rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    const Case c = random_case(rng);
    const double damping = c.scale * std::pow(10.0, rng.uniform(-3, 1));
    const Matrix<double> dense = damped(kronecker_product<double>(c.a, c.g), damping);
    const Matrix<double> v = test::normal<double>(c.g.rows(), c.a.rows(), rng);

    Matrix<double> inverse = v;
    c.eigen.apply(MatrixFunction::Inverse, damping, inverse);
    CHECK(error(dense * vec(inverse), vec(v)) < 1e-12);

    Matrix<double> root = v;
    c.eigen.apply(MatrixFunction::Sqrt, damping, root);
    c.eigen.apply(MatrixFunction::Sqrt, damping, root);
    CHECK(error(vec(root), dense * vec(v)) < 1e-12);

    Matrix<double> inverse_root = v;
    c.eigen.apply(MatrixFunction::InverseSqrt, damping, inverse_root);
    c.eigen.apply(MatrixFunction::InverseSqrt, damping, inverse_root);
    CHECK(error(inverse_root, inverse) < 1e-12);

    // An independent eigenbasis, that of the dense matrix.
    linalg::SymmetricEigen<double> whole;
    REQUIRE(whole.compute(dense));
    for (const MatrixFunction f : kFunctions) {
      Vector<double> values = whole.values;
      for (double& value : values) value = linalg::evaluate(f, value);
      const Matrix<double> function =
          whole.vectors * values.asDiagonal() * whole.vectors.transpose();
      Matrix<double> applied = v;
      c.eigen.apply(f, damping, applied);
      CHECK((vec(applied) - function * vec(v)).norm() <
            1e-12 * values.cwiseAbs().maxCoeff() * v.norm());
      const double form = vec(v).dot(function * vec(v));
      CHECK(std::abs(c.eigen.quadratic_form(f, damping, v) - form) <
            1e-12 * values.cwiseAbs().maxCoeff() * v.squaredNorm());
    }
    Vector<double> eigenvalues = c.eigen.eigenvalues();
    eigenvalues.array() += damping;
    CHECK(error(eigenvalues, whole.values) < 1e-13);
    CHECK(c.eigen.log_determinant(damping) ==
          Approx(whole.values.array().log().sum()).epsilon(1e-12).margin(1e-12));
  }
}

TEST_CASE("KroneckerEigen: quadratic forms of rank-one matrices need none of them") {
  Rng rng(4);
  for (int trial = 0; trial < 100; ++trial) {
    Case c = random_case(rng);
    const Index examples = rng.below(6);
    const Matrix<double> x = test::normal<double>(c.a.rows(), examples, rng);
    const Matrix<double> g = test::normal<double>(c.g.rows(), examples, rng);
    const double damping = 0.1 * c.scale;
    for (const MatrixFunction f : kFunctions) {
      const Vector<double> forms = c.eigen.quadratic_forms(f, damping, x, g);
      REQUIRE(forms.size() == examples);
      const double scale =
          std::abs(linalg::evaluate(f, damping)) + std::abs(linalg::evaluate(f, damping + c.scale));
      for (Index n = 0; n < examples; ++n) {
        const Matrix<double> v = g.col(n) * x.col(n).transpose();
        const double expected = c.eigen.quadratic_form(f, damping, v);
        CHECK(std::abs(forms(n) - expected) < 1e-12 * scale * v.squaredNorm());
      }
    }
    Matrix<double> moments = Matrix<double>::Zero(c.g.rows(), c.a.rows());
    for (Index n = 0; n < examples; ++n) {
      Matrix<double> v = g.col(n) * x.col(n).transpose();
      c.eigen.to_basis(v);
      moments += v.cwiseAbs2();
    }
    CHECK(error(c.eigen.second_moments(x, g), moments) < 1e-12);
  }
}

TEST_CASE("KroneckerEigen: the grid can be another than the outer product") {
  Rng rng(5);
  for (int trial = 0; trial < 100; ++trial) {
    Case c = random_case(rng);
    const Matrix<double> basis =
        kronecker_product<double>(c.eigen.input_basis().vectors, c.eigen.output_basis().vectors);
    const Matrix<double> grid = test::normal<double>(c.g.rows(), c.a.rows(), rng).cwiseAbs2();
    c.eigen.set_grid(grid);
    CHECK(c.eigen.grid() == grid);
    const Matrix<double> dense = basis * vec(grid).asDiagonal() * basis.transpose();
    CHECK(error(c.eigen.dense(), dense) < 1e-13);
    CHECK(error(c.eigen.diagonal().reshaped(), Vector<double>(dense.diagonal())) < 1e-13);
    CHECK(c.eigen.trace() == Approx(dense.trace()).epsilon(1e-12));
    const Matrix<double> v = test::normal<double>(c.g.rows(), c.a.rows(), rng);
    Matrix<double> inverse = v;
    c.eigen.apply(MatrixFunction::Inverse, 0.5, inverse);
    CHECK(error(damped(dense, 0.5) * vec(inverse), vec(v)) < 1e-12);
  }
}

TEST_CASE("KroneckerEigen: takes bases that were made before, or refuses them as a whole") {
  Rng rng(11);
  for (int trial = 0; trial < 20; ++trial) {
    const Case c = random_case(rng);
    Matrix<double> grid(c.eigen.outputs(), c.eigen.inputs());
    rng.fill_uniform(grid, 0, 1);
    KroneckerEigen<double> assigned;
    assigned.assign(c.eigen.input_basis(), c.eigen.output_basis(), grid);
    KroneckerEigen<double> expected = c.eigen;
    expected.set_grid(grid);
    CHECK(assigned.dense() == expected.dense());
    CHECK(assigned.input_basis().values == c.eigen.input_basis().values);

    auto spoiled = c.eigen.output_basis();
    spoiled.values.conservativeResize(spoiled.values.size() + 1);
    CHECK(message_of<ShapeError>([&] {
            assigned.assign(c.eigen.input_basis(), spoiled, grid);
          }).find("KroneckerEigen::assign: 'output' has ") != std::string::npos);
    spoiled = c.eigen.input_basis();
    spoiled.vectors(0, 0) = std::numeric_limits<double>::quiet_NaN();
    CHECK(message_of<ValueError>([&] {
            assigned.assign(spoiled, c.eigen.output_basis(), grid);
          }).find("KroneckerEigen::assign: 'input' is nan at (0, 0)") != std::string::npos);
    grid(0, 0) = -1;
    CHECK_THROWS_AS(assigned.assign(c.eigen.input_basis(), c.eigen.output_basis(), grid),
                    ValueError);
    CHECK(assigned.dense() == expected.dense());
  }
}

TEST_CASE("KroneckerEigen: to the basis and back is the identity and keeps the norm") {
  Rng rng(6);
  Buffer<double> scratch;
  for (int trial = 0; trial < 100; ++trial) {
    const Case c = random_case(rng);
    // A block of a larger matrix, of which the rest must stay.
    Matrix<double> large = test::normal<double>(c.g.rows() + 3, c.a.rows() + 2, rng);
    const Matrix<double> before = large;
    auto v = large.block(1, 2, c.g.rows(), c.a.rows());
    const Matrix<double> start = v;
    c.eigen.to_basis(v, scratch);
    const Matrix<double> half = c.eigen.output_basis().vectors.transpose() * start;
    CHECK(error(v, half * c.eigen.input_basis().vectors) < 1e-14);
    CHECK(v.norm() == Approx(start.norm()).epsilon(1e-13));
    c.eigen.from_basis(v, scratch);
    CHECK(error(v, start) < 1e-13);
    v = start;
    CHECK(large == before);
  }
}

TEST_CASE("KroneckerEigen: shared by const reference it gives the same with and without scratch") {
  Rng rng(7);
  const Case c = random_case(rng);
  const Matrix<double> v = test::normal<double>(c.g.rows(), c.a.rows(), rng);
  Matrix<double> with = v;
  Matrix<double> without = v;
  Buffer<double> scratch;
  c.eigen.apply(MatrixFunction::Sqrt, 1.0, with, scratch);
  c.eigen.apply(MatrixFunction::Sqrt, 1.0, without);
  CHECK(with == without);
}

TEST_CASE("KroneckerEigen: keeps what was there when a factor is not finite") {
  Rng rng(8);
  Case c = random_case(rng);
  const Matrix<double> grid = c.eigen.grid();
  const Matrix<double> fine = Matrix<double>::Identity(3, 3);
  Matrix<double> bad = fine;
  bad(1, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(c.eigen.compute(bad, fine));
  CHECK_FALSE(c.eigen.compute(fine, bad));
  CHECK_FALSE(c.eigen.compute(1e200 * fine, 1e200 * fine));  // the grid overflows
  CHECK(c.eigen.grid() == grid);
  CHECK(c.eigen.input_basis().size() == c.a.rows());
  CHECK(c.eigen.output_basis().size() == c.g.rows());
}

TEST_CASE("KroneckerEigen: a singular product without damping") {
  KroneckerEigen<double> eigen;
  REQUIRE(eigen.compute(Matrix<double>{{1.0, 0.0}, {0.0, 0.0}}, Matrix<double>{{2.0}}));
  CHECK(eigen.log_determinant(0) == -std::numeric_limits<double>::infinity());
  Matrix<double> v{{3.0, 4.0}};
  eigen.apply(MatrixFunction::Sqrt, 0, v);
  CHECK(v(0, 0) == Approx(3 * std::sqrt(2.0)));
  CHECK(v(0, 1) == 0);
  const Matrix<double> before = v;
  for (const MatrixFunction f :
       {MatrixFunction::Inverse, MatrixFunction::InverseSqrt, MatrixFunction::Log}) {
    CHECK(message_of<SingularError>([&] { eigen.apply(f, 0, v); }) ==
          "kfac::linalg::KroneckerEigen::apply: 'damping' is 0 and an eigenvalue is 0, expected "
          "damping > 0");
    CHECK_THROWS_AS(eigen.quadratic_form(f, 0, v), SingularError);
    CHECK_THROWS_AS(
        eigen.quadratic_forms(f, 0, Matrix<double>::Ones(2, 1), Matrix<double>::Ones(1, 1)),
        SingularError);
  }
  CHECK(v == before);
}

TEST_CASE("KroneckerEigen: what it refuses, by name") {
  KroneckerEigen<double> eigen;
  Matrix<double> v = Matrix<double>::Ones(2, 3);
  CHECK(eigen.empty());
  CHECK(message_of<StateError>([&] { eigen.to_basis(v); }) ==
        "kfac::linalg::KroneckerEigen::to_basis: no eigenbases yet, expected compute before it");
  CHECK_THROWS_AS(eigen.set_grid(v), StateError);
  CHECK_THROWS_AS(eigen.apply(MatrixFunction::Inverse, 1, v), StateError);

  CHECK(message_of<ShapeError>([&] { eigen.compute(v, v); }) ==
        "kfac::linalg::KroneckerEigen::compute: 'a' is 2x3, expected a square matrix that is not "
        "empty");
  CHECK_THROWS_AS(eigen.compute(Matrix<double>::Identity(2, 2), v), ShapeError);
  REQUIRE(eigen.compute(Matrix<double>::Identity(3, 3), Matrix<double>::Identity(2, 2)));

  Matrix<double> turned = v.transpose();
  CHECK(message_of<ShapeError>([&] { eigen.from_basis(turned); }) ==
        "kfac::linalg::KroneckerEigen::from_basis: 'v' is 3x2, expected 2x3");
  CHECK(message_of<ShapeError>([&] { eigen.set_grid(turned); }) ==
        "kfac::linalg::KroneckerEigen::set_grid: 'grid' is 3x2, expected 2x3");
  CHECK_THROWS_AS(eigen.quadratic_form(MatrixFunction::Identity, 0, turned), ShapeError);
  CHECK(message_of<ShapeError>([&] { eigen.second_moments(v, v); }) ==
        "kfac::linalg::KroneckerEigen::second_moments: 'inputs' has 2 rows, expected 3");
  CHECK_THROWS_AS(eigen.quadratic_forms(MatrixFunction::Identity, 0, turned, v.leftCols(1)),
                  ShapeError);

  CHECK(message_of<OptionError>([&] { eigen.apply(MatrixFunction::Inverse, -1, v); }) ==
        "kfac::linalg::KroneckerEigen::apply: 'damping' is -1, expected >= 0 and finite");
  CHECK_THROWS_AS(eigen.log_determinant(std::numeric_limits<double>::infinity()), OptionError);

  Matrix<double> grid = v;
  grid(1, 2) = -0.5;
  CHECK(message_of<ValueError>([&] { eigen.set_grid(grid); }) ==
        "kfac::linalg::KroneckerEigen::set_grid: 'grid' has an entry -0.5, expected eigenvalues "
        ">= 0");
  grid(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(eigen.set_grid(grid), ValueError);
  CHECK(eigen.grid() == Matrix<double>::Ones(2, 3));
  CHECK(v == Matrix<double>::Ones(2, 3));
}

TEST_CASE("KroneckerEigen: tracking follows both factors and the grid, the stale bases do not") {
  Rng rng(9);
  // Towards other eigenvectors, which replace the first ones in 50 updates.
  Matrix<double> a = decaying_factor(16, rng), g = decaying_factor(7, rng);
  const Matrix<double> to_a = decaying_factor(16, rng), to_g = decaying_factor(7, rng);
  KroneckerEigen<double> tracked;
  REQUIRE(tracked.track(a, g));  // computes
  CHECK(tracked.residual() == 0);
  const KroneckerEigen<double> stale = tracked;
  double worst = 0, worst_residual = 0;
  for (int update = 0; update < 50; ++update) {
    a = 0.95 * a + 0.05 * to_a;
    g = 0.95 * g + 0.05 * to_g;
    REQUIRE(tracked.track(a, g));
    CHECK(tracked.residual() ==
          std::max(tracked.input_basis().residual, tracked.output_basis().residual));
    worst = std::max(worst, error(tracked.dense(), kronecker_product<double>(a, g)));
    worst_residual = std::max(worst_residual, tracked.residual());
  }
  KroneckerEigen<double> exact;
  REQUIRE(exact.compute(a, g));
  const double grid_error = error(tracked.eigenvalues(), exact.eigenvalues());
  KroneckerEigen<double> refilled = stale;  // the stale bases with the best grid for them
  const Matrix<double>& ua = stale.input_basis().vectors;
  const Matrix<double>& ug = stale.output_basis().vectors;
  const Matrix<double> half_a = a * ua;
  const Matrix<double> half_g = g * ug;
  const Vector<double> diagonal_a = ua.cwiseProduct(half_a).colwise().sum().transpose();
  const Vector<double> diagonal_g = ug.cwiseProduct(half_g).colwise().sum().transpose();
  refilled.set_grid(diagonal_g * diagonal_a.transpose());
  const double stale_error = error(refilled.dense(), kronecker_product<double>(a, g));
  const double stale_grid_error = error(refilled.eigenvalues(), exact.eigenvalues());
  INFO("residual " << worst_residual << ", product wrong by " << worst << " at worst, stale "
                   << stale_error << "; grid " << grid_error << ", stale " << stale_grid_error);
  CHECK(worst_residual < 0.1);
  CHECK(worst < 0.15);
  CHECK(grid_error < 0.02);
  CHECK(stale_error > 3 * worst);
  CHECK(stale_grid_error > 5 * grid_error);
}

TEST_CASE("KroneckerEigen: tracking keeps what was there when it cannot go on") {
  Rng rng(10);
  KroneckerEigen<double> eigen;
  const Matrix<double> a = random_factor(4, 6, 1.0, rng);
  const Matrix<double> g = random_factor(3, 6, 1.0, rng);
  CHECK_THROWS_AS(eigen.track(a, g, 0), OptionError);
  CHECK(eigen.empty());
  REQUIRE(eigen.compute(a, g));
  const KroneckerEigen<double> before = eigen;
  Matrix<double> bad_a = a, bad_g = g;
  bad_a(2, 1) = std::numeric_limits<double>::quiet_NaN();
  bad_g(2, 1) = std::numeric_limits<double>::infinity();
  CHECK_FALSE(eigen.track(bad_a, g));
  CHECK_FALSE(eigen.track(2 * a, bad_g));          // A's basis has been followed by then
  CHECK_FALSE(eigen.track(1e200 * a, 1e200 * g));  // the grid overflows
  CHECK(message_of<ShapeError>([&] { eigen.track(g, g); }) ==
        "kfac::linalg::KroneckerEigen::track: 'a' is 3x3, expected 4x4");
  CHECK(message_of<ShapeError>([&] { eigen.track(a, a); }) ==
        "kfac::linalg::KroneckerEigen::track: 'g' is 4x4, expected 3x3");
  CHECK(message_of<OptionError>([&] { eigen.track(a, g, 0); }) ==
        "kfac::linalg::KroneckerEigen::track: 'iterations' is 0, expected >= 1");
  CHECK(eigen.grid() == before.grid());
  CHECK(eigen.input_basis().vectors == before.input_basis().vectors);
  CHECK(eigen.output_basis().vectors == before.output_basis().vectors);
}

TEST_CASE("KroneckerEigen: state of bases with a grid, and of none") {
  Rng rng(11);
  Case c = random_case(rng);
  REQUIRE(c.eigen.track(c.a + Matrix<double>::Identity(c.a.rows(), c.a.cols()), c.g));
  c.eigen.set_grid(normal<double>(c.g.rows(), c.a.rows(), rng).cwiseAbs());
  const auto visit = [&](KroneckerEigen<double>& object, StateVisitor& visitor) {
    object.visit_state(visitor, c.a.rows(), c.g.rows());
  };
  KroneckerEigen<double> none;
  const KroneckerEigen<double> copy = with_state_of(c.eigen, none, visit);
  CHECK(copy.grid() == c.eigen.grid());
  CHECK(copy.dense() == c.eigen.dense());
  CHECK(copy.residual() == c.eigen.residual());
  Matrix<double> v = normal<double>(c.g.rows(), c.a.rows(), rng);
  Matrix<double> same = v;
  c.eigen.apply(MatrixFunction::Inverse, 0, v);
  copy.apply(MatrixFunction::Inverse, 0, same);  // its smallest eigenvalue is known
  CHECK(same == v);
  CHECK(with_state_of(none, c.eigen, visit).empty());
}

}  // namespace kfac::test::kronecker_eigen_test
