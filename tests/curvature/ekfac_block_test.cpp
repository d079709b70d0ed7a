#include <algorithm>

#include <kfac/curvature/ekfac_block.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

namespace kfac::test::ekfac_block_test {

namespace {

void add(CurvatureBlock<double>& block, const MapData& data, double scale) {
  block.add_input(data.input());
  block.add_output_gradient(data.input(), data.gradient(), 1.0);
  block.commit(scale);
}

/// What the training variant says of itself, from the data of all batches so far.
struct Reference {
  double decay, scale;
  Matrix<double> a{}, g{}, moments{};
  Index updates = 0, moment_updates = 0;

  static double keep(Index update, double decay) {
    return std::min(1 - 1 / static_cast<double>(update), decay);
  }
  void add_factors(const MapData& data) {
    const Matrix<double> x = data.augmented();
    const Matrix<double> fresh_a = x * x.transpose() / static_cast<double>(x.cols());
    const Matrix<double> fresh_g =
        scale * data.g * data.g.transpose() / static_cast<double>(data.examples);
    const double past = keep(++updates, decay);
    if (updates == 1) {
      a = fresh_a;
      g = fresh_g;
    } else {
      a = past * a + (1 - past) * fresh_a;
      g = past * g + (1 - past) * fresh_g;
    }
  }
  void add_moments(const MapData& data, const linalg::KroneckerEigen<double>& eigen) {
    Matrix<double> fresh = Matrix<double>::Zero(data.outputs, data.columns());
    for (const Matrix<double>& p : data.gradients())
      fresh +=
          scale / static_cast<double>(data.examples) *
          (eigen.output_basis().vectors.transpose() * p * eigen.input_basis().vectors).cwiseAbs2();
    const double past = keep(++moment_updates, decay);
    moments = moment_updates == 1 ? fresh : Matrix<double>(past * moments + (1 - past) * fresh);
  }
};

const linalg::KroneckerEigen<double>& eigen_of(const CurvatureMatrix<double>& matrix) {
  return static_cast<const SpectralMatrix<double>&>(matrix).eigen();
}

}  // namespace

TEST_CASE(
    "EkfacBlock: in training the moments are running averages since the basis was refreshed") {
  Rng rng(1);
  BlockOptions<double> options{.inputs = 3, .outputs = 4, .bias = true, .factor_decay = 0.6};
  EkfacBlock<double> block(options);
  Reference reference{.decay = 0.6, .scale = 1.7};
  constexpr double kDamping = 0.05;
  for (int step = 0; step < 9; ++step) {
    const MapData data(3, 4, 2, 5 + rng.below(4), true, rng);
    linalg::KroneckerEigen<double> in_use;
    if (step > 0) in_use = eigen_of(*block.matrix(0.0));
    add(block, data, reference.scale);
    reference.add_factors(data);
    if (step > 0) reference.add_moments(data, in_use);
    if (step % 3 == 0) {
      REQUIRE(block.refresh_inverse(kDamping));
      reference.moment_updates = 0;
      const Matrix<double> k_fac = linalg::kronecker_product<double>(reference.a, reference.g);
      CHECK(relative_error(dense_of(block), k_fac) < 1e-12);
    }
    if (reference.moment_updates == 0) continue;

    // What it preconditions with follows each batch, and is diagonal in the basis in use.
    Matrix<double> v = random_matrix(4, 4, rng);
    Matrix<double> expected = v;
    in_use.to_basis(expected);
    expected.array() /= reference.moments.array() + kDamping;
    in_use.from_basis(expected);
    block.precondition(v);
    CHECK(relative_error(v, expected) < 1e-11);
  }
}

TEST_CASE("EkfacBlock: after a fit, a new damping keeps the fitted eigenvalues") {
  Rng rng(2);
  const MapData data(3, 2, 1, 12, true, rng);
  EkfacBlock<double> block(data.options());
  data.fit(block, 1.0);
  const Matrix<double> fitted = dense_of(block);
  for (const double damping : {1.0, 0.1}) {
    REQUIRE(block.refresh_inverse(damping));
    CHECK(relative_error(dense_of(block), fitted) < 1e-13);
    Matrix<double> v = random_matrix(2, 4, rng);
    const Vector<double> before = v.reshaped();
    block.precondition(v);
    const Vector<double> back = fitted * v.reshaped() + damping * v.reshaped();
    CHECK(relative_error(back, before) < 1e-11);
  }
}

TEST_CASE("EkfacBlock: a copy goes its own way, and can be taken back") {
  Rng rng(3);
  const MapData data(3, 2, 1, 12, true, rng), other(3, 2, 1, 12, true, rng);
  EkfacBlock<double> block(data.options());
  data.fit(block, 1.0);
  const Matrix<double> before = dense_of(block);
  const auto copy = block.clone();
  other.fit(block, 1.0);
  CHECK(relative_error(dense_of(block), before) > 1e-2);
  CHECK(dense_of(*copy) == before);
  block.assign(*copy);
  CHECK(dense_of(block) == before);
}

}  // namespace kfac::test::ekfac_block_test
