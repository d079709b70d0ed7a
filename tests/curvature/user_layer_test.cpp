#include <string>

#include <kfac/curvature/block_factory.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/full_block.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/exponential_scale.hpp"

// Layers of a user's own: through the public concepts alone they get any kind of block.

namespace kfac::test::user_layer_test {

namespace {

/// y = W [x; x^2]: announces what W was multiplied with, which it has made itself.
class Quadratic {
 public:
  using Scalar = double;
  struct Scratch {
    Buffer<double> features;
  };

  Quadratic(Index inputs, Index outputs, Rng& rng)
      : weight_(random_matrix(outputs, 2 * inputs, rng)) {}

  Index parameter_count() const { return weight_.size(); }
  VectorMap<double> parameters() { return {weight_.data(), weight_.size()}; }
  Shape output_shape(const Shape&) const { return {weight_.rows()}; }

  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch& scratch,
               const Mode&) const {
    MatrixMap<double> features = scratch.features.map(weight_.cols(), x.examples());
    features.topRows(x.values.rows()) = x.values;
    features.bottomRows(x.values.rows()) = x.values.cwiseAbs2();
    y.values.noalias() = weight_ * features;
  }
  void backward(const ConstBatchView<double>& x, const ConstBatchView<double>&,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>* grad_parameters, Scratch& scratch, const Mode&) const {
    const Index inputs = x.values.rows();
    if (grad_input) {
      const Matrix<double> gradient = weight_.transpose() * grad_output.values;
      grad_input->values =
          gradient.topRows(inputs) + 2 * x.values.cwiseProduct(gradient.bottomRows(inputs));
    }
    if (grad_parameters)
      MatrixMap<double>(grad_parameters->data(), weight_.rows(), weight_.cols()) =
          grad_output.values * features(x, scratch).transpose();
  }
  void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>&,
               const ConstBatchView<double>* x_tangent, const ConstVectorMap<double>* direction,
               BatchView<double> y_tangent, Scratch& scratch) const {
    y_tangent.values.setZero();
    if (x_tangent) {
      Matrix<double> changes(weight_.cols(), x.examples());
      changes << x_tangent->values, 2 * x.values.cwiseProduct(x_tangent->values);
      y_tangent.values += weight_ * changes;
    }
    if (direction)
      y_tangent.values +=
          ConstMatrixMap<double>(direction->data(), weight_.rows(), weight_.cols()) *
          features(x, scratch);
  }

  KroneckerStructure kronecker_structure() const {
    return {.inputs = weight_.cols(), .outputs = weight_.rows(), .bias = false};
  }
  SharedBatch<double> kronecker_input(const ConstBatchView<double>& x,
                                      const Scratch& scratch) const {
    return SharedBatch<double>(features(x, scratch));
  }
  SharedBatch<double> kronecker_output_gradient(const ConstBatchView<double>& grad_output,
                                                const Scratch&) const {
    return SharedBatch<double>(grad_output.values);
  }

 private:
  ConstMatrixMap<double> features(const ConstBatchView<double>& x, const Scratch& scratch) const {
    return {scratch.features.data(), weight_.cols(), x.examples()};
  }
  Matrix<double> weight_;
};
static_assert(KroneckerLayer<Quadratic>);

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), ExponentialScale(4, rng), Tanh<double>{},
                    Quadratic(4, 2, rng)};
}

}  // namespace

TEST_CASE("A layer written outside the library has full K-FAC through the public concepts") {
  Rng rng(1);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  // MSE: the last linear map's block is exact (T11); for one example, every block is (T1).
  for (const Index examples : {1, 6}) {
    const Matrix<double> x = random_matrix(3, examples, rng);
    const Estimate estimate(model, loss, x, random_matrix(2, examples, rng), FisherType::Type2);
    REQUIRE(estimate.size() == 2);
    const Matrix<double> exact = Ggn(model, loss, x).dense();
    CHECK(relative_error(dense(estimate.block(1)), diagonal_block(exact, model, 3)) < 1e-12);
    const double first = relative_error(dense(estimate.block(0)), diagonal_block(exact, model, 0));
    CHECK((first < 1e-12) == (examples == 1));
  }
}

TEST_CASE("A layer that announces nothing has exact diagonal, full and scaled-identity blocks") {
  Rng rng(2);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = random_matrix(2, 6, rng);
  const Matrix<double> exact = diagonal_block(Ggn(model, loss, x).dense(), model, 1);
  const auto estimate = [&](const BlockFactory<double>& blocks) {
    CurvatureEstimator estimator(model, loss, {}, blocks);
    estimator.fit(x, y);
    REQUIRE(estimator.layers().size() == 3);
    return dense_of(*estimator.layers()[1]->blocks()[0]);
  };
  using K = KroneckerBlock<double>;
  CHECK(relative_error(estimate(block_factory<K, FullBlock<double>>()), exact) < 1e-12);
  const Matrix<double> diagonal = exact.diagonal().asDiagonal();
  CHECK(relative_error(estimate(block_factory<K, DiagonalBlock<double>>()), diagonal) < 1e-12);
  const Matrix<double> identity = Matrix<double>::Identity(4, 4) * exact.diagonal().mean();
  CHECK(relative_error(estimate(block_factory<K, ScaledIdentityBlock<double>>()), identity) <
        1e-12);
}

TEST_CASE("KfacOptimizer: a user's blocks, layer by layer, are what steps are made with") {
  Rng rng(3);
  auto model = network(rng);
  const MeanSquaredError<double> loss;
  const BlockFactory<double> blocks =
      [](const LayerView<double>& layer,
         const BlockOptions<double>& options) -> std::unique_ptr<CurvatureBlock<double>> {
    if (layer.name == "0") return nullptr;
    if (!layer.kronecker) return std::make_unique<FullBlock<double>>(options);
    return std::make_unique<DiagonalBlock<double>>(options);
  };
  KfacOptimizer optimizer(
      model, loss, {.learning_rate = 0.1, .momentum = 0, .damping = 0.2, .kl_clip = 0}, blocks);
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = random_matrix(2, 6, rng);
  Ggn ggn(model, loss, x);
  const Matrix<double> exact = ggn.dense();
  const Vector<double> gradient = ggn.jacobian_transposed_product(loss.gradient(ggn.outputs(), y));
  Vector<double> expected = parameters(model);
  expected.head(16) -= 0.1 * gradient.head(16);
  Matrix<double> full = exact.block(16, 16, 4, 4);
  full.diagonal().array() += 0.2;
  expected.segment(16, 4) -= 0.1 * full.llt().solve(gradient.segment(16, 4));
  expected.tail(16).array() -=
      0.1 * gradient.tail(16).array() / (exact.diagonal().tail(16).array() + 0.2);
  REQUIRE(optimizer.step(x, y).ok());
  CHECK(relative_error(parameters(model), expected) < 1e-12);
  const std::string summary = optimizer.summary();
  for (const char* part : {"plain gradient (no block)", "full", "C 4x4", "diagonal of 16"})
    CHECK(summary.find(part) != std::string::npos);
}

}  // namespace kfac::test::user_layer_test
