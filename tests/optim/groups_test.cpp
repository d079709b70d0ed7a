#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::groups_test {

namespace {

using Options = KfacOptions<double>;
using Group = LayerGroup<double>;
using testing::relative_error;

/// y = s x, one parameter, without Kronecker structure: the gradients of examples are to be had.
struct Scale {
  using Scalar = double;
  struct Scratch {};
  Vector<double> s = Vector<double>::Constant(1, 1.5);
  Shape output_shape(const Shape& shape) const { return shape; }
  Index parameter_count() const { return 1; }
  VectorMap<double> parameters() { return {s.data(), 1}; }
  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&, const Mode&) const {
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

auto network() {
  Rng rng(1);
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 3, rng), Scale{},
                    Linear<double>(3, 2, rng, {.bias = false})};
}
using Model = decltype(network());
using Loss = SoftmaxCrossEntropy<double>;
using Optimizer = KfacOptimizer<Model, Loss>;
const std::vector<std::string> kNames{"0", "2", "3", "4"};  // with parameters

BlockFactory<double> eigen_blocks() {
  return block_factory<KroneckerEigenBlock<double>>();
}

struct Batch {
  Matrix<double> x;
  Labels y;
  explicit Batch(int number) : y(7) {
    Rng rng(static_cast<std::uint64_t>(50 + number));
    x = normal<double>(3, 7, rng);
    for (int& label : y) label = static_cast<int>(rng.below(2));
  }
};

/// A network and its optimizer, and what a step changed in each layer.
struct Run {
  Model model = network();
  Loss loss;
  Optimizer optimizer;
  int number = 0;

  explicit Run(const Options& options, const BlockFactory<double>& blocks = eigen_blocks())
      : optimizer(model, loss, options, blocks) {}

  Vector<double> parameters(const std::string& name) {
    for (const auto& layer : model.layers())
      if (layer.name == name) return layer.parameters;
    throw std::logic_error(name);
  }
  Vector<double> gradient(const std::string& name) {
    const Batch batch(number);
    auto copy = model;
    copy.backward(loss.gradient(copy.forward(batch.x), batch.y));
    for (const auto& layer : copy.layers())
      if (layer.name == name) return layer.gradient;
    throw std::logic_error(name);
  }
  const CurvatureBlock<double>* block(const std::string& name) {
    for (const auto& layer : optimizer.preconditioner().layers())
      if (layer->layer().name == name) return layer->blocks()[0].get();
    return nullptr;
  }
  std::map<std::string, Vector<double>> step() {
    std::map<std::string, Vector<double>> changes;
    for (const std::string& name : kNames) changes[name] = -parameters(name);
    const Batch batch(number++);
    const bool ok = optimizer.step(batch.x, batch.y).ok();
    REQUIRE(ok);
    for (const std::string& name : kNames) changes[name] += parameters(name);
    return changes;
  }
};

const Options kPlain{
    .learning_rate = 0.5, .momentum = 0.0, .damping = 0.04, .inverse_every = 1, .kl_clip = 0.0};

Options with(std::vector<Group> groups, Options options = kPlain) {
  options.groups = std::move(groups);
  return options;
}

}  // namespace

TEST_CASE("Groups: a layer's damping is its group's multiple of the damping") {
  const Schedule<double> scale = [](Index step) { return step < 2 ? 10.0 : 0.1; };
  Run run(with({{.contains = layers_named({"0"}), .damping_scale = scale},
                {.contains = layers_named({"4"}), .damping_scale = 3}}));
  for (int step = 0; step < 4; ++step) {
    std::map<std::string, Vector<double>> gradients;
    for (const std::string& name : kNames) gradients[name] = run.gradient(name);
    const auto changes = run.step();
    const auto check = [&](const std::string& name, double multiple) {
      Matrix<double> damped = run.block(name)->matrix(0.0)->dense();
      damped.diagonal().array() += multiple * 0.04;
      CHECK(relative_error(changes.at(name),
                           Vector<double>(-0.5 * damped.llt().solve(gradients[name]))) < 1e-10);
    };
    check("0", step < 2 ? 10.0 : 0.1);
    check("2", 1);
    check("4", 3);
    CHECK(relative_error(changes.at("3"), Vector<double>(-0.5 * gradients["3"])) < 1e-12);
  }
}

TEST_CASE("Groups: a damping that follows a schedule of the group needs no new inverse") {
  Options options = with({{.contains = layers_named({"0"}),
                           .damping_scale = [](Index step) { return step == 0 ? 1.0 : 100.0; }}});
  options.inverse_every = 1000;
  Run run(options), constant(kPlain);
  CHECK(run.step().at("0") == constant.step().at("0"));
  const auto changes = run.step();
  CHECK(changes.at("0").norm() < 0.5 * constant.step().at("0").norm());
}

TEST_CASE("Groups: a layer's learning rate is its group's multiple, whatever remembers the past") {
  const MomentumType type =
      GENERATE(MomentumType::HeavyBall, MomentumType::Nesterov, MomentumType::AveragedGradient,
               MomentumType::Adam, MomentumType::RmsProp);
  const bool decoupled = GENERATE(false, true);
  CAPTURE(static_cast<int>(type), decoupled);
  Options options = kPlain;
  options.momentum = 0.6;
  options.momentum_type = type;
  options.weight_decay = 0.03;
  options.decoupled_weight_decay = decoupled;
  Run plain(options);
  Run scaled(with({{.contains = layers_named({"2", "3"}), .learning_rate_scale = 0.25}}, options));
  const auto expected = plain.step();
  const auto changes = scaled.step();
  for (const std::string& name : kNames) {
    CAPTURE(name);
    const double scale = name == "2" || name == "3" ? 0.25 : 1;
    CHECK(relative_error(changes.at(name), Vector<double>(scale * expected.at(name))) < 1e-10);
  }
}

TEST_CASE("Groups: a scale of zero leaves layers as they are, bit by bit") {
  Options options = kPlain;
  options.momentum = 0.9;
  options.weight_decay = 0.03;
  SECTION("heavy ball") {}
  SECTION("Nesterov") {
    options.momentum_type = MomentumType::Nesterov;
  }
  SECTION("averaged gradient") {
    options.momentum_type = MomentumType::AveragedGradient;
  }
  SECTION("Adam") {
    options.momentum_type = MomentumType::Adam;
  }
  SECTION("RMSProp") {
    options.momentum_type = MomentumType::RmsProp;
  }
  SECTION("decoupled weight decay") {
    options.decoupled_weight_decay = true;
  }
  SECTION("quadratic model") {
    options.adaptive_learning_rate = options.adaptive_momentum = true;
    options.damping_adaptation = {.every = 1};
    options.rejection = {.enabled = true, .shrinks = 2};
  }
  SECTION("bounds") {
    options.kl_clip = 1e-3;
    options.norm_constraint = 1e-3;
    options.gradient_clip = 1e-1;
  }
  // From the start, and from step 3 to 5: they stop at once, and go on again.
  Run run(with({{.contains = layers_named({"0", "3"}), .learning_rate_scale = 0},
                {.contains = layers_named({"2"}),
                 .learning_rate_scale = [](Index step) { return step < 3 || step > 5 ? 1. : 0.; }}},
               options));
  for (int step = 0; step < 9; ++step) {
    CAPTURE(step);
    const auto changes = run.step();
    CHECK(changes.at("0").isZero(0));
    CHECK(changes.at("3").isZero(0));
    CHECK(changes.at("2").isZero(0) == (step >= 3 && step <= 5));
    CHECK(changes.at("4").norm() > 0);
  }
}

TEST_CASE("Groups: a layer of a group without preconditioning has a plain gradient step") {
  Run run(with({{.contains = layers_named({"2"}), .precondition = false}}));
  CHECK(run.block("2") == nullptr);
  Run without(kPlain, [](const auto& layer, const auto& options) {
    return layer.name == "2" ? nullptr : eigen_blocks()(layer, options);
  });
  Run plain(kPlain);
  for (int step = 0; step < 4; ++step) {
    const Vector<double> gradient = run.gradient("2");
    const auto changes = run.step();
    CHECK(relative_error(changes.at("2"), Vector<double>(-0.5 * gradient)) < 1e-12);
    CHECK(changes == without.step());
    const auto others = plain.step();
    if (step == 0) CHECK(changes.at("0") == others.at("0"));
    if (step == 0) CHECK(relative_error(changes.at("2"), others.at("2")) > 1e-2);
  }
}

TEST_CASE("Groups: a group's layers can have blocks of their own kind") {
  const std::vector<Group> groups{
      {.contains = layers_named({"0"}), .blocks = block_factory<KroneckerBlock<double>>()},
      {.contains = [](const auto& layer) { return layer.name >= "3"; },
       .blocks = block_factory<DiagonalBlock<double>, DiagonalBlock<double>>()}};
  Run run(with(groups));
  CHECK(std::string(run.block("0")->kind()) == "K-FAC");
  CHECK(std::string(run.block("2")->kind()) == "K-FAC (eigenbasis)");
  CHECK(std::string(run.block("3")->kind()) == "diagonal");
  CHECK(std::string(run.block("4")->kind()) == "diagonal");
  Run picked(kPlain, [&](const LayerView<double>& layer, const BlockOptions<double>& options) {
    const LayerGroup<double>* group = group_of(layer, groups);
    return group ? group->blocks(layer, options) : eigen_blocks()(layer, options);
  });
  for (int step = 0; step < 4; ++step) CHECK(run.step() == picked.step());
}

TEST_CASE("Groups: layers without curvature have plain gradients, or the fallback's block") {
  Run plain(kPlain);
  CHECK(plain.block("3") == nullptr);
  Run run(kPlain, block_factory<KroneckerEigenBlock<double>, DiagonalBlock<double>>());
  for (int step = 0; step < 3; ++step) {
    const Vector<double> gradient = run.gradient("3");
    const double change = run.step().at("3")(0);
    const double curvature = run.block("3")->matrix(0.0)->dense()(0, 0);
    CHECK(curvature > 0);
    CHECK(std::abs(change + 0.5 * gradient(0) / (curvature + 0.04)) < 1e-10 * std::abs(change));
  }
}

TEST_CASE("Groups: a layer belongs to the first group that contains it") {
  const Group frozen{.contains = layers_of_kind("Linear"), .learning_rate_scale = 0};
  const Group named{.contains = layers_named({"0", "4"}), .learning_rate_scale = 2};
  Run first(with({named, frozen})), second(with({frozen, named})), plain(kPlain);
  const auto changes = first.step(), others = second.step(), reference = plain.step();
  CHECK(relative_error(changes.at("0"), Vector<double>(2 * reference.at("0"))) < 1e-12);
  CHECK(changes.at("2").isZero(0));
  CHECK(changes.at("3") == reference.at("3"));  // in none
  CHECK(others.at("0").isZero(0));
  CHECK(others.at("4").isZero(0));
}

TEST_CASE("Groups: what is out of range is named, and changes nothing") {
  const auto message = [](const Group& group) {
    return message_of<OptionError>([&] { Run run(with({group})); });
  };
  const auto all = [](const auto&) { return true; };
  CHECK(message({}) ==
        "kfac::KfacOptimizer: 'groups.contains' is empty, expected a function of a layer");
  CHECK(message({.contains = all, .damping_scale = 0}) ==
        "kfac::KfacOptimizer: 'groups.damping_scale' is 0, expected > 0 and finite");
  CHECK(message({.contains = all, .learning_rate_scale = -1}) ==
        "kfac::KfacOptimizer: 'groups.learning_rate_scale' is -1, expected >= 0 and finite");

  // Schedules, at the step where it happens; also of layers that have no curvature.
  const bool precondition = GENERATE(true, false);
  Run run(
      with({{.contains = all, .precondition = precondition, .learning_rate_scale = [](Index step) {
               return step < 2 ? 1.0 : -1.0;
             }}}));
  run.step();
  run.step();
  const SavedState state(run.optimizer);
  const Vector<double> before = run.parameters("0");
  CHECK(message_of<OptionError>([&] { run.step(); }) ==
        "kfac::KfacOptimizer: 'groups.learning_rate_scale' is -1 at step 2, expected >= 0 and "
        "finite");
  CHECK(run.parameters("0") == before);
  CHECK(SavedState(run.optimizer) == state);
}

}  // namespace kfac::test::groups_test
