#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"

namespace kfac::test::preconditioner_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 3, rng)};
}

/// Keeps copies of what a layer announced last.
struct Recorder : Observer<double> {
  Matrix<double> input, gradient;
  void on_input(const std::string&, const SharedBatch<double>& batch) override {
    input = batch.matrix();
  }
  void on_output_gradient(const std::string&, const SharedBatch<double>& batch) override {
    gradient = batch.matrix();
  }
};

Matrix<double> with_ones(const Matrix<double>& x) {
  Matrix<double> result(x.rows() + 1, x.cols());
  result << x, Matrix<double>::Ones(1, x.cols());
  return result;
}

template <class Model>
void backward(Model& model, const Matrix<double>& x, const Labels& y) {
  const SoftmaxCrossEntropy<double> loss;
  model.backward(loss.gradient(model.forward(x), y));
}

}  // namespace

TEST_CASE("Preconditioner: a step multiplies each layer's gradient with its damped inverse") {
  Rng rng(1);
  auto model = network(rng);
  Preconditioner preconditioner(model, {.damping = 0.05, .inverse_every = 1});
  Recorder first, last;
  model.layers()[0].hooks->attach(first);
  model.layers()[2].hooks->attach(last);
  const Matrix<double> x = random_matrix(4, 7, rng);
  const Labels y = random_labels(3, 7, rng);
  backward(model, x, y);
  const Vector<double> raw = model.gradient();
  REQUIRE(preconditioner.step().ok());

  Index offset = 0;
  for (const Recorder* layer : {&first, &last}) {
    const Matrix<double> a = with_ones(layer->input) * with_ones(layer->input).transpose() / 7;
    const Matrix<double> g = 7 * layer->gradient * layer->gradient.transpose();
    const double pi = std::sqrt((a.trace() / static_cast<double>(a.rows())) /
                                (g.trace() / static_cast<double>(g.rows())));
    const double root = std::sqrt(0.05);
    const Matrix<double> v = raw.segment(offset, g.rows() * a.rows()).reshaped(g.rows(), a.rows());
    const Matrix<double> damped_a = a + pi * root * Matrix<double>::Identity(a.rows(), a.rows());
    const Matrix<double> damped_g = g + root / pi * Matrix<double>::Identity(g.rows(), g.rows());
    const Matrix<double> expected =
        damped_a.llt().solve(damped_g.llt().solve(v).transpose()).transpose();
    const Matrix<double> actual =
        model.gradient().segment(offset, v.size()).reshaped(v.rows(), v.cols());
    CHECK(relative_error(actual, expected) < 1e-10);
    offset += v.size();
  }
}

TEST_CASE("Preconditioner: a step before any backward pass, or a second one, is a StateError") {
  Rng rng(2);
  auto model = network(rng);
  Preconditioner preconditioner(model);
  const Matrix<double> x = random_matrix(4, 7, rng);
  const Labels y = random_labels(3, 7, rng);
  CHECK_THROWS_MATCHES(
      preconditioner.step(), StateError,
      Catch::Matchers::Message("kfac::Preconditioner::step: no backward pass since the last step, "
                               "expected one (layer '0')"));
  model.forward(x);
  CHECK_THROWS_AS(preconditioner.step(), StateError);
  backward(model, x, y);
  REQUIRE(preconditioner.step().ok());
  const Vector<double> gradient = model.gradient();
  CHECK_THROWS_AS(preconditioner.step(), StateError);
  CHECK(model.gradient() == gradient);
}

TEST_CASE("Preconditioner: forward passes that are not followed back do not count") {
  Rng rng(3);
  auto model = network(rng);
  auto twin = model;
  Preconditioner preconditioner(model, {});
  Preconditioner undisturbed(twin, {});
  const Matrix<double> x = random_matrix(4, 7, rng);
  const Labels y = random_labels(3, 7, rng);
  model.forward(random_matrix(4, 9, rng));
  backward(model, x, y);
  backward(twin, x, y);
  REQUIRE(preconditioner.step().ok());
  REQUIRE(undisturbed.step().ok());
  CHECK(model.gradient() == twin.gradient());
}

TEST_CASE("Preconditioner: factors and inverses are updated when they are due, and only then") {
  Rng rng(4);
  auto model = network(rng);
  Preconditioner preconditioner(model, {.damping = 0.1, .factor_every = 2, .inverse_every = 3});
  const KroneckerBlock<double>& block = block_of(*preconditioner.layers()[0]);
  Matrix<double> factor = block.input_factor();
  Matrix<double> probe;
  for (int step = 0; step < 7; ++step) {
    backward(model, random_matrix(4, 7, rng), random_labels(3, 7, rng));
    REQUIRE(preconditioner.step().ok());
    CHECK((block.input_factor() != factor) == (step % 2 == 0));
    factor = block.input_factor();
    Matrix<double> image = Matrix<double>::Ones(5, 5);
    preconditioner.layers()[0]->blocks()[0]->precondition(image);
    if (step > 0) CHECK((image != probe) == (step % 3 == 0));
    probe = image;
  }
}

TEST_CASE("Preconditioner: every option changes the result") {
  const auto result = [](PreconditionerOptions<double> options) {
    Rng rng(5);
    auto model = network(rng);
    Preconditioner preconditioner(model, options);
    for (int step = 0; step < 4; ++step) {
      backward(model, random_matrix(4, 7, rng), random_labels(3, 7, rng));
      REQUIRE(preconditioner.step().ok());
    }
    return Vector<double>(model.gradient());
  };
  const PreconditionerOptions<double> base{.damping = 0.1, .inverse_every = 1};
  const Vector<double> reference = result(base);
  CHECK(result(base) == reference);
  const auto changed = [&](auto change) {
    PreconditionerOptions<double> options = base;
    change(options);
    return relative_error(result(options), reference);
  };
  CHECK(changed([](auto& o) { o.damping = 0.2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.pi = FactorBalance::None; }) > 1e-3);
  CHECK(changed([](auto& o) { o.factor_every = 2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.inverse_every = 2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.factor_decay = 0.1; }) > 1e-3);
  CHECK(changed([](auto& o) { o.gradient_scale.reduction = Reduction::Sum; }) > 1e-3);
  CHECK(changed([](auto& o) { o.gradient_scale.weight = 2; }) > 1e-3);
}

TEST_CASE("Preconditioner: more damping shortens the step, and takes effect at the next inverse") {
  Rng rng(6);
  auto model = network(rng);
  Preconditioner preconditioner(model, {.damping = 0.01, .inverse_every = 2});
  const Matrix<double> x = random_matrix(4, 7, rng);
  const Labels y = random_labels(3, 7, rng);
  std::vector<double> norms;
  for (int step = 0; step < 3; ++step) {
    backward(model, x, y);
    REQUIRE(preconditioner.step().ok());
    norms.push_back(model.gradient().norm());
    preconditioner.set_damping(10.0);
  }
  CHECK(std::abs(norms[1] - norms[0]) < 1e-6 * norms[0]);
  CHECK(norms[2] < 0.1 * norms[1]);
  CHECK_THROWS_AS(preconditioner.set_damping(-1.0), OptionError);
}

TEST_CASE("Preconditioner: gradients that are not finite are a status and change nothing") {
  Rng rng(7);
  auto model = network(rng);
  auto twin = model;
  Preconditioner preconditioner(model, {.inverse_every = 1});
  Preconditioner undisturbed(twin, {.inverse_every = 1});
  const Matrix<double> x = random_matrix(4, 7, rng);
  const Labels y = random_labels(3, 7, rng);
  Matrix<double> bad = Matrix<double>::Ones(3, 7);
  bad(2, 3) = std::numeric_limits<double>::quiet_NaN();
  model.forward(x);
  model.backward(bad);
  CHECK(preconditioner.step().status == StepStatus::NonFiniteGradient);
  backward(model, x, y);
  backward(twin, x, y);
  REQUIRE(preconditioner.step().ok());
  REQUIRE(undisturbed.step().ok());
  CHECK(model.gradient() == twin.gradient());
}

TEST_CASE("Preconditioner: without damping a singular factor throws and leaves all as it was") {
  Rng rng(8);
  auto model = network(rng);
  Preconditioner preconditioner(model, {.damping = 0.0, .inverse_every = 1});
  const KroneckerBlock<double>& block = block_of(*preconditioner.layers()[0]);
  const Matrix<double> before = block.input_factor();
  backward(model, random_matrix(4, 2, rng), random_labels(3, 2, rng));
  const Vector<double> gradient = model.gradient();
  CHECK_THROWS_AS(preconditioner.step(), SingularError);
  CHECK(model.gradient() == gradient);
  CHECK(block.input_factor() == before);
  CHECK(block.input_factor().isZero());
  CHECK_FALSE(block.has_inverse());
}

TEST_CASE("Preconditioner: a layer that announces nothing keeps its plain gradient") {
  Rng rng(9);
  struct Scale {  // y = s x, one parameter, without curvature
    using Scalar = double;
    struct Scratch {};
    Vector<double> s = Vector<double>::Constant(1, 1.5);
    Shape output_shape(const Shape& shape) const { return shape; }
    Index parameter_count() const { return 1; }
    VectorMap<double> parameters() { return {s.data(), 1}; }
    void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&,
                 const Mode&) const {
      y.values = s(0) * x.values;
    }
    void backward(const ConstBatchView<double>& x, const ConstBatchView<double>&,
                  const ConstBatchView<double>& g, BatchView<double>* dx, VectorMap<double>* ds,
                  Scratch&, const Mode&) const {
      if (dx) dx->values = s(0) * g.values;
      if (ds) (*ds)(0) = x.values.cwiseProduct(g.values).sum();
    }
    void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>&,
                 const ConstBatchView<double>* dx, const ConstVectorMap<double>* ds,
                 BatchView<double> dy, Scratch&) const {
      dy.values.setZero();
      if (dx) dy.values += s(0) * dx->values;
      if (ds) dy.values += (*ds)(0) * x.values;
    }
  };
  Sequential model{Linear<double>(4, 3, rng), Scale{}};
  Preconditioner preconditioner(model, {});
  CHECK(preconditioner.layers().size() == 1);
  backward(model, random_matrix(4, 7, rng), random_labels(3, 7, rng));
  const Vector<double> raw = model.gradient();
  REQUIRE(preconditioner.step().ok());
  CHECK(model.gradient()(15) == raw(15));
  CHECK(relative_error(model.gradient().head(15), raw.head(15)) > 1e-3);
}

TEST_CASE("Preconditioner: the decay of the factors may follow a schedule") {
  Rng rng(12);
  auto model = network(rng);
  const auto decay = [](Index step) { return 0.9 - 0.2 * static_cast<double>(step); };
  Preconditioner preconditioner(model, {.factor_decay = decay});
  const KroneckerBlock<double>& block = block_of(*preconditioner.layers()[0]);
  Matrix<double> expected;
  for (int step = 0; step < 4; ++step) {
    const Matrix<double> x = random_matrix(4, 7, rng);
    backward(model, x, random_labels(3, 7, rng));
    REQUIRE(preconditioner.step().ok());
    const Matrix<double> fresh = with_ones(x) * with_ones(x).transpose() / 7;
    const double keep = std::min(1 - 1 / (step + 1.0), decay(step));
    if (step == 0)
      expected = fresh;
    else
      expected = (keep * expected + (1 - keep) * fresh).eval();
    CHECK(relative_error(block.input_factor(), expected) < 1e-12);
  }
}

TEST_CASE("Preconditioner: a fraction of the batch gives the factors of its first examples") {
  Rng rng(13);
  auto model = network(rng);
  auto twin = model;
  const Matrix<double> x = random_matrix(4, 9, rng);
  const Labels y = random_labels(3, 9, rng);
  const SoftmaxCrossEntropy<double> loss;
  const auto check = [](Preconditioner<double>& actual, Preconditioner<double>& expected) {
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& some = block_of(*actual.layers()[i]);
      const auto& all = block_of(*expected.layers()[i]);
      CHECK(relative_error(some.input_factor(), all.input_factor()) < 1e-12);
      CHECK(relative_error(some.output_gradient_factor(), all.output_gradient_factor()) < 1e-12);
    }
  };
  SECTION("of gradients that come by") {
    Preconditioner some(model, {.factor_fraction = 0.4}), all(twin, {});
    backward(model, x, y);
    backward(twin, x.leftCols(4), y.head(4));  // 3.6, rounded up
    const Vector<double> raw = model.gradient();
    REQUIRE(some.step().ok());
    REQUIRE(all.step().ok());
    check(some, all);
    // The gradient is that of the whole batch.
    Vector<double> expected = raw;
    Index offset = 0;
    for (const auto& layer : all.layers()) {
      const auto& block = block_of(*layer);
      MatrixMap<double> part(expected.data() + offset, block.outputs(), block.columns());
      layer->blocks()[0]->precondition(part);
      offset += part.size();
    }
    CHECK(relative_error(model.gradient(), expected) < 1e-12);
  }
  SECTION("of every Fisher") {
    for (const FisherType fisher :
         {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical,
          FisherType::CurvaturePropagation, FisherType::ForwardOnly}) {
      CAPTURE(static_cast<int>(fisher));
      auto some_model = model, all_model = model;
      KfacOptimizer some(some_model, loss, {.factor_fraction = 0.4, .fisher = fisher});
      KfacOptimizer all(all_model, loss, {.fisher = fisher});
      const StepReport<double>& report = some.step(x, y);
      REQUIRE(report.ok());
      REQUIRE(all.step(x.leftCols(4), y.head(4)).ok());
      check(some.preconditioner(), all.preconditioner());
      CHECK(std::abs(report.loss - loss.value(Matrix<double>(model.forward(x)), y)) < 1e-12);
    }
  }
  SECTION("out of range") {
    CHECK_THROWS_MATCHES(Preconditioner(model, {.factor_fraction = 0}), OptionError,
                         Catch::Matchers::Message("kfac::Preconditioner: 'factor_fraction' is 0, "
                                                  "expected in (0, 1]"));
    CHECK_THROWS_AS(Preconditioner(model, {.factor_fraction = 1.01}), OptionError);
  }
}

TEST_CASE("Preconditioner: EKFAC's second moments have a period of their own") {
  Rng rng(14);
  auto model = network(rng);
  constexpr double kDecay = 0.6;
  Preconditioner preconditioner(
      model, {.factor_every = 4, .inverse_every = 4, .moments_every = 2, .factor_decay = kDecay},
      block_factory<EkfacBlock<double>>());
  const auto& block = block_of<EkfacBlock<double>>(*preconditioner.layers()[0]);
  Recorder first;
  model.layers()[0].hooks->attach(first);
  Matrix<double> a = block.input_factor(), moments;
  Index moment_updates = 0;
  for (int step = 0; step < 12; ++step) {
    // The basis in use while this step's moments are taken.
    linalg::KroneckerEigen<double> eigen;
    if (step > 0) {
      const auto matrix = block.matrix(0.0);
      eigen = static_cast<const SpectralMatrix<double>&>(*matrix).eigen();
    }
    const Matrix<double> x = random_matrix(4, 7, rng);
    backward(model, x, random_labels(3, 7, rng));
    REQUIRE(preconditioner.step().ok());
    CHECK((block.input_factor() != a) == (step % 4 == 0));
    a = block.input_factor();
    Matrix<double> expected_grid;
    if (step > 0 && step % 2 == 0) {
      const Matrix<double> fresh = 7 * eigen.second_moments(with_ones(first.input), first.gradient);
      const double keep = std::min(1 - 1 / static_cast<double>(++moment_updates), kDecay);
      if (moment_updates == 1)
        moments = fresh;
      else
        moments = (keep * moments + (1 - keep) * fresh).eval();
      expected_grid = moments;
    } else if (step > 0) {
      expected_grid = eigen.grid();
    }
    if (step % 4 == 0) {  // a new basis, with the factors' own eigenvalues
      const Matrix<double> kronecker = dense(block);
      CHECK(relative_error(block.matrix(0.0)->dense(), kronecker) < 1e-10);
      moment_updates = 0;
      continue;
    }
    const auto matrix = block.matrix(0.0);
    const auto& now = static_cast<const SpectralMatrix<double>&>(*matrix).eigen();
    CHECK(relative_error(now.grid(), expected_grid) < 1e-10);
  }
}

TEST_CASE("Preconditioner: options out of range are named") {
  Rng rng(11);
  auto model = network(rng);
  using Options = PreconditionerOptions<double>;
  const auto make = [&](Options options) { Preconditioner preconditioner(model, options); };
  CHECK_THROWS_MATCHES(make({.damping = -1}), OptionError,
                       Catch::Matchers::Message("kfac::Preconditioner: 'damping' is -1, "
                                                "expected >= 0 and finite"));
  CHECK_THROWS_AS(make({.factor_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.inverse_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.moments_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.decompose_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.threads = -1}), OptionError);
  CHECK_THROWS_AS(make({.factor_decay = 1}), OptionError);
  CHECK_THROWS_AS(make({.gradient_scale = {.weight = -1}}), OptionError);
}

}  // namespace kfac::test::preconditioner_test
