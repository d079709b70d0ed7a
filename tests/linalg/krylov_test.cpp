#include <functional>
#include <limits>

#include <kfac/core/random.hpp>
#include <kfac/linalg/krylov.hpp>

#include "support/catch.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::krylov_test {

using namespace kfac::linalg;

namespace {

using ByValue = std::function<Vector<double>(const Vector<double>&)>;
using InPlace = std::function<void(VectorRef<double>)>;

double error(const Vector<double>& actual, const Vector<double>& expected) {
  return (actual - expected).norm() / expected.norm();
}

/// An operator that counts, and whose product is not const.
struct Counting {
  using Scalar = double;
  Matrix<double> matrix;
  Index products = 0;
  Index poison_after = 1000000;
  Index rows() const { return matrix.rows(); }
  Vector<double> operator*(const ConstVectorRef<double>& v) {
    Vector<double> product = matrix * v;
    if (++products > poison_after) product(0) = std::numeric_limits<double>::quiet_NaN();
    return product;
  }
};

static_assert(LinearOperator<Counting&> && !BlockLinearOperator<int>);
static_assert(BlockLinearOperator<Matrix<double>> && BlockLinearOperator<const Matrix<float>&>);

}  // namespace

TEST_CASE("conjugate_gradients equals the dense solve") {
  Rng rng(1);
  for (const Index size : {1, 2, 7, 40})
    for (const double damping : {0.0, 0.3})
      for (const double scale : {1.0, 1e-150, 1e150}) {
        const Matrix<double> c = with_spectrum(decaying(size, 1e3), rng);
        const Vector<double> b = scale * normal<double>(size, 1, rng);
        const auto result = conjugate_gradients(
            c, b, {.tolerance = 1e-13, .max_iterations = 400, .damping = damping});
        Matrix<double> damped = c;
        damped.diagonal().array() += damping;
        CHECK(result.status == KrylovStatus::Converged);
        CHECK(result.relative_residual <= 1e-13);
        CHECK(error(result.x, damped.householderQr().solve(b)) < 1e-10);
        const Vector<double> residual = b - damped * result.x;
        CHECK(std::abs(result.relative_residual - residual.stableNorm() / b.stableNorm()) < 2e-14);
      }
}

TEST_CASE("conjugate_gradients minimises the energy norm of the error over the Krylov space") {
  Rng rng(2);
  const Index size = 12;
  const Matrix<double> c = with_spectrum(decaying(size, 50), rng);
  const Vector<double> b = normal<double>(size, 1, rng);
  Matrix<double> space(size, 5);
  space.col(0) = b;
  for (Index k = 1; k < 5; ++k) space.col(k) = (c * space.col(k - 1)).normalized();
  for (Index k = 1; k <= 5; ++k) {
    const Matrix<double> basis = space.leftCols(k);
    const Matrix<double> projected = basis.transpose() * c * basis;
    const Vector<double> expected = basis * projected.householderQr().solve(basis.transpose() * b);
    const auto result = conjugate_gradients(c, b, {.tolerance = 0, .max_iterations = k});
    CHECK(result.iterations == k);
    CHECK(result.status == KrylovStatus::MaxIterations);
    CHECK(error(result.x, expected) < 1e-10);
  }
}

TEST_CASE("minres minimises the residual over the Krylov space of an indefinite matrix") {
  Rng rng(3);
  const Index size = 12;
  Vector<double> spectrum = decaying(size, 20);
  spectrum.tail(5) *= -1;
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const Vector<double> b = normal<double>(size, 1, rng);
  Matrix<double> space(size, 6);
  space.col(0) = b;
  for (Index k = 1; k < 6; ++k) space.col(k) = (c * space.col(k - 1)).normalized();
  for (Index k = 1; k <= 6; ++k) {
    const Matrix<double> image = c * space.leftCols(k);
    const Vector<double> expected = space.leftCols(k) * image.householderQr().solve(b);
    const auto result = minres(c, b, {.tolerance = 0, .max_iterations = k});
    CHECK(result.iterations == k);
    CHECK(error(result.x, expected) < 1e-10);
  }
}

TEST_CASE("minres equals the dense solve of indefinite systems") {
  Rng rng(4);
  for (const Index size : {1, 2, 9, 40})
    for (const double damping : {0.0, 0.03})
      for (const double scale : {1.0, 1e-150, 1e150}) {
        Vector<double> spectrum = decaying(size, 1e2);
        for (Index i = 0; i < size; i += 2) spectrum(i) *= -1;
        const Matrix<double> c = with_spectrum(spectrum, rng);
        const Vector<double> b = scale * normal<double>(size, 1, rng);
        const auto result =
            minres(c, b, {.tolerance = 1e-13, .max_iterations = 800, .damping = damping});
        Matrix<double> damped = c;
        damped.diagonal().array() += damping;
        CHECK(result.status == KrylovStatus::Converged);
        CHECK(result.relative_residual <= 1e-13);
        CHECK(error(result.x, damped.householderQr().solve(b)) < 1e-10);
      }
}

TEST_CASE("Krylov solvers solve singular consistent systems in the least norm") {
  Rng rng(5);
  Vector<double> spectrum = decaying(20, 1e2);
  spectrum.tail(8).setZero();
  const Matrix<double> q = random_orthogonal(20, rng);
  const Matrix<double> c = compose(q, spectrum);
  const Vector<double> b = c * normal<double>(20, 1, rng);
  const Vector<double> inverse = (spectrum.array() == 0).select(0, spectrum.cwiseInverse());
  const Vector<double> expected = compose(q, inverse) * b;
  const auto cg = conjugate_gradients(c, b, {.tolerance = 1e-12});
  CHECK(cg.status == KrylovStatus::Converged);
  CHECK(error(cg.x, expected) < 1e-10);
  const auto minimal = minres(c, b, {.tolerance = 1e-12});
  CHECK(minimal.status == KrylovStatus::Converged);
  CHECK(error(minimal.x, expected) < 1e-10);
}

TEST_CASE("minres returns a least-squares solution of an inconsistent system") {
  Rng rng(6);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const double condition = repeat < 30 ? 10 : 1e3;
    Vector<double> spectrum = Vector<double>::Zero(15);
    spectrum.head(9) = decaying(9, condition);
    spectrum.head(4) *= -1;
    const Matrix<double> q = random_orthogonal(15, rng);
    const Matrix<double> c = compose(q, spectrum);
    const Vector<double> b = normal<double>(15, 1, rng);
    const auto result = minres(c, b, {.tolerance = 1e-12});
    const Vector<double> residual = b - c * result.x;
    const Vector<double> in_null_space = q.rightCols(6) * (q.rightCols(6).transpose() * b);
    CHECK(result.status == KrylovStatus::Stagnated);
    CHECK((c * residual).norm() < 1e-11 * condition * b.norm());
    CHECK(result.relative_residual == Approx(in_null_space.norm() / b.norm()).epsilon(1e-7));
  }
}

TEST_CASE("minres gets as far as conjugate_gradients on a barely damped singular system") {
  Rng rng(14);
  for (const double damping : {1e-3, 1e-6, 1e-9}) {
    Vector<double> spectrum = Vector<double>::Zero(40);
    spectrum.head(15) = decaying(15, 10);
    const Matrix<double> c = with_spectrum(spectrum, rng);
    const Vector<double> b = normal<double>(40, 1, rng);
    const KrylovOptions<double> options{.tolerance = 0, .damping = damping};
    const double reached = conjugate_gradients(c, b, options).relative_residual;
    CHECK(reached < 1e-15 / damping);
    CHECK(minres(c, b, options).relative_residual < 10 * reached);
  }
}

TEST_CASE("Krylov solvers with the exact inverse as preconditioner need one iteration") {
  Rng rng(7);
  const Matrix<double> c = with_spectrum(decaying(30, 1e4), rng);
  const Vector<double> b = normal<double>(30, 1, rng);
  const double damping = 1e-3;
  const Matrix<double> damped = c + damping * Matrix<double>::Identity(30, 30);
  const Matrix<double> inverse = damped.householderQr().solve(Matrix<double>::Identity(30, 30));
  const KrylovOptions<double> options{.tolerance = 1e-10, .damping = damping};
  const ByValue by_value = [&](const Vector<double>& r) -> Vector<double> { return inverse * r; };
  const InPlace in_place = [&](VectorRef<double> r) { r = (inverse * r).eval(); };
  CHECK(conjugate_gradients(c, b, options, by_value).iterations == 1);
  CHECK(conjugate_gradients(c, b, options, in_place).iterations == 1);
  CHECK(minres(c, b, options, by_value).iterations == 1);
  CHECK(minres(c, b, options, in_place).iterations == 1);
  CHECK(conjugate_gradients(c, b, options).iterations > 10);
  CHECK(minres(c, b, options).iterations > 10);
}

TEST_CASE("Krylov solvers: a preconditioner changes the path, not the solution") {
  Rng rng(8);
  Vector<double> scales(25);
  rng.fill_uniform(scales, -3, 3);
  scales = scales.array().exp();
  const Matrix<double> core = with_spectrum(decaying(25, 10), rng);
  const Matrix<double> c = scales.asDiagonal() * core * scales.asDiagonal();
  const Vector<double> b = normal<double>(25, 1, rng);
  const Vector<double> diagonal = c.diagonal();
  const InPlace jacobi = [&](VectorRef<double> r) { r.array() /= diagonal.array(); };
  const KrylovOptions<double> options{.tolerance = 1e-11};
  const auto plain = conjugate_gradients(c, b, options);
  const auto better = conjugate_gradients(c, b, options, jacobi);
  CHECK(better.status == KrylovStatus::Converged);
  CHECK(better.iterations < plain.iterations);
  CHECK(error(better.x, c.householderQr().solve(b)) < 1e-8);

  Vector<double> spectrum = decaying(25, 10);
  spectrum.head(12) *= -1;
  const Matrix<double> indefinite =
      scales.asDiagonal() * with_spectrum(spectrum, rng) * scales.asDiagonal();
  const ByValue squared = [&](const Vector<double>& r) -> Vector<double> {
    return r.array() / scales.array().square();
  };
  const auto crossed = minres(indefinite, b, options, squared);
  CHECK(crossed.status == KrylovStatus::Converged);
  CHECK(crossed.iterations < minres(indefinite, b, options).iterations);
  CHECK(error(crossed.x, indefinite.householderQr().solve(b)) < 1e-8);
}

TEST_CASE("Krylov solvers start where they are told") {
  Rng rng(9);
  const Matrix<double> c = with_spectrum(decaying(20, 1e3), rng);
  const Vector<double> solution = normal<double>(20, 1, rng);
  const Vector<double> b = c * solution;
  KrylovOptions<double> options{.tolerance = 1e-12, .initial = solution};
  CHECK(conjugate_gradients(c, b, options).iterations == 0);
  CHECK(minres(c, b, options).iterations == 0);
  options.initial = 2 * normal<double>(20, 1, rng);
  CHECK(error(conjugate_gradients(c, b, options).x, solution) < 1e-8);
  CHECK(error(minres(c, b, options).x, solution) < 1e-8);
}

TEST_CASE("Krylov solvers return zero for b = 0 without a product") {
  Counting op{Matrix<double>::Identity(3, 3)};
  const Vector<double> zero = Vector<double>::Zero(3);
  CHECK(conjugate_gradients(op, zero).x == zero);
  CHECK(minres(op, zero).x == zero);
  CHECK(op.products == 0);
}

TEST_CASE("Krylov solvers do one product an iteration and one more for the residual") {
  Rng rng(10);
  Counting op{with_spectrum(decaying(30, 1e2), rng)};
  const Vector<double> b = normal<double>(30, 1, rng);
  for (const Index iterations : {0, 1, 5}) {
    op.products = 0;
    CHECK(conjugate_gradients(op, b, {.tolerance = 0, .max_iterations = iterations}).iterations ==
          iterations);
    CHECK(op.products == iterations + 1);
    op.products = 0;
    CHECK(minres(op, b, {.tolerance = 0, .max_iterations = iterations}).iterations == iterations);
    CHECK(op.products == iterations + 1);
  }
}

TEST_CASE(
    "conjugate_gradients reports negative curvature and a preconditioner that is not positive") {
  Rng rng(11);
  Vector<double> spectrum = decaying(10, 10);
  spectrum(3) = -1;
  const Matrix<double> c = with_spectrum(spectrum, rng);
  const Vector<double> b = normal<double>(10, 1, rng);
  const auto result = conjugate_gradients(c, b);
  CHECK(result.status == KrylovStatus::Indefinite);
  CHECK(result.x.allFinite());
  CHECK(result.relative_residual == Approx((b - c * result.x).norm() / b.norm()));
  CHECK(conjugate_gradients(c, b, {.damping = 1.5}).status == KrylovStatus::Converged);
  const InPlace negative = [](VectorRef<double> r) { r *= -1; };
  CHECK(conjugate_gradients(c, b, {.damping = 1.5}, negative).status == KrylovStatus::Indefinite);
  CHECK(minres(c, b, {}, negative).status == KrylovStatus::Indefinite);
  CHECK(minres(c, b, {}, negative).x.isZero(0));
}

TEST_CASE("Krylov solvers report numbers that are not finite and keep the iterate before them") {
  Rng rng(12);
  const Matrix<double> c = with_spectrum(decaying(10, 100), rng);
  const Vector<double> b = normal<double>(10, 1, rng);
  for (const Index good : {0, 3}) {
    Counting op{c};
    op.poison_after = good;
    const auto cg = conjugate_gradients(op, b, {.tolerance = 1e-12});
    CHECK(cg.status == KrylovStatus::NotFinite);
    CHECK(cg.x == conjugate_gradients(c, b, {.tolerance = 1e-12, .max_iterations = good}).x);
    op.products = 0;
    const auto minimal = minres(op, b, {.tolerance = 1e-12});
    CHECK(minimal.status == KrylovStatus::NotFinite);
    CHECK(minimal.x == minres(c, b, {.tolerance = 1e-12, .max_iterations = good}).x);
  }
}

TEST_CASE("Krylov solvers say that a tolerance below rounding cannot be met") {
  Rng rng(13);
  const Matrix<double> exact = with_spectrum(decaying(30, 1e3), rng);
  const Matrix<float> c = exact.cast<float>();
  const Vector<float> b = normal<float>(30, 1, rng);
  const auto cg = conjugate_gradients(c, b, {.tolerance = 1e-12F, .max_iterations = 10000});
  CHECK(cg.status == KrylovStatus::Stagnated);
  CHECK(cg.relative_residual < 1e-3F);
  const auto minimal = minres(c, b, {.tolerance = 1e-12F, .max_iterations = 10000});
  CHECK(minimal.status == KrylovStatus::Stagnated);
  CHECK(minimal.relative_residual < 1e-3F);
}

TEST_CASE("Krylov solvers name the argument that is wrong") {
  const Matrix<double> c = Matrix<double>::Identity(3, 3);
  const Vector<double> b = Vector<double>::Ones(3);
  CHECK_THROWS_WITH(conjugate_gradients(c, Vector<double>::Ones(4)),
                    "kfac::linalg::conjugate_gradients: 'b' has 4 entries, expected 3");
  CHECK_THROWS_WITH(minres(c, b, {.initial = Vector<double>::Ones(2)}),
                    "kfac::linalg::minres: 'initial' has 2 entries, expected 3");
  Vector<double> bad = b;
  bad(1) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(minres(c, bad), ValueError);
  CHECK_THROWS_AS(conjugate_gradients(c, b, {.initial = bad}), ValueError);
  CHECK_THROWS_WITH(minres(c, b, {.tolerance = -1}),
                    "kfac::linalg::minres: 'tolerance' is -1, expected >= 0 and finite");
  CHECK_THROWS_WITH(conjugate_gradients(c, b, {.max_iterations = -1}),
                    "kfac::linalg::conjugate_gradients: 'max_iterations' is -1, expected >= 0");
  CHECK_THROWS_AS(conjugate_gradients(c, b, {.damping = -1}), OptionError);
}

}  // namespace kfac::test::krylov_test
