#include <sstream>
#include <string>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/describe.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/parallel.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/repeat.hpp>
#include <kfac/nn/residual.hpp>

#include "nn/support.hpp"

namespace kfac::test::describe_test {

namespace {

/// A layer of a user, without anything that can be left out.
struct Halve : ParameterFree<double> {
  struct Scratch {};
  Shape output_shape(const Shape& shape) const { return shape; }
  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&, const Mode&) const {
    y.values = x.values / 2;
  }
  void backward(const ConstBatchView<double>&, const ConstBatchView<double>&,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>*, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = grad_output.values / 2;
  }
  void tangent(const ConstBatchView<double>&, const ConstBatchView<double>&,
               const ConstBatchView<double>* x_tangent, const ConstVectorMap<double>*,
               BatchView<double> y_tangent, Scratch&) const {
    if (x_tangent)
      y_tangent.values = x_tangent->values / 2;
    else
      y_tangent.values.setZero();
  }
};

/// One that says more of itself.
struct Costly : Halve {
  static const char* kind() { return "Costly"; }
  static double multiply_adds(const Shape& shape) {
    return 3.0 * static_cast<double>(shape.size());
  }
};

/// A container that does the work of its layer itself.
class Hidden {
 public:
  using Scalar = double;
  using Scratch = Linear<double>::Scratch;

  explicit Hidden(Rng& rng) : slot_(Linear<double>(3, 3, rng)) {}

  Index parameter_count() const { return slot_.parameter_count(); }
  Shape output_shape(const Shape& shape) const { return slot_.output_shape(shape); }
  void forward(const ConstBatchView<double>& x, const BatchView<double>& y, Scratch& scratch,
               const Mode& mode) const {
    slot_.layer().forward(x, y, scratch, mode);
  }
  void backward(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    slot_.backward(x, y, grad_output, grad_input, grad_parameters, scratch, mode);
  }
  void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
               const ConstBatchView<double>* x_tangent,
               const ConstVectorMap<double>* parameter_tangent, const BatchView<double>& y_tangent,
               Scratch& scratch) const {
    slot_.tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch);
  }
  void rename(const std::string& name) { slot_.rename(name + ".inner"); }
  void append_layers(double* gradient, std::vector<LayerView<double>>& views) {
    slot_.append_layers(gradient, views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const { slot_.append_layer_sizes(sizes); }

 private:
  Slot<Linear<double>> slot_;
};

std::vector<std::string> names_of(const NetworkDescription& network) {
  std::vector<std::string> names;
  for (const LayerDescription& layer : network.layers) names.push_back(layer.name);
  return names;
}

}  // namespace

TEST_CASE("describe counts parameters and operations of each layer", "[nn][exact]") {
  Rng rng(1);
  Sequential model{
      Unflatten<double>({2, 6, 5}),
      Conv2d<double>({.in_channels = 2, .out_channels = 4, .padding = {1, 1}, .groups = 2}, rng),
      ReLU<double>{},
      MaxPool2d<double>({.stride = {2, 1}}),
      ConvTranspose2d<double>({.in_channels = 4, .out_channels = 3, .stride = {2, 2}}, rng),
      Flatten<double>{},
      Linear<double>(189, 10, rng)};
  const NetworkDescription network = describe(model, {60});
  REQUIRE(names_of(network) == std::vector<std::string>{"0", "1", "2", "3", "4", "5", "6"});
  REQUIRE(network.layers[1].kind == "Conv2d");
  REQUIRE(network.layers[1].input == Shape{2, 6, 5});
  REQUIRE(network.layers[1].output == Shape{4, 6, 5});
  REQUIRE(network.layers[1].parameters == 4 * 9 + 4);
  REQUIRE(network.layers[1].multiply_adds == 30 * 4 * 9);
  REQUIRE(network.layers[2].multiply_adds == 0);
  REQUIRE(network.layers[4].output == Shape{3, 7, 9});
  REQUIRE(network.layers[4].multiply_adds == 3 * 4 * 4 * 3 * 9);  // once for each input pixel
  REQUIRE(network.layers[5].kind == "Flatten");
  REQUIRE(network.layers[5].output == Shape{189});
  REQUIRE(network.layers[6].multiply_adds == 1890);
  REQUIRE(network.input == Shape{60});
  REQUIRE(network.output == Shape{10});
  REQUIRE(network.parameters() == model.parameter_count());
  REQUIRE(network.multiply_adds() == 1080 + 1296 + 1890);
}

TEST_CASE("describe goes into containers, however they are nested", "[nn][exact]") {
  Rng rng(2);
  DynamicSequential<double> model(
      {Linear<double>(2, 3, rng),
       Residual(Linear<double>(3, 3, rng), Identity<double>{}, Tanh<double>{}),
       Concatenate(Sequential(Linear<double>(3, 2, rng), ReLU<double>{}),
                   DynamicAdd<double>({Linear<double>(3, 2, rng), Linear<double>(3, 2, rng)}))});
  const NetworkDescription network = describe(model, {5, 2});
  REQUIRE(names_of(network) == std::vector<std::string>{"0", "1", "1.0", "1.1", "1.2", "2", "2.0.0",
                                                        "2.0.1", "2.1", "2.1.0", "2.1.1"});
  REQUIRE(network.layers[1].kind == "Residual");
  REQUIRE_FALSE(network.layers[1].is_leaf);
  REQUIRE(network.layers[5].kind == "Concatenate");
  REQUIRE(network.layers[8].kind == "Add");
  REQUIRE(network.layers[8].output == Shape{5, 2});
  REQUIRE(network.find("2.1.1")->multiply_adds == 5 * 6);
  REQUIRE(network.find("1.1")->kind == "Identity");
  REQUIRE(network.find("nowhere") == nullptr);
  REQUIRE(network.parameters() == model.parameter_count());
}

TEST_CASE("describe counts each use of a layer", "[nn][exact]") {
  Rng rng(3);
  Sequential model{Repeat(3, Linear<double>(2, 2, rng), Tanh<double>{})};
  const NetworkDescription network = describe(model, {2});
  REQUIRE(network.find("0.0")->uses == 3);
  REQUIRE(network.find("0.0")->multiply_adds == 3 * 4);
  REQUIRE(network.parameters() == 6);
  REQUIRE(network.to_string().find("Linear (3 uses)") != std::string::npos);
}

TEST_CASE("describe takes layers of any kind", "[nn][exact]") {
  Rng rng(4);
  DynamicSequential<double> model(
      {Linear<double>(2, 3, rng), Halve{}, Costly{}, Hidden(rng), Linear<double>(3, 2, rng)});
  const NetworkDescription network = describe(model, {2});
  REQUIRE(names_of(network) == std::vector<std::string>{"0", "1", "2", "3.inner", "4"});
  REQUIRE(network.layers[1].kind == "layer");
  REQUIRE(network.layers[2].multiply_adds == 9);
  REQUIRE(network.layers[3].parameters == 12);
  REQUIRE(network.layers[3].input.rank() == 0);
  REQUIRE(network.parameters() == model.parameter_count());
}

TEST_CASE("describe prints a table", "[nn][exact]") {
  Rng rng(5);
  Sequential model{Linear<double>(2, 30, rng), Residual(Linear<double>(30, 30, rng)),
                   Tanh<double>{}};
  std::ostringstream out;
  out << describe(model, {4, 2});
  REQUIRE(out.str() ==
          "layer  kind      input  output  parameters  multiply-adds\n"
          "0      Linear    4x2    4x30            90            240\n"
          "1      Residual  4x30   4x30\n"
          "  1.0  Linear    4x30   4x30           930           3600\n"
          "2      Tanh      4x30   4x30             0              0\n"
          "total            4x2    4x30          1020           3840\n");
}

TEST_CASE("describe leaves a network as it was, and knows the shape of its last pass",
          "[nn][property]") {
  Rng rng(6);
  Sequential model{Conv2d<double>({.in_channels = 1, .out_channels = 2}, rng), Tanh<double>{}};
  REQUIRE_THROWS_WITH(describe(model),
                      "kfac::describe: no forward pass before it, expected one, or a shape");
  REQUIRE_THROWS_AS(describe(model), StateError);
  REQUIRE_THROWS_WITH(describe(model, {2, 5, 5}),
                      "kfac::Conv2d: 'input' has shape 2x5x5, expected 1 channels x height x width "
                      "(layer '0')");
  const Matrix<double> x = normal<double>(25, 3, rng);
  const Matrix<double> y = model.forward(x, {1, 5, 5});
  REQUIRE(describe(model).layers[0].output == Shape{2, 3, 3});
  REQUIRE(describe(model, {1, 9, 9}).layers[0].output == Shape{2, 7, 7});
  model.backward(Matrix<double>::Ones(y.rows(), y.cols()));  // still of the pass before
  REQUIRE(model.gradient().norm() > 0);
}

}  // namespace kfac::test::describe_test
