#include <string>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::memory_test {
namespace {

constexpr Index kBatch = 7;

/// Numbers that a network's own workspace holds beside its layers' scratch and its gradient.
template <class Model>
Index held(Model& model) {
  const auto& workspace = model.workspace();
  const auto& scratch = workspace.scratch;
  return workspace.input.capacity() + workspace.output.capacity() + scratch.activations.capacity() +
         scratch.flow[0].capacity() + scratch.flow[1].capacity();
}

template <class Model>
Vector<double> gradient_of(Model& model, bool once) {
  const OneBackwardPass<Model> pass(model, once);
  Rng rng(3);
  Matrix<double> x(4, kBatch), g(3, kBatch);
  rng.fill_normal(x);
  rng.fill_normal(g);
  model.forward(x);
  model.backward(g);
  return model.gradient();
}

Sequential<Linear<double>, Tanh<double>, Linear<double>, ReLU<double>, Linear<double>> deep() {
  Rng rng(1);
  return Sequential{Linear<double>(4, 40, rng), Tanh<double>{}, Linear<double>(40, 6, rng),
                    ReLU<double>{}, Linear<double>(6, 3, rng)};
}

}  // namespace

TEST_CASE("memory: a workspace takes what it was said to") {
  auto model = deep();
  WorkspaceSize size = model.workspace_size(Shape{4}, kBatch);
  // 4, 40 and 6 numbers an example and 3 that come out; 280 and 42 are padded to 288 and 48.
  CHECK(size.activations == 28 + 288 + 48 + 21);
  CHECK(size.gradients == 42 + 280);
  CHECK(size.scratch == 0);
  gradient_of(model, false);
  CHECK(held(model) == size.total());

  auto shared = deep();
  size = shared.workspace_size(Shape{4}, kBatch, {.once = true});
  // The gradient of 40 replaces nothing, but that of 6 is where that of its layer's input was: the
  // most there is at one time are 288 + 288 + 48.
  CHECK(size.activations == 28 + 288 + 48 + 21);
  CHECK(size.gradients == 288);
  gradient_of(shared, true);
  CHECK(held(shared) == size.total());
}

TEST_CASE("memory: gradients that replace outputs are the same numbers") {
  auto model = deep();
  const Vector<double> expected = gradient_of(model, false);
  CHECK(gradient_of(model, true) == expected);
  CHECK(gradient_of(model, false) == expected);
  CHECK(message_of<StateError>([&] {
          gradient_of(model, true);
          model.backward(Matrix<double>::Ones(3, kBatch));
        }).find("no forward pass") != std::string::npos);

  // Blocks that read their input again, activations at both ends, and an output that is in place.
  Rng rng(2);
  Sequential other{Tanh<double>{},
                   Linear<double>(4, 9, rng),
                   Sigmoid<double>{},
                   Residual(Linear<double>(9, 9, rng), Tanh<double>{}, Linear<double>(9, 9, rng)),
                   Residual(ReLU<double>{}, Linear<double>(9, 9, rng), Tanh<double>{}),
                   Flatten<double>{},
                   Linear<double>(9, 20, rng),
                   Linear<double>(20, 3, rng),
                   Tanh<double>{}};
  const Vector<double> of_other = gradient_of(other, false);
  CHECK(of_other.squaredNorm() > 0);
  CHECK(gradient_of(other, true) == of_other);

  DynamicSequential<double> dynamic;
  Rng same(1);
  dynamic.push_back(Linear<double>(4, 40, same));
  dynamic.push_back(Tanh<double>{});
  dynamic.push_back(Linear<double>(40, 6, same));
  dynamic.push_back(ReLU<double>{});
  dynamic.push_back(Linear<double>(6, 3, same));
  CHECK(gradient_of(dynamic, true) == expected);
  for (const bool once : {false, true})
    CHECK(dynamic.workspace_size(Shape{4}, kBatch, {.once = once}).total() ==
          model.workspace_size(Shape{4}, kBatch, {.once = once}).total());
}

TEST_CASE("memory: what layers keep for themselves counts too") {
  Rng rng(1);
  const Sequential model{Linear<double>(4, 5, rng), Dropout<double>(0.5, rng),
                         Residual(Linear<double>(5, 5, rng), Tanh<double>{})};
  const WorkspaceSize size = model.workspace_size(Shape{4}, kBatch);
  CHECK(size.scratch == 35);  // the mask
  // Of the skip's block the output too, which is read, and what is within it.
  CHECK(size.activations == 28 + 48 + 35 + 35);
}

TEST_CASE("memory: what the optimizer says of a batch") {
  auto model = deep();
  const SoftmaxCrossEntropy<double> loss;
  const KfacOptimizer optimizer(model, loss, {.fisher = FisherType::Empirical});
  const TrainingMemory without = optimizer.memory();
  const TrainingMemory with = optimizer.memory(kBatch);
  CHECK(with.parameters == without.parameters);
  CHECK(with.factors == without.factors);
  CHECK(with.activations == 8.0 * (28 + 288 + 48 + 21));
  CHECK(with.flow == 8.0 * (288 + 21));
  CHECK(with.scratch > 0);
  CHECK(with.total() == without.total() + with.activations + with.flow + with.scratch);
  CHECK(optimizer.memory(kBatch, Shape{4}).total() == with.total());
  CHECK(optimizer.summary(kBatch).find(", activations 3.08 kB, flow 2.47 kB, scratch ") !=
        std::string::npos);
  CHECK(optimizer.summary().find("activations") == std::string::npos);

  CHECK(message_of<OptionError>([&] { optimizer.memory(0); }).find("'batch'") != std::string::npos);
  CHECK_THROWS_AS(optimizer.memory(kBatch, Shape{5}), ShapeError);
  Rng rng(1);
  Sequential flat{Flatten<double>{}, Linear<double>(4, 3, rng)};
  const KfacOptimizer of_flat(flat, loss);
  CHECK(message_of<ShapeError>([&] { of_flat.memory(kBatch); }).find("'shape'") !=
        std::string::npos);
  CHECK(of_flat.memory(kBatch, Shape{2, 2}).total() > 0);
}

}  // namespace kfac::test::memory_test
