#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <kfac/curvature/two_level.hpp>

#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random_networks.hpp"
#include "support/saved_state.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::two_level_test {

namespace {

using Options = TwoLevelOptions<double>;
using Curvatures = std::vector<std::unique_ptr<LayerCurvature<double>>>;

constexpr CoarseSpace kSpaces[] = {CoarseSpace::Layer, CoarseSpace::LayerAndBias,
                                   CoarseSpace::Spectral};
constexpr CoarseForm kForms[] = {CoarseForm::Additive, CoarseForm::Deflated};

AnyModel tanh_network(Rng& rng) {
  return AnyModel({Linear<double>(3, 5, rng), Tanh<double>{}, Linear<double>(5, 4, rng),
                   Tanh<double>{}, Linear<double>(4, 2, rng, {.bias = false})});
}

AnyModel deep_linear_network(Rng& rng) {
  AnyModel model;
  append_linear(model, {3, 4, 3, 2}, rng, true);
  return model;
}

Task random_task(const AnyModel& model, Index examples, Rng& rng) {
  const AnyLoss loss = all_losses({})[static_cast<std::size_t>(rng.below(3))];
  return Task(model, loss, Shape{3}, examples, rng);
}

Matrix<double> exact(AnyModel& model, const Task& task) {
  return Ggn<AnyModel, AnyLoss>(model, task.loss, task.x, task.shape).dense();
}

bool update(TwoLevel<double>& two_level, AnyModel& model, const Task& task) {
  model.forward(task.x, task.shape);
  return two_level.update(model, task.loss);
}

Matrix<double> damped(Matrix<double> matrix, double damping) {
  matrix.diagonal().array() += damping;
  return matrix;
}

/// A symmetric positive definite matrix.
Matrix<double> random_inverse(Index size, Rng& rng) {
  return with_spectrum(3 * decaying(size, 1e3), rng);
}

/// The preconditioner as a matrix, where M^-1 is the given one.
Matrix<double> dense(TwoLevel<double>& two_level, double damping, const Matrix<double>& inverse) {
  Matrix<double> result = Matrix<double>::Identity(inverse.rows(), inverse.cols());
  for (Index j = 0; j < result.cols(); ++j)
    REQUIRE(two_level.precondition(damping, result.col(j),
                                   [&](VectorRef<double> v) { v = (inverse * v).eval(); }));
  return result;
}

/// The same by its definition.
Matrix<double> by_hand(CoarseForm form, const Matrix<double>& z, const Matrix<double>& c,
                       double damping, const Matrix<double>& inverse) {
  const Matrix<double> curved = damped(c, damping);
  const Matrix<double> e = z.transpose() * curved * z;
  const Matrix<double> q = z * e.inverse() * z.transpose();
  if (form == CoarseForm::Additive) return inverse + q;
  const Matrix<double> p = Matrix<double>::Identity(c.rows(), c.cols()) - curved * q;
  return p.transpose() * inverse * p + q;
}

}  // namespace

TEST_CASE("TwoLevel: the coarse matrix is Z^T C Z of the exact GGN, for linear and other nets") {
  for_each_random_task([](AnyModel& model, const Task& task, const auto&, const Samples&) {
    const Matrix<double> c = exact(model, task);
    for (const CoarseSpace space : kSpaces)
      for (const CoarseForm form : kForms) {
        TwoLevel<double> two_level(model.layers(), {}, {.space = space, .form = form});
        REQUIRE(update(two_level, model, task));
        const Matrix<double> z = two_level.basis().dense();
        const Matrix<double> expected = z.transpose() * c * z;
        CHECK((two_level.matrix() - expected).norm() <= 1e-12 * c.norm());
        CHECK(two_level.matrix() == two_level.matrix().transpose());
      }
  });
  Rng rng(1);
  AnyModel model = deep_linear_network(rng);
  for (const AnyLoss& loss : all_losses({.reduction = Reduction::Sum})) {
    const Task task(model, loss, Shape{3}, 7, rng);
    TwoLevel<double> two_level(model.layers(), {}, {.space = CoarseSpace::LayerAndBias});
    REQUIRE(update(two_level, model, task));
    REQUIRE(two_level.basis().size() == 6);
    const Matrix<double> z = two_level.basis().dense();
    CHECK(relative_error(two_level.matrix(), z.transpose() * exact(model, task) * z) < 1e-13);
  }
}

TEST_CASE("TwoLevel: the matrix is the running average over batches, every entry of it once") {
  Rng rng(2);
  AnyModel model = tanh_network(rng);
  constexpr double kDecay = 0.7;
  for (const CoarseForm form : kForms) {
    TwoLevel<double> two_level(model.layers(), {},
                               {.space = CoarseSpace::LayerAndBias, .form = form, .decay = kDecay});
    const Matrix<double> z = two_level.basis().dense();
    Matrix<double> average = Matrix<double>::Zero(z.cols(), z.cols());
    for (Index k = 1; k <= 10; ++k) {
      const Task task = random_task(model, 1 + rng.below(9), rng);
      const double keep = std::min(1 - 1 / static_cast<double>(k), kDecay);
      average = (keep * average + (1 - keep) * z.transpose() * exact(model, task) * z).eval();
      REQUIRE(update(two_level, model, task));
      CHECK(two_level.updates() == k);
      CHECK(relative_error(two_level.matrix(), average) < 1e-13);
      CHECK(two_level.matrix() == two_level.matrix().transpose());
    }
  }
}

TEST_CASE("TwoLevel: the operator is the one of its definition, symmetric and positive definite") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    AnyModel model = seed % 2 == 0 ? tanh_network(rng) : deep_linear_network(rng);
    const Matrix<double> inverse = random_inverse(model.parameter_count(), rng);
    for (const CoarseSpace space : kSpaces)
      for (const CoarseForm form : kForms) {
        const double damping = std::pow(10.0, -static_cast<double>(rng.below(4)));
        TwoLevel<double> two_level(model.layers(), {}, {.space = space, .form = form});
        Matrix<double> c = Matrix<double>::Zero(inverse.rows(), inverse.cols());
        for (Index k = 1; k <= 3; ++k) {
          const Task task = random_task(model, 4, rng);
          c += (exact(model, task) - c) / static_cast<double>(k);
          REQUIRE(update(two_level, model, task));
        }
        const Matrix<double> actual = dense(two_level, damping, inverse);
        const Matrix<double> z = two_level.basis().dense();
        CHECK(relative_error(actual, by_hand(form, z, c, damping, inverse)) < 1e-11);
        CHECK(relative_error(actual, actual.transpose()) < 1e-11);
        const Matrix<double> symmetric = (actual + actual.transpose()) / 2;
        CHECK(Eigen::LLT<Matrix<double>>(symmetric).info() == Eigen::Success);
        CHECK(relative_error(actual, inverse) > 1e-6);
      }
  }
}

TEST_CASE("TwoLevel: deflated, it is exact on the coarse space both ways, and additive it is not") {
  Rng rng(3);
  AnyModel model = tanh_network(rng);
  const Task task = random_task(model, 6, rng);
  const double damping = 0.03;
  const Matrix<double> curved = damped(exact(model, task), damping);
  const Matrix<double> inverse = random_inverse(curved.rows(), rng);
  for (const CoarseSpace space : kSpaces)
    for (const CoarseForm form : kForms) {
      TwoLevel<double> two_level(model.layers(), {}, {.space = space, .form = form});
      REQUIRE(update(two_level, model, task));
      const Matrix<double> all = dense(two_level, damping, inverse);
      const Matrix<double> z = two_level.basis().dense();
      const double right = relative_error(all * (curved * z), z);
      const double left = relative_error(z.transpose() * curved * all, z.transpose());
      if (form == CoarseForm::Deflated) {
        CHECK(right < 1e-11);
        CHECK(left < 1e-11);
      } else {
        CHECK(right > 0.01);
        CHECK(left > 0.01);
      }
    }
}

TEST_CASE("TwoLevel: the spectral space is that of the leading eigenvectors of the blocks") {
  Rng rng(4);
  AnyModel model(
      {Unflatten<double>({2, 2, 2}),
       Conv2d<double>({.in_channels = 2, .out_channels = 4, .kernel_size = {2, 1}, .groups = 2},
                      rng),
       Flatten<double>{}, Tanh<double>{}, Linear<double>(8, 3, rng)});
  const Task task(model, SoftmaxCrossEntropy<double>(), Shape{8}, 9, rng);
  const auto estimator = fitted(model, task, {}, block_factory<KroneckerBlock<double>>());
  TwoLevel<double> two_level(model.layers(), estimator->layers(),
                             {.space = CoarseSpace::Spectral, .vectors = 2, .iterations = 400});
  REQUIRE(two_level.basis().size() == 4);
  two_level.refresh_space();
  const Matrix<double> z = two_level.basis().dense();
  const Blocks blocks = dense_blocks(*estimator);
  REQUIRE(blocks.size() == 3);
  Matrix<double> groups = Matrix<double>::Zero(12, 12);
  groups.topLeftCorner(6, 6) = blocks[0];
  groups.bottomRightCorner(6, 6) = blocks[1];
  Index offset = 0;
  for (const Matrix<double>& block : {groups, blocks[2]}) {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(block);
    const Matrix<double> leading = solver.eigenvectors().rightCols(2);
    const Matrix<double> found = z.block(offset, offset == 0 ? 0 : 2, block.rows(), 2);
    CHECK(relative_error(found * found.transpose(), leading * leading.transpose()) < 1e-9);
    offset += block.rows();
  }
}

TEST_CASE("TwoLevel: in the spectral space, averages start anew with other vectors") {
  Rng rng(5);
  AnyModel model = tanh_network(rng);
  const Task first = random_task(model, 6, rng), second = random_task(model, 6, rng);
  const auto estimator = fitted(model, first, {}, block_factory<KroneckerBlock<double>>());
  for (const CoarseForm form : kForms) {
    TwoLevel<double> two_level(model.layers(), estimator->layers(),
                               {.space = CoarseSpace::Spectral, .form = form});
    REQUIRE(update(two_level, model, first));
    two_level.refresh_space();
    CHECK(two_level.updates() == 0);
    Vector<double> v = normal<double>(model.parameter_count(), 1, rng);
    const Vector<double> twice = 2 * v;
    CHECK_FALSE(two_level.precondition(0.1, v, [](VectorRef<double> g) { g *= 2; }));
    CHECK(v == twice);
    REQUIRE(update(two_level, model, second));
    const Matrix<double> z = two_level.basis().dense(), c = exact(model, second);
    CHECK(relative_error(two_level.matrix(), z.transpose() * c * z) < 1e-13);
    const Matrix<double> inverse = random_inverse(c.rows(), rng);
    CHECK(relative_error(dense(two_level, 0.1, inverse), by_hand(form, z, c, 0.1, inverse)) <
          1e-11);
  }
  // The others have nothing to refresh.
  TwoLevel<double> two_level(model.layers(), estimator->layers(), {.space = CoarseSpace::Layer});
  REQUIRE(update(two_level, model, first));
  const Matrix<double> z = two_level.basis().dense();
  two_level.refresh_space();
  CHECK(two_level.updates() == 1);
  CHECK(two_level.basis().dense() == z);
}

TEST_CASE("TwoLevel: every option changes the result") {
  Rng rng(6);
  AnyModel model = tanh_network(rng);
  const Task first = random_task(model, 6, rng), second = random_task(model, 6, rng);
  const auto estimator = fitted(model, first, {}, block_factory<KroneckerBlock<double>>());
  const Matrix<double> inverse = random_inverse(model.parameter_count(), rng);
  std::vector<Matrix<double>> results;
  for (const Options& options : {
           Options{.space = CoarseSpace::Layer},
           Options{.space = CoarseSpace::Layer, .form = CoarseForm::Deflated},
           Options{.space = CoarseSpace::Layer, .decay = 0},
           Options{.space = CoarseSpace::LayerAndBias},
           Options{.space = CoarseSpace::Spectral},
           Options{.space = CoarseSpace::Spectral, .vectors = 2},
           Options{.space = CoarseSpace::Spectral, .iterations = 1},
       }) {
    TwoLevel<double> two_level(model.layers(), estimator->layers(), options);
    two_level.refresh_space();
    REQUIRE(update(two_level, model, first));
    REQUIRE(update(two_level, model, second));
    results.push_back(dense(two_level, 0.1, inverse));
    for (std::size_t i = 0; i + 1 < results.size(); ++i)
      CHECK(relative_error(results[i], results.back()) > 1e-4);
  }
  TwoLevel<double> none(model.layers(), estimator->layers(), {});
  CHECK(update(none, model, first));
  Vector<double> v = inverse.col(0);
  CHECK_FALSE(none.precondition(0.1, v, [](VectorRef<double>) {}));
  CHECK(v == inverse.col(0));
}

TEST_CASE("TwoLevel: an update leaves the model's gradient and observers alone") {
  Rng rng(7);
  AnyModel model = tanh_network(rng);
  const Task task = random_task(model, 6, rng);
  struct Counter : Observer<double> {
    int heard = 0;
    void on_output_gradient(const std::string&, const SharedBatch<double>&) override { ++heard; }
  } counter;
  const Matrix<double> outputs = model.forward(task.x);
  Matrix<double> gradient(outputs.rows(), outputs.cols());
  task.loss.gradient(outputs, task.y, gradient);
  model.backward(gradient);
  const Vector<double> before = model.gradient();
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(counter);
  for (const CoarseForm form : kForms) {
    TwoLevel<double> two_level(model.layers(), {}, {.space = CoarseSpace::Layer, .form = form});
    REQUIRE(two_level.update(model, task.loss));
    CHECK(model.gradient() == before);
    CHECK(counter.heard == 0);
    // The forward pass is still there.
    model.backward(gradient);
    CHECK(model.gradient() == before);
    CHECK(std::exchange(counter.heard, 0) == 3);
  }
}

TEST_CASE("TwoLevel: curvature that is not finite changes nothing, and a singular E corrects not") {
  Rng rng(8);
  AnyModel model;
  append_linear(model, {2, 2, 2}, rng, false);
  model.layers()[0].parameters.setConstant(1e160);
  model.layers()[1].parameters.setConstant(1e-160);
  const Task task(model, MeanSquaredError<double>(), Shape{2}, 3, rng);
  for (const CoarseForm form : kForms) {
    TwoLevel<double> two_level(model.layers(), {}, {.space = CoarseSpace::Layer, .form = form});
    const Matrix<double> zeros = Matrix<double>::Zero(2, 2);
    model.forward(zeros);
    REQUIRE(two_level.update(model, task.loss));
    REQUIRE(two_level.matrix() == zeros);
    model.forward(task.x.cwiseAbs());
    CHECK_FALSE(two_level.update(model, task.loss));
    CHECK(two_level.matrix() == zeros);
    CHECK(two_level.updates() == 1);

    Vector<double> v = normal<double>(8, 1, rng);
    const Vector<double> twice = 2 * v;
    CHECK_FALSE(two_level.precondition(0, v, [](VectorRef<double> g) { g *= 2; }));
    CHECK(v == twice);
    CHECK(two_level.precondition(0.5, v, [](VectorRef<double> g) { g *= 2; }));
    CHECK(v.allFinite());
  }
}

TEST_CASE("TwoLevel: what rounding makes of a singular E is not taken for regular") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    // Two factors of one number: E is of rank 1, and Z the identity.
    Rng rng(seed);
    AnyModel model;
    append_linear(model, {1, 1, 1}, rng, false);
    const Task task(model, MeanSquaredError<double>(), Shape{1}, 3, rng);
    TwoLevel<double> two_level(model.layers(), {}, {.space = CoarseSpace::Layer});
    REQUIRE(update(two_level, model, task));
    Vector<double> v = Vector<double>::Ones(2);
    CHECK_FALSE(two_level.precondition(0, v, [](VectorRef<double>) {}));
    CHECK(v == Vector<double>::Ones(2));
    CHECK(two_level.precondition(1e-6 * two_level.matrix().trace(), v, [](VectorRef<double>) {}));
  }
}

TEST_CASE("TwoLevel: what is saved and restored goes on as it would have") {
  Rng rng(9);
  AnyModel model = tanh_network(rng);
  const Task first = random_task(model, 6, rng), second = random_task(model, 6, rng);
  const auto estimator = fitted(model, first, {}, block_factory<KroneckerBlock<double>>());
  const Matrix<double> inverse = random_inverse(model.parameter_count(), rng);
  for (const CoarseSpace space : kSpaces)
    for (const CoarseForm form : kForms) {
      const Options options{.space = space, .form = form, .vectors = 2};
      TwoLevel<double> one(model.layers(), estimator->layers(), options);
      TwoLevel<double> other(model.layers(), estimator->layers(), options);
      one.refresh_space();
      REQUIRE(update(one, model, first));
      SavedState(one).restore(other);
      CHECK(SavedState(other) == SavedState(one));
      REQUIRE(update(one, model, second));
      REQUIRE(update(other, model, second));
      CHECK(dense(one, 0.1, inverse) == dense(other, 0.1, inverse));
    }
}

TEST_CASE("TwoLevel: in single precision, with layers that have no parameters or no curvature") {
  Rng rng(10);
  DynamicSequential<float> model(
      {Linear<float>(3, 4, rng), Tanh<float>{}, Linear<float>(4, 2, rng)});
  const SoftmaxCrossEntropy<float> loss;
  Matrix<float> x(3, 8);
  rng.fill_normal(x);
  for (const CoarseSpace space : kSpaces) {
    TwoLevel<float> two_level(model.layers(), {}, {.space = space, .form = CoarseForm::Deflated});
    model.forward(x);
    REQUIRE(two_level.update(model, loss));
    const Matrix<float> z = two_level.basis().dense();
    const Ggn ggn(model, loss, x);
    Matrix<float> c = ggn.dense();
    CHECK(relative_error(two_level.matrix().cast<float>(), z.transpose() * c * z) < 1e-5);
    c.diagonal().array() += 0.01F;
    Matrix<float> solved = c * z;
    for (Index j = 0; j < z.cols(); ++j)
      REQUIRE(two_level.precondition(0.01F, solved.col(j), [](VectorRef<float> g) { g *= 7; }));
    CHECK(relative_error(solved, z) < 1e-4);
  }
}

TEST_CASE("TwoLevel: what it is given is checked") {
  Rng rng(11);
  AnyModel model = tanh_network(rng);
  const auto of_options = [&](const Options& options) {
    return message_of<OptionError>([&] { TwoLevel<double>(model.layers(), {}, options); });
  };
  CHECK(of_options({.vectors = 0}) == "kfac::TwoLevel: 'vectors' is 0, expected >= 1");
  CHECK(of_options({.iterations = 0}) == "kfac::TwoLevel: 'iterations' is 0, expected >= 1");
  CHECK(of_options({.decay = 1}) == "kfac::TwoLevel: 'decay' is 1, expected in [0, 1)");
  CHECK(of_options({.decay = -0.5}) == "kfac::TwoLevel: 'decay' is -0.5, expected in [0, 1)");

  TwoLevel<double> two_level(model.layers(), {}, {.space = CoarseSpace::Layer});
  const Task task = random_task(model, 3, rng);
  CHECK_THROWS_AS(two_level.update(model, task.loss), StateError);
  CHECK(two_level.updates() == 0);
  Vector<double> v = Vector<double>::Ones(model.parameter_count());
  const auto precondition = [&](double damping, VectorRef<double> gradient) {
    two_level.precondition(damping, gradient, [](VectorRef<double> g) { g.setZero(); });
  };
  CHECK(message_of<ShapeError>([&] { precondition(0.1, v.head(5)); }) ==
        "kfac::TwoLevel::precondition: 'gradient' has 5 entries, expected 52");
  CHECK(message_of<OptionError>([&] { precondition(-1, v); }) ==
        "kfac::TwoLevel::precondition: 'damping' is -1, expected >= 0 and finite");
  CHECK(message_of<OptionError>([&] {
          precondition(std::numeric_limits<double>::quiet_NaN(), v);
        }) == "kfac::TwoLevel::precondition: 'damping' is nan, expected >= 0 and finite");
  CHECK(v == Vector<double>::Ones(v.size()));
}

}  // namespace kfac::test::two_level_test
