#include <cstddef>
#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

#include <kfac/curvature/chain_block.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/nn/gru.hpp>
#include <kfac/nn/lstm.hpp>
#include <kfac/nn/rnn.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::chain_recurrent_test {

namespace {

using Loss = SoftmaxCrossEntropy<double>;
constexpr Index kSteps = 10, kExamples = 200;
constexpr Index kInputs = 2, kClasses = 2;

/// What is in the first step is to be remembered until the last; a fifth of the labels are wrong.
struct Memory {
  Matrix<double> x;
  Labels y;
  Shape shape{kSteps, kInputs};

  explicit Memory(Rng& rng)
      : x(0.3 * random_matrix(kSteps * kInputs, kExamples, rng)), y(kExamples) {
    for (Index n = 0; n < kExamples; ++n) {
      y(n) = static_cast<int>(rng.below(2));
      x(0, n) += y(n) ? 1 : -1;
      x(1, n) += 1;
      if (rng.below(5) == 0) y(n) = 1 - y(n);
    }
  }
};

/// A layer's inputs and output gradients, kept.
struct Keeper : Observer<double> {
  Matrix<double> input, gradient;
  void on_input(const std::string&, const SharedBatch<double>& batch) override {
    input = batch.matrix();
  }
  void on_output_gradient(const std::string&, const SharedBatch<double>& batch) override {
    gradient = batch.matrix();
  }
};

/// What a layer's blocks are to be: the exact one, and that of inputs and output gradients which
/// are independent of each other, with all their moments across steps.
struct Exact {
  Matrix<double> block, independent;
};

template <class Model>
Exact exact_block(Model& model, std::size_t i, const Memory& task, const Loss& loss) {
  Keeper keeper;
  const LayerView<double> layer = model.layers()[i];
  layer.hooks->attach(keeper);
  const Index columns = layer.kronecker->columns(), outputs = layer.kronecker->outputs;
  Matrix<double> a = Matrix<double>::Zero(kSteps * columns, kSteps * columns);
  Matrix<double> g = Matrix<double>::Zero(kSteps * outputs, kSteps * outputs);
  const Matrix<double> y = model.forward(task.x, task.shape);
  for (Index v = 0; v < loss.hessian_sqrt_columns(y.rows()); ++v) {
    Matrix<double> vector(y.rows(), y.cols());
    loss.hessian_sqrt(y, v, vector);
    model.backward(vector);
    const Matrix<double> stacked = keeper.gradient.reshaped(kSteps * outputs, kExamples);
    g += stacked * stacked.transpose() / kExamples;
  }
  Matrix<double> augmented = Matrix<double>::Ones(columns, kSteps * kExamples);
  augmented.topRows(keeper.input.rows()) = keeper.input;
  const Matrix<double> stacked = augmented.reshaped(kSteps * columns, kExamples);
  a = stacked * stacked.transpose() / kExamples;

  Exact exact{diagonal_block(Ggn(model, loss, task.x, task.shape).dense(), model, i),
              Matrix<double>::Zero(outputs * columns, outputs * columns)};
  for (Index t = 0; t < kSteps; ++t)
    for (Index s = 0; s < kSteps; ++s)
      exact.independent +=
          linalg::kronecker_product<double>(a.block(t * columns, s * columns, columns, columns),
                                            g.block(t * outputs, s * outputs, outputs, outputs));
  return exact;
}

struct Errors {
  double independent_steps, symmetric, long_chain, all_moments;
};

/// Relative Frobenius errors of the blocks of a recurrent layer's i-th map.
template <class Model>
Errors errors_of(Model& model, std::size_t i, const Memory& task) {
  const Loss loss;
  const Exact exact = exact_block(model, i, task, loss);
  const auto error = [&](const BlockFactory<double>& blocks) {
    CurvatureEstimator estimator(model, loss, {.fisher = FisherType::Exact}, blocks);
    estimator.fit(task.x, task.y, {.shape = task.shape});
    const Matrix<double> dense = estimator.layers()[i]->blocks().front()->matrix()->dense();
    return relative_error(dense, exact.block);
  };
  return {error(block_factory<KroneckerBlock<double>>()),
          error(chain_blocks<double>(ChainStructure::Symmetric)),
          error(chain_blocks<double>(ChainStructure::LongSequence)),
          relative_error(exact.independent, exact.block)};
}

template <class Model>
double train(Model& model, const Memory& task, int steps) {
  const Loss loss;
  GradientOptimizer<Adam, Model, Loss> adam(model, loss, {.learning_rate = 0.02});
  double last = 0;
  for (int step = 0; step < steps; ++step) last = adam.step(task.x, task.y, task.shape).loss;
  return last;
}

}  // namespace

TEST_CASE("chain blocks are closer to the exact block of a trained recurrent network",
          "[curvature]") {
  Rng rng(1);
  const Memory task(rng);
  std::ostringstream table;
  table << "relative Frobenius errors: independent steps, symmetric, long, all moments\n";
  table << std::fixed << std::setprecision(3);
  const auto compare = [&](auto model) {
    for (const int steps : {0, 30}) {
      const double loss = train(model, task, steps);
      for (const std::size_t i : {0U, 1U}) {
        const LayerView<double> layer = model.layers()[i];
        const Errors errors = errors_of(model, i, task);
        table << std::setw(5) << model.layers()[1].kind << ' ' << layer.name << " after " << steps
              << " steps: " << errors.independent_steps << "  " << errors.symmetric << "  "
              << errors.long_chain << "  " << errors.all_moments << '\n';
        INFO(layer.kind << ' ' << layer.name << ", loss " << loss);
        if (steps == 0) continue;
        CHECK(errors.symmetric < errors.independent_steps);
        CHECK(errors.long_chain < errors.independent_steps);
        CHECK(errors.all_moments < errors.independent_steps);
      }
    }
  };
  // 106, 106 and 122 parameters.
  compare(Sequential(RNN<double>(kInputs, 8, rng, {.return_last = true}),
                     Linear<double>(8, kClasses, rng)));
  compare(Sequential(GRU<double>(kInputs, 4, rng, {.return_last = true}),
                     Linear<double>(4, kClasses, rng)));
  compare(Sequential(LSTM<double>(kInputs, 4, rng, {.return_last = true}),
                     Linear<double>(4, kClasses, rng)));
  WARN(table.str());
}

TEST_CASE("K-FAC with chain blocks trains a recurrent network with padding", "[curvature]") {
  Rng rng(2);
  const Memory task(rng);
  PositionMask mask = PositionMask::Constant(kSteps, kExamples, true);
  for (Index n = 0; n < kExamples; ++n) mask.col(n).tail(rng.below(kSteps - 1)).setConstant(false);
  const Loss loss;
  Sequential start(RNN<double>(kInputs, 6, rng, {.return_last = true}),
                   Linear<double>(6, kClasses, rng));
  start.set_mask(&mask);
  const KfacOptions<double> options{
      .learning_rate = 1, .momentum = 0, .damping = 0.1, .kl_clip = 1e-3};
  std::vector<Vector<double>> ends;
  for (const auto& blocks :
       {block_factory<KroneckerBlock<double>>(), chain_blocks<double>(ChainStructure::Symmetric),
        chain_blocks<double>(ChainStructure::LongSequence)}) {
    auto model = start;
    model.set_mask(&mask);
    KfacOptimizer optimizer(model, loss, options, blocks);
    const double before = loss.value(model.forward(task.x, task.shape), task.y);
    for (int step = 0; step < 8; ++step) REQUIRE(optimizer.step(task.x, task.y, task.shape).ok());
    const double after = loss.value(model.forward(task.x, task.shape), task.y);
    CHECK(after < before);
    ends.push_back(parameters(model));

    // A copy with its state goes on alike, whatever the padding holds.
    auto copy = model;
    copy.set_mask(&mask);
    KfacOptimizer other(copy, loss, options, blocks);
    SavedState(optimizer).restore(other);
    Matrix<double> x = task.x;
    for (Index n = 0; n < kExamples; ++n)
      for (Index t = 0; t < kSteps; ++t)
        if (!mask(t, n)) x.col(n).segment(t * kInputs, kInputs).setConstant(50);
    optimizer.step(task.x, task.y, task.shape);
    other.step(x, task.y, task.shape);
    CHECK(relative_error(parameters(copy), parameters(model)) < 1e-12);
  }
  CHECK(relative_error(ends[1], ends[0]) > 1e-3);
  CHECK(relative_error(ends[2], ends[1]) > 1e-3);
}

TEST_CASE("chain blocks of a recurrent layer feed on its steps in order", "[curvature][exact]") {
  // One unit without bias that adds up its input: h_t = tanh(x_t + u h_{t-1}) where both are small.
  Rng rng(3);
  Sequential model(RNN<double>(1, 1, rng, {.bias = false, .return_last = true}));
  const double u = 0.5;
  model.layers()[0].parameters.setOnes();
  model.layers()[1].parameters.setConstant(u);
  const MeanSquaredError<double> loss;
  const double tiny = 1e-5;  // for tanh to be the identity
  const Matrix<double> x = tiny * random_matrix(4, 6, rng);
  CurvatureEstimator estimator(model, loss, {.fisher = FisherType::Exact}, chain_blocks<double>());
  estimator.fit(x, Matrix<double>::Zero(1, 6), {.shape = {4, 1}});
  const auto& block =
      static_cast<const ChainBlock<double>&>(*estimator.layers()[1]->blocks().front());
  Matrix<double> h = Matrix<double>::Zero(4, 6);  // before each step
  for (Index t = 1; t < 4; ++t) h.row(t) = x.row(t - 1) + u * h.row(t - 1);
  const double moment = h.squaredNorm() / 24;
  const double lag = h.topRows(3).cwiseProduct(h.bottomRows(3)).sum() / 18;
  CHECK(block.moments().a(0, 0) == Approx(moment).epsilon(1e-8));
  CHECK(block.moments().a_lag(0, 0) == Approx(lag).epsilon(1e-8));
  // The gradient halves with each step back.
  const Vector<double> g{{u * u * u, u * u, u, 1.0}};
  const double scale = block.moments().g(0, 0) / g.squaredNorm();
  CHECK(block.moments().g_lag(0, 0) ==
        Approx(scale * 4.0 / 3 * g.head(3).dot(g.tail(3))).epsilon(1e-8));
}

}  // namespace kfac::test::chain_recurrent_test
