#include <cmath>
#include <string>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/testing/layer_battery.hpp>

#include "support/catch.hpp"

namespace kfac::test::layer_battery_test {

using kfac::testing::check_layer;
using kfac::testing::LayerCheck;

namespace {

enum class Fault {
  None,
  InputGradient,
  ParameterGradient,
  InputTangent,
  ParameterTangent,
  NullRequests,
  Repeatability,
  Kronecker,
  Accumulates,
  ForgetsParameterTangent,
  ForgetsInputTangent,
  BackwardTangentNeedsBoth,
};

/// A Linear layer with one mistake.
class Faulty {
 public:
  using Scalar = double;
  struct Scratch {
    Linear<double>::Scratch linear;
    int passes = 0;
  };

  Faulty(Fault fault, Rng& rng) : fault_(fault), linear_(3, 2, rng) {}

  Index parameter_count() const { return linear_.parameter_count(); }
  VectorMap<double> parameters() { return linear_.parameters(); }
  Shape output_shape(const Shape& shape) const { return linear_.output_shape(shape); }

  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch& scratch,
               const Mode& mode) const {
    linear_.forward(x, y, scratch.linear, mode);
    if (fault_ == Fault::Repeatability) y.values.array() += scratch.passes++;
  }
  void backward(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const Matrix<double> before =
        grad_input ? Matrix<double>(grad_input->values) : Matrix<double>{};
    linear_.backward(x, y, grad_output, grad_input, grad_parameters, scratch.linear, mode);
    if (grad_input && fault_ == Fault::InputGradient) grad_input->values *= 1.01;
    if (grad_input && fault_ == Fault::Accumulates) grad_input->values += before;
    if (!grad_parameters) return;
    if (fault_ == Fault::ParameterGradient) *grad_parameters *= 1.01;
    if (fault_ == Fault::NullRequests && !grad_input) grad_parameters->setZero();
  }
  void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
               const ConstBatchView<double>* x_tangent,
               const ConstVectorMap<double>* parameter_tangent, BatchView<double> y_tangent,
               Scratch& scratch) const {
    linear_.tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch.linear);
    if ((fault_ == Fault::InputTangent && x_tangent) ||
        (fault_ == Fault::ParameterTangent && parameter_tangent))
      y_tangent.values *= 1.01;
  }

  void backward_tangent(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
                        const ConstBatchView<double>& grad_output,
                        const ConstBatchView<double>* x_tangent,
                        const ConstVectorMap<double>* parameter_tangent,
                        const ConstBatchView<double>& grad_output_tangent,
                        BatchView<double>* grad_input_tangent,
                        VectorMap<double>* grad_parameters_tangent, Scratch& scratch) const {
    if (fault_ == Fault::ForgetsParameterTangent) parameter_tangent = nullptr;
    if (fault_ == Fault::ForgetsInputTangent) x_tangent = nullptr;
    if (fault_ == Fault::BackwardTangentNeedsBoth && !grad_input_tangent) return;
    linear_.backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
                             grad_input_tangent, grad_parameters_tangent, scratch.linear);
  }

  KroneckerStructure kronecker_structure() const { return linear_.kronecker_structure(); }
  SharedBatch<double> kronecker_input(const ConstBatchView<double>& x,
                                      const Scratch& scratch) const {
    return linear_.kronecker_input(x, scratch.linear);
  }
  SharedBatch<double> kronecker_output_gradient(const ConstBatchView<double>& grad_output,
                                                const Scratch& scratch) const {
    if (fault_ != Fault::Kronecker) return linear_.kronecker_output_gradient(grad_output, {});
    static_cast<void>(scratch);
    // The right number of entries, but in another order.
    return {grad_output.values.data(), 2, grad_output.values.size() / 2, 1,
            SharedBatch<double>::Order::RowMajor};
  }

 private:
  Fault fault_;
  Linear<double> linear_;
};

LayerCheck check_of(Fault fault) {
  Rng rng(1);
  return check_layer(Faulty(fault, rng), {3}, 4, rng);
}

constexpr double kTolerance = 1e-7;

struct Sine {
  static const char* kind() { return "Sine"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.sin();
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = x.cos();
  }
};
struct Exponential {
  static const char* kind() { return "Exponential"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.exp();
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y& y, D&& d) {
    d = y;
  }
};
/// The derivative of the one needs its input, that of the other its output.
template <InPlace How, bool ReadsOutput>
struct NeedsInput : Activation<double, Sine> {
  static constexpr MemoryUse memory_use() { return {How, ReadsOutput}; }
};
template <bool ReadsOutput>
struct NeedsOutput : Activation<double, Exponential> {
  static constexpr MemoryUse memory_use() { return {InPlace::Replaces, ReadsOutput}; }
};

}  // namespace

TEST_CASE("check_layer passes a correct layer and says what it measured", "[testing][exact]") {
  const LayerCheck check = check_of(Fault::None);
  INFO(check.report());
  REQUIRE(check.passes(kTolerance));
  REQUIRE(check.kronecker.has_value());
  REQUIRE(check.backward_tangent.has_value());
  REQUIRE_FALSE(check.passes(0));
  for (const char* name : {"input gradient: ", "parameter gradient: ", "input tangent: ",
                           "parameter tangent: ", "adjointness: ", "null requests: ",
                           "repeatability: ", "memory use: ", "kronecker: ", "backward tangent: "})
    REQUIRE(check.report().find(name) != std::string::npos);
}

TEST_CASE("check_layer catches each mistake in the field that is about it", "[testing][exact]") {
  const auto [fault, field, breaks_adjointness] = GENERATE(table<Fault, double LayerCheck::*, bool>(
      {{Fault::InputGradient, &LayerCheck::input_gradient, true},
       {Fault::ParameterGradient, &LayerCheck::parameter_gradient, true},
       {Fault::InputTangent, &LayerCheck::input_tangent, true},
       {Fault::ParameterTangent, &LayerCheck::parameter_tangent, true},
       {Fault::NullRequests, &LayerCheck::null_requests, false},
       {Fault::Repeatability, &LayerCheck::repeatability, false}}));
  const LayerCheck check = check_of(fault);
  INFO(check.report());
  REQUIRE_FALSE(check.passes(kTolerance));
  REQUIRE(check.*field > 1e-3);
  REQUIRE((check.adjointness > 1e-4) == breaks_adjointness);
  const bool gradient_fault = fault == Fault::InputGradient || fault == Fault::ParameterGradient;
  for (double LayerCheck::*other :
       {&LayerCheck::input_gradient, &LayerCheck::parameter_gradient, &LayerCheck::input_tangent,
        &LayerCheck::parameter_tangent, &LayerCheck::repeatability})
    if (other != field) REQUIRE(check.*other < kTolerance);
  REQUIRE((*check.kronecker < kTolerance || gradient_fault));
}

TEST_CASE("check_layer catches announcements that do not make up the gradient",
          "[testing][exact]") {
  const LayerCheck check = check_of(Fault::Kronecker);
  INFO(check.report());
  REQUIRE_FALSE(check.passes(kTolerance));
  REQUIRE(check.kronecker.value() > 1e-3);
  REQUIRE(check.input_gradient < kTolerance);
  REQUIRE(check.null_requests < kTolerance);
}

TEST_CASE("check_layer catches a wrong tangent of the backward pass", "[testing][exact]") {
  const Fault fault = GENERATE(Fault::ForgetsParameterTangent, Fault::ForgetsInputTangent,
                               Fault::BackwardTangentNeedsBoth);
  LayerCheck check = check_of(fault);
  INFO(check.report());
  REQUIRE_FALSE(check.passes(kTolerance));
  REQUIRE(check.backward_tangent.value() > 1e-3);
  check.backward_tangent.reset();
  REQUIRE(check.passes(kTolerance));
}

TEST_CASE("check_layer catches results that are added to what was there", "[testing][exact]") {
  const LayerCheck check = check_of(Fault::Accumulates);
  REQUIRE(std::isinf(check.input_gradient));
  REQUIRE(std::isinf(check.null_requests));
  REQUIRE_FALSE(check.passes(1e300));
}

TEMPLATE_TEST_CASE("check_layer catches a layer that needs memory which it says it does not",
                   "[testing][exact]", (NeedsInput<InPlace::Replaces, true>),
                   (NeedsInput<InPlace::Keeps, true>), (NeedsOutput<false>)) {
  Rng rng(4);
  LayerCheck check = check_layer(TestType{}, {3}, 2, rng);
  INFO(check.report());
  REQUIRE(check.memory_use > 1e-3);
  check.memory_use = 0;
  REQUIRE(check.passes(kTolerance));
}

TEMPLATE_TEST_CASE("check_layer passes a layer that says what memory it needs", "[testing][exact]",
                   (NeedsInput<InPlace::Never, false>), (NeedsOutput<true>)) {
  Rng rng(5);
  const LayerCheck check = check_layer(TestType{}, {3}, 2, rng);
  INFO(check.report());
  REQUIRE(check.passes(kTolerance));
}

TEST_CASE("check_layer takes the point at which to check", "[testing][exact]") {
  Rng rng(2);
  const Matrix<double> x = Matrix<double>::Constant(3, 2, 0.5);
  REQUIRE(check_layer(Linear<double>(3, 2, rng), {3}, x, rng).passes(kTolerance));
  REQUIRE_THROWS_AS(check_layer(Linear<double>(4, 2, rng), {3}, x, rng), ShapeError);
}

TEST_CASE("check_layer in float finds the same, less precisely", "[testing][exact]") {
  Rng rng(3);
  const LayerCheck check = check_layer(Linear<float>(3, 2, rng), {3}, 4, rng);
  INFO(check.report());
  REQUIRE(check.passes(1e-2));
}

}  // namespace kfac::test::layer_battery_test
