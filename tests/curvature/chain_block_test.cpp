#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <kfac/curvature/chain_block.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::chain_block_test {

namespace {

using Dense = Matrix<double>;
using Block = ChainBlock<double>;
using testing::relative_error;

Dense orthogonal(Index size, Rng& rng) {
  return linalg::detail::orthogonal_factor<double>(normal<double>(size, size, rng));
}

/// A stationary linear chain, x_{t+1} = Psi x_t + noise.
struct Chain {
  Dense root;  // of the second moment at a step, L L^T
  Dense psi;   // where that is the identity

  Index size() const { return root.rows(); }
  /// E[x_{t+d} x_t^T].
  Dense lag(Index d) const {
    Dense power = Dense::Identity(size(), size());
    for (Index i = 0; i < std::abs(d); ++i) power = Dense(psi * power);
    const Dense result = root * power * root.transpose();
    return d < 0 ? Dense(result.transpose()) : result;
  }
  /// The same with a constant 1 appended to x.
  Chain augmented() const {
    Chain result{Dense::Identity(size() + 1, size() + 1), Dense::Identity(size() + 1, size() + 1)};
    result.root.topLeftCorner(size(), size()) = root;
    result.psi.topLeftCorner(size(), size()) = psi;
    return result;
  }
};

/// With Psi of that spectral norm, symmetric or not.
Chain random_chain(Index size, double norm, bool symmetric, Rng& rng) {
  const Dense u = orthogonal(size, rng);
  Vector<double> values(size);
  rng.fill_uniform(values, -norm, norm);
  values(0) = -norm;
  return {normal<double>(size, size, rng) + 2 * Dense::Identity(size, size),
          u * values.asDiagonal() * (symmetric ? u : orthogonal(size, rng)).transpose()};
}

/// Examples whose second moments are exactly the chain's, at all pairs of steps, and whose mean is
/// exactly 0, as a batch with the steps of each example together.
Dense sample(const Chain& chain, Index steps, Index examples, Rng& rng) {
  const Index size = chain.size();
  Dense moment(size * steps, size * steps);
  for (Index t = 0; t < steps; ++t)
    for (Index s = 0; s < steps; ++s)
      moment.block(t * size, s * size, size, size) = chain.lag(t - s);
  // Orthonormal rows, all orthogonal to the constant.
  Dense columns = normal<double>(examples, examples, rng);
  columns.col(0).setOnes();
  const Dense basis = linalg::detail::orthogonal_factor<double>(columns);
  const Dense rows = basis.middleCols(1, size * steps).transpose();
  const Dense root = Eigen::LLT<Dense>(moment).matrixL();
  const Dense values = std::sqrt(static_cast<double>(examples)) * root * rows;
  return values.reshaped(size, steps * examples);
}

SharedBatch<double> shared(const Dense& columns, Index steps) {
  return {columns.data(), columns.rows(), columns.cols(), steps,
          SharedBatch<double>::Order::ColumnMajor};
}

void feed(CurvatureBlock<double>& block, const Dense& a, const Dense& g, Index steps,
          const PositionMask* mask = nullptr) {
  block.add_input(shared(a, steps), mask);
  block.add_output_gradient(shared(a, steps), shared(g, steps), 1);
  block.commit(1);
}

/// The block of that many steps.
Dense exact(const Chain& a, const Chain& g, Index steps) {
  Dense sum = Dense::Zero(a.size() * g.size(), a.size() * g.size());
  for (Index d = 1 - steps; d < steps; ++d)
    sum += static_cast<double>(steps - std::abs(d)) *
           linalg::kronecker_product<double>(a.lag(d), g.lag(d));
  return sum;
}
/// That of a step among infinitely many, times the number of steps.
Dense limit(const Chain& a, const Chain& g, Index steps) {
  Dense sum = Dense::Zero(a.size() * g.size(), a.size() * g.size());
  for (Index d = -400; d <= 400; ++d) sum += linalg::kronecker_product<double>(a.lag(d), g.lag(d));
  return static_cast<double>(steps) * sum;
}

ChainMoments moments_of(const Chain& a, const Chain& g, Index steps) {
  const auto count = static_cast<double>(steps);
  ChainMoments moments{a.lag(0), a.lag(1), count * g.lag(0), count * g.lag(1), {}};
  moments.pairs = Vector<double>::LinSpaced(steps, count, 1);
  return moments;
}
Dense dense(const Chain& a, const Chain& g, Index steps, ChainStructure structure) {
  ChainDecomposition chain;
  REQUIRE(chain.compute(moments_of(a, g, steps), 0, FactorBalance::Trace, structure));
  return ChainMatrix<double>(chain).dense();
}

BlockOptions<double> options_for(Index inputs, Index outputs, bool bias) {
  return {.inputs = inputs, .outputs = outputs, .bias = bias, .factor_decay = 0.9};
}

/// Of C x = v, where C may be ill-conditioned: relative to what is added up in it.
double residual(const Dense& c, const Dense& x, const Dense& v) {
  return (c * x.reshaped() - v.reshaped()).norm() / (c.norm() * x.norm());
}

}  // namespace

TEST_CASE("symmetric chain blocks are exact for symmetric chains of any length",
          "[curvature][exact]") {
  Rng rng(1);
  for (const Index steps : {1, 2, 3, 6})
    for (const bool bias : {false, true}) {
      const Chain a = random_chain(3, 0.95, true, rng);
      const Chain g = random_chain(2, 0.9, true, rng);
      Block block(options_for(3, 2, bias));
      const Index examples = 3 * steps + 2;
      feed(block, sample(a, steps, examples, rng), sample(g, steps, examples, rng), steps);
      const Dense expected = exact(bias ? a.augmented() : a, g, steps);
      REQUIRE(relative_error(block.matrix()->dense(), expected) < 1e-12);

      REQUIRE(block.refresh_inverse(0));
      const Dense v = normal<double>(2, block.columns(), rng);
      Dense solved = v;
      block.precondition(solved);
      REQUIRE(residual(expected, solved, v) < 1e-12);
      Dense product = v;
      block.multiply(product);
      REQUIRE(relative_error(product.reshaped(), expected * v.reshaped()) < 1e-12);
    }
}

TEST_CASE("long chain blocks are exact for the sum over all lags of any chain",
          "[curvature][exact]") {
  Rng rng(2);
  for (const Index steps : {4, 7})
    for (const bool bias : {false, true}) {
      const Chain a = random_chain(3, 0.95, false, rng);
      const Chain g = random_chain(2, 0.55, false, rng);  // less than (steps - 1) / (steps + 1)
      Block block(options_for(3, 2, bias), ChainStructure::LongSequence);
      const Index examples = 3 * steps + 2;
      feed(block, sample(a, steps, examples, rng), sample(g, steps, examples, rng), steps);
      const Dense expected = limit(bias ? a.augmented() : a, g, steps);
      REQUIRE(relative_error(block.matrix()->dense(), expected) < 1e-12);

      REQUIRE(block.refresh_inverse(0));
      const Dense v = normal<double>(2, block.columns(), rng);
      Dense solved = v;
      block.precondition(solved);
      REQUIRE(residual(expected, solved, v) < 1e-12);
    }
}

TEST_CASE("the error of long chain blocks falls as one over the number of steps",
          "[curvature][exact]") {
  Rng rng(3);
  const Chain a = random_chain(3, 0.9, false, rng);
  const Chain g = random_chain(2, 0.8, false, rng);
  const auto error = [&](Index steps, ChainStructure structure) {
    return relative_error(dense(a, g, steps, structure), exact(a, g, steps));
  };
  double before = error(16, ChainStructure::LongSequence);
  for (const Index steps : {32, 64, 128, 256}) {
    const double now = error(steps, ChainStructure::LongSequence);
    CHECK(now / before == Approx(0.5).margin(0.06));
    before = now;
  }
  CHECK(before < 0.02);
  // Psi is not symmetric, which the other structure needs.
  CHECK(error(256, ChainStructure::Symmetric) > 0.05);
}

TEST_CASE("chain blocks of one step are Kronecker blocks", "[curvature][exact]") {
  Rng rng(4);
  const Dense a = normal<double>(4, 20, rng), g = normal<double>(3, 20, rng);
  KroneckerBlock<double> kronecker(options_for(4, 3, true));
  kronecker.accumulate(a, g);
  REQUIRE(kronecker.refresh_inverse(0.1));
  const Dense v = normal<double>(3, 5, rng);
  Dense expected = v;
  kronecker.precondition(expected);
  for (const ChainStructure structure : {ChainStructure::Symmetric, ChainStructure::LongSequence}) {
    Block block(options_for(4, 3, true), structure);
    block.accumulate(a, g);
    REQUIRE(relative_error(block.matrix()->dense(), kronecker.matrix()->dense()) < 1e-12);
    REQUIRE(relative_error(block.matrix(0.1)->dense(), kronecker.matrix(0.1)->dense()) < 1e-12);
    REQUIRE(block.refresh_inverse(0.1));
    Dense actual = v;
    block.precondition(actual);
    REQUIRE(relative_error(actual, expected) < 1e-12);
  }
}

TEST_CASE("chain blocks of steps that are independent are those of expanded positions",
          "[curvature][exact]") {
  Rng rng(5);
  const Chain a{normal<double>(3, 3, rng), Dense::Zero(3, 3)};
  const Chain g{normal<double>(2, 2, rng), Dense::Zero(2, 2)};
  const Dense inputs = sample(a, 4, 20, rng), gradients = sample(g, 4, 20, rng);
  KroneckerBlock<double> kronecker(options_for(3, 2, false));
  feed(kronecker, inputs, gradients, 4);
  for (const ChainStructure structure : {ChainStructure::Symmetric, ChainStructure::LongSequence}) {
    Block block(options_for(3, 2, false), structure);
    feed(block, inputs, gradients, 4);
    REQUIRE(relative_error(block.matrix(0.3)->dense(), kronecker.matrix(0.3)->dense()) < 1e-12);
  }
}

TEST_CASE("chain matrices agree with their dense form", "[curvature][exact]") {
  Rng rng(6);
  const Dense a = normal<double>(3, 40, rng), g = normal<double>(2, 40, rng);
  for (const ChainStructure structure : {ChainStructure::Symmetric, ChainStructure::LongSequence}) {
    Block block(options_for(3, 2, true), structure);
    feed(block, a, g, 4);
    const auto matrix = block.matrix(0.05);
    const Dense full = matrix->dense();
    REQUIRE(relative_error(full, full.transpose()) < 1e-12);
    REQUIRE(full.selfadjointView<Eigen::Lower>().eigenvalues().minCoeff() > 0);
    REQUIRE_FALSE(matrix->singular());
    REQUIRE(relative_error(matrix->diagonal().reshaped(), full.diagonal()) < 1e-12);
    REQUIRE(matrix->trace() == Approx(full.trace()));
    REQUIRE(matrix->log_determinant() == Approx(std::log(full.determinant())));
    Dense root(8, 8), inverse_root(8, 8), inverse(8, 8);
    for (Index j = 0; j < 8; ++j) {
      const Dense unit = Vector<double>::Unit(8, j).reshaped(2, 4);
      Dense v = unit;
      matrix->multiply_sqrt(v);
      root.col(j) = v.reshaped();
      v = unit;
      matrix->multiply_inverse_sqrt(v);
      inverse_root.col(j) = v.reshaped();
      v = unit;
      matrix->solve(v);
      inverse.col(j) = v.reshaped();
    }
    REQUIRE(relative_error(root * root.transpose(), full) < 1e-12);
    REQUIRE(relative_error(inverse * full, Dense::Identity(8, 8)) < 1e-11);
    REQUIRE(relative_error(inverse_root * inverse_root.transpose(), inverse) < 1e-11);
  }
}

TEST_CASE("chain blocks take the pairs of steps that are not padding", "[curvature][exact]") {
  Rng rng(7);
  const Index steps = 5, examples = 6;
  const Dense a = normal<double>(3, steps * examples, rng);
  Dense g = normal<double>(2, steps * examples, rng);
  PositionMask mask = PositionMask::Constant(steps, examples, true);
  mask.col(0).tail(3).setConstant(false);
  mask(0, 1) = mask(2, 4) = false;
  for (Index n = 0; n < g.cols(); ++n)
    if (!mask.data()[n]) g.col(n).setZero();

  Dense a0 = Dense::Zero(4, 4), a1 = a0, g0 = Dense::Zero(2, 2), g1 = g0;
  Vector<double> pairs = Vector<double>::Zero(steps);
  for (Index n = 0; n < examples; ++n)
    for (Index t = 0; t < steps; ++t)
      for (Index s = t; s < steps; ++s) {
        if (!mask(t, n) || !mask(s, n)) continue;
        pairs(s - t) += 1;
        const Vector<double> now = a.col(n * steps + t).homogeneous();
        const Vector<double> then = a.col(n * steps + s).homogeneous();
        const Vector<double> g_now = g.col(n * steps + t), g_then = g.col(n * steps + s);
        if (s == t) a0 += then * now.transpose(), g0 += g_then * g_now.transpose();
        if (s == t + 1) a1 += then * now.transpose(), g1 += g_then * g_now.transpose();
      }
  Block block(options_for(3, 2, true));
  feed(block, a, g, steps, &mask);
  const ChainMoments moments = block.moments();
  const auto count = static_cast<double>(examples);
  REQUIRE(relative_error(moments.pairs, pairs / count) < 1e-14);
  REQUIRE(relative_error(moments.a, a0 / pairs(0)) < 1e-13);
  REQUIRE(relative_error(moments.a_lag, a1 / pairs(1)) < 1e-13);
  REQUIRE(relative_error(moments.g, g0 / count) < 1e-13);
  REQUIRE(relative_error(moments.g_lag, g1 / pairs(1) * pairs(0) / count) < 1e-13);

  // Running averages over batches of different lengths.
  const Dense short_a = normal<double>(3, 2 * examples, rng);
  const Dense short_g = normal<double>(2, 2 * examples, rng);
  feed(block, short_a, short_g, 2);
  Vector<double> mean = pairs / count / 2;
  mean(0) += 1, mean(1) += 0.5;
  REQUIRE(relative_error(block.moments().pairs, mean) < 1e-14);
  // A batch of other examples is one more with the same weight.
  Block parts(options_for(3, 2, true));
  for (const Index first : {0, 3}) {
    const PositionMask part = mask.middleCols(first, 3);
    const Dense a_part = a.middleCols(first * steps, 3 * steps);
    const Dense g_part = g.middleCols(first * steps, 3 * steps);
    parts.add_input(shared(a_part, steps), &part);
    parts.add_output_gradient(shared(a_part, steps), shared(g_part, steps), 1);
  }
  parts.commit(1);
  REQUIRE(relative_error(parts.moments().a_lag, moments.a_lag) < 1e-13);
  REQUIRE(relative_error(parts.moments().g_lag, moments.g_lag) < 1e-13);
}

TEST_CASE("chain blocks stay within what a sequence can have", "[curvature][exact]") {
  // Psi beyond 1, which estimates from few examples give, and sums that cancel out.
  for (const double psi : {3.0, -3.0})
    for (const ChainStructure structure :
         {ChainStructure::Symmetric, ChainStructure::LongSequence}) {
      const Chain a{Dense::Identity(2, 2), Dense::Identity(2, 2)};
      const Chain g{Dense::Identity(2, 2), psi * Dense::Identity(2, 2)};
      const Dense independent = 4 * Dense::Identity(4, 4);
      const Dense actual = dense(a, g, 4, structure);
      const double least = structure == ChainStructure::Symmetric ? 0.01 : 0.25;
      REQUIRE(relative_error(actual, (psi > 0 ? 4.0 : least) * independent) < 1e-12);
    }
}

TEST_CASE("damping of chain blocks is K-FAC's where there is nothing else", "[curvature][exact]") {
  Rng rng(8);
  const Dense a = Dense::Zero(2, 12), g = Dense::Zero(2, 12);
  for (const ChainStructure structure : {ChainStructure::Symmetric, ChainStructure::LongSequence}) {
    Block block(options_for(2, 2, false), structure);
    feed(block, a, g, 3);
    REQUIRE(relative_error(block.matrix(0.25)->dense(), 0.25 * Dense::Identity(4, 4)) < 1e-14);
    REQUIRE(block.matrix()->singular());
    REQUIRE(message_of<SingularError>([&] { block.matrix()->log_determinant(); }) ==
            "kfac::CurvatureMatrix::log_determinant: the block is singular, expected damping > 0");
    REQUIRE_THROWS_AS(block.refresh_inverse(0), SingularError);
    REQUIRE_FALSE(block.has_inverse());
    REQUIRE(block.refresh_inverse(0.25));
    REQUIRE_FALSE(block.set_damping(1.0));
    Dense v = Dense::Ones(2, 2);
    block.precondition(v);
    REQUIRE(relative_error(v, Dense::Constant(2, 2, 4.0)) < 1e-14);
    // A layer that died does not make its curvature infinite or NaN.
    feed(block, a, g, 3);
    REQUIRE(block.refresh_inverse(0.25));
  }
}

TEST_CASE("chain blocks refuse what they cannot do", "[curvature][error]") {
  Rng rng(9);
  REQUIRE(message_of<OptionError>([] { Block(options_for(0, 2, true)); }) ==
          "kfac::ChainBlock: 'inputs' is 0, expected >= 1");
  Block block(options_for(2, 2, true));
  const Dense a = normal<double>(2, 4, rng);
  block.add_input(shared(a, 2));
  REQUIRE(message_of<StateError>([&] { block.add_output_identity(); }) ==
          "kfac::CurvatureBlock::add_output_identity: a K-FAC (symmetric chain) block has no "
          "forward-only form, expected a K-FAC block (layer 'block')");
  REQUIRE_FALSE(block.has_fresh_data());
  Dense broken = a;
  broken(0, 1) = std::nan("");
  block.discard();
  block.add_input(shared(broken, 2));
  block.add_output_gradient(shared(broken, 2), shared(a, 2), 1);
  REQUIRE_FALSE(block.fresh_is_finite());
  block.discard();
  REQUIRE(block.fresh_is_finite());
  REQUIRE_THROWS_AS(block.refresh_inverse(0.1), StateError);
  feed(block, a, a, 2);
  REQUIRE(block.commits() == 1);
  REQUIRE(block.refresh_inverse(0.1));
}

TEST_CASE("chain blocks are for recurrent layers", "[curvature][exact]") {
  LayerView<double> layer{"0", "RNN", {nullptr, 0}, {nullptr, 0}, {}, {}, nullptr};
  layer.kronecker = KroneckerStructure{2, 2, true, 1};
  const BlockOptions<double> options = options_for(2, 2, true);
  const auto blocks = chain_blocks<double>(ChainStructure::LongSequence);
  REQUIRE(std::string(blocks(layer, options)->kind()) == "K-FAC");
  layer.recurrent = true;
  REQUIRE(std::string(blocks(layer, options)->kind()) == "K-FAC (long chain)");
  REQUIRE(std::string(chain_blocks<double>()(layer, options)->kind()) == "K-FAC (symmetric chain)");
  layer.kronecker.reset();
  REQUIRE(blocks(layer, options) == nullptr);
}

}  // namespace kfac::test::chain_block_test
