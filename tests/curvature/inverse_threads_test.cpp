#include <memory>
#include <string>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/linalg/factored_inverse.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random.hpp"
#include "support/saved_state.hpp"

// What `InverseUpdates` does with threads, in numbers: it is itself tested with blocks that only
// keep a record.
namespace kfac::test::inverse_threads_test {

namespace {

using Options = PreconditionerOptions<double>;

auto network() {
  Rng rng(1);
  return Sequential{Linear<double>(4, 6, rng), Tanh<double>{}, Linear<double>(6, 5, rng),
                    Tanh<double>{}, Linear<double>(5, 3, rng)};
}
using Model = decltype(network());

/// A network, its preconditioner, and batches that depend on the step alone.
struct Run {
  static constexpr Index kExamples = 9;

  Model model = network();
  std::unique_ptr<Preconditioner<double>> preconditioner;
  Index step = 0;
  Vector<double> raw;  // the gradient of the last step, before it

  explicit Run(const Options& options,
               const BlockFactory<double>& blocks = block_factory<KroneckerBlock<double>>())
      : preconditioner(std::make_unique<Preconditioner<double>>(model, options, blocks)) {}

  /// Moves the parameters against the result if it is one.
  PreconditionerReport next() {
    Rng rng(static_cast<std::uint64_t>(100 + step));
    Labels y(kExamples);
    for (int& label : y) label = static_cast<int>(rng.below(3));
    return next(normal<double>(4, kExamples, rng), y);
  }
  PreconditionerReport next(const Matrix<double>& x, const Labels& y) {
    const SoftmaxCrossEntropy<double> loss;
    model.backward(loss.gradient(model.forward(x), y));
    raw = model.gradient();
    const PreconditionerReport report = preconditioner->step();
    if (!report.ok()) return report;
    Index offset = 0;
    for (const auto& layer : model.layers()) {
      VectorMap<double> parameters = layer.parameters;
      parameters -= 0.05 * model.gradient().segment(offset, parameters.size());
      offset += parameters.size();
    }
    ++step;
    return report;
  }
  Vector<double> gradient() { return model.gradient(); }
};

/// The gradients of some steps, one after another.
Matrix<double> gradients(const Options& options, Index steps, const BlockFactory<double>& blocks) {
  Run run(options, blocks);
  Matrix<double> all(run.model.gradient().size(), steps);
  for (Index step = 0; step < steps; ++step) {
    REQUIRE(run.next().ok());
    all.col(step) = run.gradient();
  }
  return all;
}

struct Factors {
  Matrix<double> a, g;
};

/// Of each layer, as they are now.
std::vector<Factors> factors_of(const Run& run) {
  std::vector<Factors> all;
  for (const auto& layer : run.preconditioner->layers()) {
    const auto& block = static_cast<const KroneckerBlock<double>&>(*layer->blocks()[0]);
    all.push_back({block.input_factor(), block.output_gradient_factor()});
  }
  return all;
}

/// A gradient times the damped inverses of these factors.
Vector<double> preconditioned(Vector<double> gradient, const std::vector<Factors>& factors,
                              double damping) {
  Index offset = 0;
  for (const Factors& layer : factors) {
    FactoredInverse<double> inverse;
    REQUIRE(inverse.refresh(layer.a, layer.g, damping));
    MatrixMap<double> part(gradient.data() + offset, layer.g.rows(), layer.a.rows());
    inverse.apply(part);
    offset += part.size();
  }
  REQUIRE(offset == gradient.size());
  return gradient;
}

}  // namespace

TEST_CASE("Threads: a step uses the inverse of the factors that were copied a period before") {
  const Index threads = GENERATE(1, 2, 4);
  constexpr Index kPeriod = 3;
  constexpr double kDamping = 0.03;
  Run run({.damping = kDamping,
           .factor_every = 2,
           .inverse_every = kPeriod,
           .factor_decay = 0.7,
           .asynchronous_inverses = true,
           .threads = threads});
  std::vector<std::vector<Factors>> copied;  // at each due step
  for (Index step = 0; step < 14; ++step) {
    REQUIRE(run.next().ok());
    if (step % kPeriod == 0) copied.push_back(factors_of(run));
    const std::size_t used = copied.size() < 2 ? 0 : copied.size() - 2;
    CHECK(run.gradient() == preconditioned(run.raw, copied[used], kDamping));
  }
}

TEST_CASE("Threads: runs give the same numbers each time, whatever the number of threads") {
  const auto check = [](const BlockFactory<double>& blocks, const Options& base) {
    const Matrix<double> without = gradients(base, 24, blocks);
    Options options = base;
    options.asynchronous_inverses = true;
    const Matrix<double> reference = gradients(options, 24, blocks);
    CHECK(reference != without);
    for (const Index threads : {1, 2, 3})
      for (int run = 0; run < 3; ++run) {
        options.threads = threads;
        CHECK(gradients(options, 24, blocks) == reference);
      }
  };
  const Options base{.damping = 0.03, .inverse_every = 4};
  Options staggered = base;
  staggered.stagger_inverses = true;
  Options tracked = base;
  tracked.decompose_every = 3;
  check(block_factory<KroneckerBlock<double>>(), base);
  check(block_factory<KroneckerBlock<double>>(), staggered);
  check(block_factory<KroneckerEigenBlock<double>>(), tracked);
  check(block_factory<EkfacBlock<double>>(), base);
}

TEST_CASE("Threads: used as soon as they are ready, inverses are never older than a period more") {
  constexpr Index kPeriod = 3;
  constexpr double kDamping = 0.03;
  Run run({.damping = kDamping,
           .inverse_every = kPeriod,
           .asynchronous_inverses = true,
           .deterministic = false,
           .threads = 3});
  std::vector<std::vector<Factors>> copied;
  for (Index step = 0; step < 30; ++step) {
    REQUIRE(run.next().ok());
    if (step % kPeriod == 0) copied.push_back(factors_of(run));
    // Layers may differ in which of the two they have.
    const std::size_t newest = copied.size() - 1;
    for (std::size_t layer = 0; layer < copied[0].size(); ++layer) {
      bool found = false;
      for (const std::size_t version : {newest, newest == 0 ? 0 : newest - 1}) {
        std::vector<Factors> one = copied[version];
        const Vector<double> expected = preconditioned(run.raw, one, kDamping);
        const LayerView<double>& view = run.preconditioner->layers()[layer]->layer();
        const Index offset = view.gradient.data() - run.model.gradient().data();
        found = found || view.gradient == expected.segment(offset, view.gradient.size());
      }
      CHECK(found);
    }
  }
}

TEST_CASE("Threads: what a worker cannot invert is reported, and the inverse there is stays") {
  // A is all ones, and this damping is lost in rounding.
  Run run({.damping = [](Index step) { return step == 2 ? 1e-40 : 0.1; },
           .inverse_every = 2,
           .factor_decay = 0.0,
           .asynchronous_inverses = true,
           .threads = 3});
  const Matrix<double> ones = Matrix<double>::Ones(4, 5);
  const Labels y = Labels::Zero(5);
  REQUIRE(run.next(ones, y).ok());
  const std::vector<Factors> first = factors_of(run);
  for (int step = 1; step < 4; ++step) {
    REQUIRE(run.next(ones, y).ok());
    CHECK(run.gradient() == preconditioned(run.raw, first, 0.1));
  }
  const PreconditionerReport report = run.next(ones, y);
  CHECK(report.status == StepStatus::FactorizationFailed);
  CHECK(report.layer == "0");
  CHECK(run.gradient() == run.raw);
  REQUIRE(run.next(ones, y).ok());  // the same step again: another copy is under way
  CHECK(run.gradient() == preconditioned(run.raw, first, 0.1));
  const std::vector<Factors> again = factors_of(run);
  REQUIRE(run.next(ones, y).ok());
  REQUIRE(run.next(ones, y).ok());
  CHECK(run.gradient() == preconditioned(run.raw, again, 0.1));
}

TEST_CASE("Threads: another damping at once takes the factors of now, also with work under way") {
  Run run({.damping = 0.1, .inverse_every = 3, .asynchronous_inverses = true, .threads = 3});
  for (int step = 0; step < 4; ++step) REQUIRE(run.next().ok());
  const std::vector<Factors> now = factors_of(run);
  REQUIRE(run.preconditioner->redamp(0.7));
  run.model.gradient() = run.raw;
  run.preconditioner->precondition();
  CHECK(run.gradient() == preconditioned(run.raw, now, 0.7));
  // Until the next is due; what was under way is lost.
  REQUIRE(run.next().ok());
  CHECK(run.gradient() == preconditioned(run.raw, now, 0.7));
  REQUIRE(run.next().ok());
  REQUIRE(run.next().ok());
  CHECK(run.gradient() == preconditioned(run.raw, now, 0.7));
}

TEST_CASE("Threads: where the damping ends, work under way is waited for") {
  Run run({.damping = [](Index step) { return step < 6 ? 0.1 : 0.0; },
           .inverse_every = 2,
           .asynchronous_inverses = true,
           .threads = 3});
  for (int step = 0; step < 6; ++step) REQUIRE(run.next().ok());
  // G of a softmax is singular.
  CHECK_THROWS_AS(run.next(), SingularError);
  CHECK(run.gradient() == run.raw);
}

TEST_CASE("Threads: a preconditioner can be destroyed while they are at work") {
  for (int step = 1; step < 6; ++step) {
    Run run({.inverse_every = 1, .asynchronous_inverses = true, .threads = 4});
    for (int i = 0; i < step; ++i) REQUIRE(run.next().ok());
  }
}

TEST_CASE("Threads: a run is resumed with the inverses that were under way") {
  const BlockFactory<double> blocks =
      GENERATE(as<BlockFactory<double>>{}, block_factory<KroneckerBlock<double>>(),
               block_factory<EkfacBlock<double>>());
  const Options options{
      .damping = 0.03, .inverse_every = 4, .asynchronous_inverses = true, .threads = 3};
  for (Index stop = 0; stop < 10; ++stop) {
    Run run(options, blocks);
    for (Index step = 0; step < stop; ++step) REQUIRE(run.next().ok());
    const SavedState saved(*run.preconditioner);
    Run resumed(options, blocks);
    saved.restore(*resumed.preconditioner);
    auto layers = resumed.model.layers();
    for (std::size_t i = 0; i < layers.size(); ++i)
      layers[i].parameters = run.model.layers()[i].parameters;
    resumed.step = stop;
    for (Index step = stop; step < 14; ++step) {
      REQUIRE(run.next().ok());
      REQUIRE(resumed.next().ok());
      REQUIRE(resumed.gradient() == run.gradient());
    }
  }
}

}  // namespace kfac::test::inverse_threads_test
