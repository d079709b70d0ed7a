#include <string>
#include <vector>

#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "nn/support.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::network_state_test {

namespace {

/// One value a layer, and a count of passes in its scratch.
struct Counting : ParameterFree<double>, LocallyLinear<Counting, double> {
  struct Scratch {
    Index passes = 0;
  };
  Shape output_shape(const Shape& shape) const { return shape; }
  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch& scratch,
               const Mode&) const {
    y.values = x.values.array() + static_cast<double>(++scratch.passes);
  }
  void backward(const ConstBatchView<double>&, const ConstBatchView<double>&,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>*, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = grad_output.values;
  }
  void tangent(const ConstBatchView<double>&, const ConstBatchView<double>&,
               const ConstBatchView<double>* x_tangent, const ConstVectorMap<double>*,
               BatchView<double> y_tangent, Scratch&) const {
    if (x_tangent) y_tangent.values = x_tangent->values;
  }
  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    visitor.visit("passes", scratch.passes);
  }
};

/// Dropout at every depth, behind layers known at compile time and at run time.
auto network(std::uint64_t seed) {
  Rng rng(seed);
  const Linear<double> first(3, 4, rng);
  const Dropout<double> a(0.5, rng), b(0.5, rng), c(0.5, rng);
  const DynamicSequential<double> block({c});
  return Sequential(first, a, Residual(Linear<double>(4, 4, rng), b),
                    DynamicSequential<double>({Counting{}, Residual(block)}));
}

std::vector<std::string> names_of(const SavedState& state) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : state.entries()) names.push_back(name);
  return names;
}

std::vector<Index> axes_of(const SavedState& state, const std::string& name) {
  return std::visit([](const auto& array) { return array.axes; }, state.entries().at(name));
}

}  // namespace

TEST_CASE("A network's state has its parameters and generators under their layers' names", "[nn]") {
  auto model = network(1);
  const SavedState state(model);
  CHECK(names_of(state) == std::vector<std::string>{"0.bias", "0.weight", "1.rng", "2.0.bias",
                                                    "2.0.weight", "2.1.rng", "3.0.passes",
                                                    "3.1.0.0.rng"});
  CHECK(axes_of(state, "0.weight") == std::vector<Index>{4, 3});
  CHECK(axes_of(state, "0.bias") == std::vector<Index>{4});
  const auto& weight = std::get<SavedState::Array<double>>(state.entries().at("0.weight"));
  const VectorMap<double> parameters = model.layers().front().parameters;
  CHECK(weight.values == std::vector<double>(parameters.data(), parameters.data() + 12));
}

TEST_CASE("A network's state has matrices of one column and the groups of a convolution", "[nn]") {
  Rng rng(2);
  Sequential model(Conv2d<double>({.in_channels = 4, .out_channels = 2, .groups = 2}, rng),
                   Flatten<double>{}, Linear<double>(1, 2, rng));
  const SavedState state(model);
  CHECK(names_of(state) == std::vector<std::string>{"0.bias.0", "0.bias.1", "0.weight.0",
                                                    "0.weight.1", "2.bias", "2.weight"});
  CHECK(axes_of(state, "0.bias.1") == std::vector<Index>{1});
  CHECK(axes_of(state, "2.bias") == std::vector<Index>{2});
  CHECK(axes_of(state, "2.weight") == std::vector<Index>{2, 1});
}

TEST_CASE("A network with the state of another goes on as that one does", "[nn]") {
  Rng rng(3);
  const Matrix<double> x = normal<double>(3, 20, rng);
  auto model = network(4);
  for (const int passes : {0, 1, 5}) {
    CAPTURE(passes);
    for (int pass = 0; pass < passes; ++pass) model.forward(x);
    const SavedState saved(model);
    auto fresh = network(5);
    auto used = network(6);
    for (int pass = 0; pass < 3; ++pass) used.forward(x);
    saved.restore(fresh);
    saved.restore(used);
    Matrix<double> previous = Matrix<double>::Zero(4, 20);
    for (int pass = 0; pass < 3; ++pass) {
      const Matrix<double> expected = model.forward(x);
      CHECK(expected != previous);
      CHECK(fresh.forward(x) == expected);
      CHECK(used.forward(x) == expected);
      previous = expected;
    }
  }
}

TEST_CASE("Looking at the state of a network changes no mask", "[nn]") {
  Rng rng(7);
  const Matrix<double> x = normal<double>(3, 20, rng);
  auto looked_at = network(8);
  auto left_alone = network(8);
  for (int pass = 0; pass < 3; ++pass) {
    const SavedState ignored(looked_at);
    CHECK(looked_at.forward(x) == left_alone.forward(x));
  }
}

}  // namespace kfac::test::network_state_test
