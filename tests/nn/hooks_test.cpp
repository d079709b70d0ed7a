#include <optional>
#include <string>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::hooks_test {

using kfac::test::normal;

namespace {

/// Writes down what it hears, in a diary it may share with others.
struct Diarist : Observer<double> {
  Diarist(std::string name_, std::vector<std::string>& diary_)
      : name(std::move(name_)), diary(diary_) {}
  void on_input(const std::string& layer, const SharedBatch<double>& input) override {
    diary.push_back(name + " in " + layer + ' ' + std::to_string(input.features()));
  }
  void on_output_gradient(const std::string& layer, const SharedBatch<double>& gradient) override {
    diary.push_back(name + " out " + layer + ' ' + std::to_string(gradient.features()));
  }
  std::string name;
  std::vector<std::string>& diary;
};

auto network() {
  Rng rng(1);
  return Sequential{Linear<double>(2, 3, rng), Tanh<double>{}, Linear<double>(3, 1, rng)};
}
using Model = decltype(network());
using Diary = std::vector<std::string>;

void attach(Model& model, Observer<double>& observer) {
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(observer);
}

void pass(Model& model) {
  Rng rng(2);
  model.forward(normal<double>(2, 4, rng));
  model.backward(normal<double>(1, 4, rng));
}

const Diary kOnePass{"a in 0 2", "a in 2 3", "a out 2 1", "a out 0 3"};

}  // namespace

TEST_CASE("Observers hear inputs forwards and output gradients backwards", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  attach(model, a);
  pass(model);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("Several observers hear the same in the order they were attached", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  Diarist b("b", diary);
  auto model = network();
  attach(model, b);
  model.layers()[2].hooks->attach(a);
  pass(model);
  REQUIRE(diary ==
          Diary{"b in 0 2", "b in 2 3", "a in 2 3", "b out 2 1", "a out 2 1", "b out 0 3"});
}

TEST_CASE("A layer without curvature has no hooks, and no observer is fine", "[nn][hooks]") {
  auto model = network();
  REQUIRE(model.layers()[1].hooks == nullptr);
  REQUIRE(model.layers()[0].hooks->empty());
  REQUIRE_NOTHROW(pass(model));
}

TEST_CASE("An observer that is attached twice hears once", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  attach(model, a);
  attach(model, a);
  pass(model);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("An observer that goes out of scope detaches itself", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  {
    Diarist gone("gone", diary);
    attach(model, gone);
    attach(model, a);
  }
  pass(model);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("A model may be destroyed before its observer", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  {
    auto model = network();
    attach(model, a);
  }
  auto other = network();
  attach(other, a);
  pass(other);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("A copy of a model has no observers, and a moved one keeps them", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  attach(model, a);
  auto copy = model;
  pass(copy);
  REQUIRE(diary.empty());
  auto moved = std::move(model);
  pass(moved);
  REQUIRE(diary == kOnePass);
  copy = moved;
  pass(copy);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("NoTracking silences a scope, and Evaluation too", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  attach(model, a);
  {
    const NoTracking quiet(model);
    pass(model);
    {
      const NoTracking twice(model);
      pass(model);
    }
    pass(model);
  }
  {
    const Evaluation evaluation(model);
    pass(model);
  }
  REQUIRE(diary.empty());
  pass(model);
  REQUIRE(diary == kOnePass);
}

TEST_CASE("backward_hooks_only announces and leaves the gradient alone", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  pass(model);
  const Vector<double> gradient = model.gradient();
  attach(model, a);
  model.backward_hooks_only(Matrix<double>::Ones(1, 4));
  REQUIRE(diary == Diary{"a out 2 1", "a out 0 3"});
  REQUIRE(model.gradient() == gradient);
}

TEST_CASE("Listening changes no result", "[nn][hooks]") {
  Diary diary;
  Diarist a("a", diary);
  auto model = network();
  auto observed = network();
  attach(observed, a);
  pass(model);
  pass(observed);
  REQUIRE(observed.gradient() == model.gradient());
}

}  // namespace kfac::test::hooks_test
