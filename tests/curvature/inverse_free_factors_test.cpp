#include <kfac/core/random.hpp>
#include <kfac/curvature/inverse_free_factors.hpp>
#include <kfac/linalg/factored_inverse.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::inverse_free_factors_test {

using linalg::Structure;

namespace {

constexpr Structure kStructures[] = {Structure::Dense, Structure::Diagonal,
                                     Structure::BlockDiagonal, Structure::LowerTriangular,
                                     Structure::UpperToeplitz};

template <class A, class B>
double error(const A& actual, const B& expected) {
  return (actual - expected).norm() / expected.norm();
}

Matrix<double> identity(Index size) {
  return Matrix<double>::Identity(size, size);
}

Matrix<double> inverse(Matrix<double> m) {
  linalg::invert_spd<double>(m);
  return m;
}

/// Pi through the dense form, for the reference.
Matrix<double> projected(const Matrix<double>& symmetric, Structure structure, Index block_size) {
  linalg::StructuredMatrix<double> m(symmetric.rows(), structure, block_size);
  m.add_projection(1.0, symmetric);
  return m.dense();
}

/// The published recurrence in plain matrices, for one factor and one step.
struct Reference {
  Matrix<double> k;
  Matrix<double> m;

  explicit Reference(Index size) : k(identity(size)), m(Matrix<double>::Zero(size, size)) {}

  Matrix<double> h(const Matrix<double>& a) const { return k.transpose() * a * k; }
  double mean_gram() const { return k.squaredNorm() / static_cast<double>(k.rows()); }

  void step(const InverseFreeOptions<double>& options, Structure structure,
            const Matrix<double>& projected_h, double moment_weight, double damping,
            double momentum) {
    const Matrix<double> gram = projected(k.transpose() * k, structure, options.block_size);
    const bool by_entry = options.bound == InverseFreeBound::LargestEntry;
    const double share = 0.5 * (by_entry ? 1 - momentum : 1.0);
    m = momentum * m + share * (moment_weight * projected_h + damping * gram - identity(k.rows()));
    double rate = options.learning_rate;
    if (by_entry) rate /= std::max(1.0, m.cwiseAbs().maxCoeff());
    if (options.bound == InverseFreeBound::Frobenius) rate /= std::max(1.0, m.norm());
    k = (k - rate * k * m).eval();
  }
};

/// A batch with what it makes of A and G.
struct Batch {
  Matrix<double> x, g;
  Matrix<double> a_factor, g_factor;

  Batch(Index inputs, Index outputs, Index examples, double scale, Rng& rng)
      : x(scale * normal<double>(inputs, examples, rng)),
        g(normal<double>(outputs, examples, rng)) {
    set_factors();
  }
  void set_factors() {
    a_factor = x * x.transpose() / static_cast<double>(x.cols());
    g_factor = g * g.transpose() / static_cast<double>(x.cols());
  }
  bool feed(InverseFreeFactors<double>& factors, double damping) const {
    const double share = 1 / static_cast<double>(x.cols());
    factors.input().add(x, 1.0);
    factors.output().add(g, 1.0);
    factors.input().commit(share);
    factors.output().commit(share);
    return factors.update(damping);
  }
};

}  // namespace

TEST_CASE("InverseFreeFactors: SINGD and IKFAC follow the published recurrence in lock-step") {
  Rng rng(1);
  for (const Structure structure : kStructures)
    for (const InverseFreeMethod method : {InverseFreeMethod::Ikfac, InverseFreeMethod::Singd})
      for (const InverseFreeBound bound :
           {InverseFreeBound::None, InverseFreeBound::LargestEntry, InverseFreeBound::Frobenius}) {
        const InverseFreeOptions<double> options{.method = method,
                                                 .input_structure = structure,
                                                 .output_structure = structure,
                                                 .block_size = 2,
                                                 .learning_rate = 0.05,
                                                 .momentum = 0.6,
                                                 .scaled_start = false,
                                                 .bound = bound};
        InverseFreeFactors<double> factors(5, 3, options, false);
        Reference k(5), c(3);
        const double damping = 0.04;
        for (int step = 0; step < 12; ++step) {
          const Batch data(5, 3, 6, step == 3 ? 4.0 : 0.7, rng);
          CHECK(data.feed(factors, damping));

          const Matrix<double> h_k = projected(k.h(data.a_factor), structure, 2);
          const Matrix<double> h_c = projected(c.h(data.g_factor), structure, 2);
          if (method == InverseFreeMethod::Ikfac) {
            k.step(options, structure, h_k, 1.0, 0.2, 0.0);
            c.step(options, structure, h_c, 1.0, 0.2, 0.0);
          } else {
            const double gram_k = k.mean_gram(), gram_c = c.mean_gram();
            k.step(options, structure, h_k, h_c.trace() / 3, damping * gram_c, 0.6);
            c.step(options, structure, h_c, h_k.trace() / 5, damping * gram_k, 0.6);
          }
          CHECK(error(factors.input().root().dense(), k.k) < 1e-12);
          CHECK(error(factors.output().root().dense(), c.k) < 1e-12);
          Matrix<double> v = normal<double>(3, 5, rng);
          const Matrix<double> expected = c.k * c.k.transpose() * v * k.k * k.k.transpose();
          factors.apply(v);
          CHECK(error(v, expected) < 1e-12);
        }
      }
}

TEST_CASE(
    "InverseFreeFactors: IKFAC on the same data goes to the Cholesky inverse of the factors") {
  Rng rng(2);
  for (const Structure structure : {Structure::Dense, Structure::LowerTriangular})
    for (const bool pi : {true, false})
      for (const double scale : {1e-3, 1.0, 1e3}) {
        const Batch data(6, 4, 9, scale, rng);
        const double damping = 1e-2 * scale * scale;
        InverseFreeFactors<double> factors(6, 4,
                                           {.method = InverseFreeMethod::Ikfac,
                                            .input_structure = structure,
                                            .output_structure = structure,
                                            .learning_rate = 0.5},
                                           pi);
        for (int step = 0; step < 400; ++step) {
          REQUIRE(data.feed(factors, damping));
        }
        FactoredInverse<double> exact;
        REQUIRE(exact.refresh(data.a_factor, data.g_factor, damping,
                              pi ? FactorBalance::Trace : FactorBalance::None));
        Matrix<double> v = normal<double>(4, 6, rng);
        Matrix<double> expected = v;
        factors.apply(v);
        exact.apply(expected);
        CHECK(error(v, expected) < 1e-10);
      }
}

TEST_CASE("InverseFreeFactors: a dense SINGD on the same data ends where its gradient vanishes") {
  Rng rng(3);
  const Batch data(6, 4, 12, 1.0, rng);
  const double damping = 0.05;
  InverseFreeFactors<double> factors(6, 4, {.learning_rate = 0.5});
  for (int step = 0; step < 600; ++step) {
    REQUIRE(data.feed(factors, damping));
  }
  const Matrix<double> k = factors.input().root().dense();
  const Matrix<double> c = factors.output().root().dense();
  // K K^T = (weighted A + damping share)^-1, with the weights that C makes, and the other way
  // round.
  const double g_share = (c.transpose() * data.g_factor * c).trace() / 4;
  const double a_share = (k.transpose() * data.a_factor * k).trace() / 6;
  const Matrix<double> a = g_share * data.a_factor + damping * c.squaredNorm() / 4 * identity(6);
  const Matrix<double> g = a_share * data.g_factor + damping * k.squaredNorm() / 6 * identity(4);
  CHECK(error(k * k.transpose(), inverse(a)) < 1e-9);
  CHECK(error(c * c.transpose(), inverse(g)) < 1e-9);
}

TEST_CASE("InverseFreeFactors: multiples of the identity are right from the first step") {
  // Orthogonal rows of equal length: A = a I and G = g I.
  Rng rng(4);
  Batch data(4, 4, 4, 1.0, rng);
  data.x = 3 * identity(4);
  data.g = 2 * identity(4);
  for (const InverseFreeMethod method : {InverseFreeMethod::Ikfac, InverseFreeMethod::Singd})
    for (const Structure structure : kStructures) {
      InverseFreeFactors<double> factors(
          4, 4, {.method = method, .input_structure = structure, .output_structure = structure});
      REQUIRE(data.feed(factors, 0.3));
      const double product = 9.0 / 4 * 1.0;
      const double damped = method == InverseFreeMethod::Singd
                                ? product + 0.3
                                : std::pow(std::sqrt(product) + std::sqrt(0.3), 2);
      Matrix<double> v = Matrix<double>::Ones(4, 4);
      factors.apply(v);
      CHECK(error(v, Matrix<double>::Ones(4, 4) / damped) < 1e-13);
    }
}

TEST_CASE("InverseFreeFactors: the Frobenius bound holds where the free step diverges") {
  Rng rng(4);
  Batch data(40, 3, 10, 1.0, rng);
  data.x.array() += 20;  // one direction has nearly all of the trace
  const auto run = [&](InverseFreeBound bound) {
    InverseFreeFactors<double> factors(40, 3, {.learning_rate = 0.3, .bound = bound});
    bool finite = true;
    for (int step = 0; step < 200; ++step) {
      finite = data.feed(factors, 1e-2) && finite;
    }
    return finite && factors.input().root().max_abs() < 1e6;
  };
  CHECK(!run(InverseFreeBound::None));
  CHECK(run(InverseFreeBound::Frobenius));
}

}  // namespace kfac::test::inverse_free_factors_test
