#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::sequential_test {

using kfac::test::error_of;
using kfac::test::normal;

namespace {

/// A user's layer without curvature: y = scale .* x, one scale per feature.
class Scale {
 public:
  using Scalar = double;
  struct Scratch {};
  explicit Scale(Vector<double> scale) : scale_(std::move(scale)) {}

  Index parameter_count() const { return scale_.size(); }
  VectorMap<double> parameters() { return {scale_.data(), scale_.size()}; }
  Shape output_shape(const Shape& shape) const { return shape; }

  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&, const Mode&) const {
    y.values = scale_.asDiagonal() * x.values;
  }
  void backward(const ConstBatchView<double>& x, const ConstBatchView<double>&,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = scale_.asDiagonal() * grad_output.values;
    if (grad_parameters)
      *grad_parameters = x.values.cwiseProduct(grad_output.values).rowwise().sum();
  }
  void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>&,
               const ConstBatchView<double>* x_tangent,
               const ConstVectorMap<double>* parameter_tangent, BatchView<double> y_tangent,
               Scratch&) const {
    y_tangent.values.setZero();
    if (x_tangent) y_tangent.values += scale_.asDiagonal() * x_tangent->values;
    if (parameter_tangent) y_tangent.values += parameter_tangent->asDiagonal() * x.values;
  }

 private:
  Vector<double> scale_;
};

/// The same for one feature, which is a 1 x 1 matrix and says so.
class KroneckerScale : public Scale {
 public:
  using Scale::Scale;
  KroneckerStructure kronecker_structure() const { return {1, 1, false, 1}; }
  SharedBatch<double> kronecker_input(const ConstBatchView<double>& x, const Scratch&) const {
    return SharedBatch<double>(x.values);
  }
  SharedBatch<double> kronecker_output_gradient(const ConstBatchView<double>& grad_output,
                                                const Scratch&) const {
    return SharedBatch<double>(grad_output.values);
  }
};

static_assert(Layer<Scale> && LeafLayer<Scale> && !KroneckerLayer<Scale>);
static_assert(KroneckerLayer<KroneckerScale>);
static_assert(TwiceDifferentiableLayer<Sequential<Tanh<double>, Sequential<Linear<double>>>>);
static_assert(!TwiceDifferentiableLayer<Scale>);
static_assert(Layer<Sequential<Tanh<double>, Sequential<Scale>>> &&
              !TwiceDifferentiableLayer<Sequential<Tanh<double>, Sequential<Scale>>>);

}  // namespace

TEST_CASE("Sequential passes the layer battery, nested too", "[nn][gradient]") {
  Rng rng(1);
  const Sequential inner{Linear<double>(3, 4, rng), GELU<double>{}, Linear<double>(4, 2, rng)};
  const auto check = test::require_twice_differentiable(inner, {3}, 4, rng);
  REQUIRE(check.kronecker.has_value());
  test::require_twice_differentiable(Sequential(ReLU<double>{}, inner, Linear<double>(2, 3, rng)),
                                     {2, 3}, 3, rng);
}

TEST_CASE("Sequential without parameters still passes gradients and tangents", "[nn][gradient]") {
  Rng rng(2);
  test::require_twice_differentiable(Sequential(Tanh<double>{}, Softplus<double>{}), {3}, 2, rng);
}

TEST_CASE("A user's layer without Kronecker structure trains in a Sequential", "[nn][gradient]") {
  Rng rng(3);
  const Scale scale(Vector<double>{{0.5, -2, 3}});
  test::require_battery(scale, {3}, 4, rng);
  Sequential model{Linear<double>(2, 3, rng), scale, Linear<double>(3, 1, rng)};
  REQUIRE_FALSE(test::require_battery(model, {2}, 4, rng).backward_tangent.has_value());
  const auto layers = model.layers();
  REQUIRE(layers[0].twice_differentiable);
  REQUIRE_FALSE(layers[1].twice_differentiable);
  REQUIRE(layers[1].kind == "layer");
  REQUIRE(layers[1].parameters == Vector<double>{{0.5, -2, 3}});
  REQUIRE(layers[1].parameter_info.at(0).name == "parameters");
  REQUIRE(layers[1].parameter_info.at(0).rows == 3);
  REQUIRE_FALSE(layers[1].kronecker.has_value());
  REQUIRE(layers[1].hooks != nullptr);  // for the gradients of its examples
}

TEST_CASE("A user's layer that announces input and output gradient has curvature",
          "[nn][gradient]") {
  Rng rng(4);
  const KroneckerScale scale(Vector<double>{{0.5}});
  const auto check = test::require_battery(Sequential(Tanh<double>{}, scale), {1}, 4, rng);
  REQUIRE(check.kronecker.has_value());
  Sequential model(scale);
  REQUIRE(model.layers()[0].kronecker->inputs == 1);
  REQUIRE(model.layers()[0].hooks != nullptr);
}

TEST_CASE("Sequential's layers are views into its parameters and gradient, in order",
          "[nn][exact]") {
  Rng rng(5);
  Sequential model{Linear<double>(2, 3, rng), Sequential{Tanh<double>{}, Linear<double>(3, 4, rng)},
                   Linear<double>(4, 1, rng, {.bias = false})};
  model.forward(normal<double>(2, 5, rng));
  model.backward(normal<double>(1, 5, rng));
  const auto layers = model.layers();
  REQUIRE(layers.size() == 4);
  const char* names[] = {"0", "1.0", "1.1", "2"};
  const Index counts[] = {9, 0, 16, 4};
  Index offset = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    REQUIRE(layers[i].name == names[i]);
    REQUIRE(layers[i].parameters.size() == counts[i]);
    REQUIRE(layers[i].gradient == model.gradient().segment(offset, counts[i]));
    offset += counts[i];
  }
  REQUIRE(offset == model.parameter_count());
  REQUIRE(std::as_const(model).layer_sizes() == std::vector<Index>{9, 0, 16, 4});
  REQUIRE(layers[0].parameters.data() == model.layer<0>().parameters().data());
}

TEST_CASE("Sequential gives each layer its segment of a parameter tangent", "[nn][gradient]") {
  Rng rng(6);
  Sequential model{Linear<double>(2, 3, rng), Tanh<double>{}, Linear<double>(3, 2, rng)};
  const Matrix<double> x = normal<double>(2, 4, rng);
  const Vector<double> direction = normal<double>(model.parameter_count(), 1, rng);
  model.forward(x);
  const Matrix<double> tangent = model.tangent(direction);
  const double step = 1e-6;
  const auto outputs_at = [&](double distance) -> Matrix<double> {
    auto moved = model;
    moved.layer<0>().parameters() += distance * direction.head(9);
    moved.layer<2>().parameters() += distance * direction.tail(8);
    return moved.forward(x);
  };
  REQUIRE(error_of(tangent, (outputs_at(step) - outputs_at(-step)) / (2 * step)) < 1e-8);
}

}  // namespace kfac::test::sequential_test
