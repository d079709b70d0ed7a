#include <string>

#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "nn/support.hpp"

namespace kfac::test::global_pooling_test {

using kfac::test::error_of;
using kfac::test::normal;

namespace {

using Model = DynamicSequential<double>;

Matrix<double> output(const AnyLayer<double>& layer, const Matrix<double>& x, const Shape& shape) {
  Model model({layer});
  return model.forward(x, shape);
}

}  // namespace

TEST_CASE("SpatialMean and SpatialSum are over all positions of each channel", "[nn][exact]") {
  Rng rng(1);
  const Matrix<double> x = normal<double>(24, 3, rng);
  for (const Shape& shape : {Shape{2, 12}, Shape{2, 3, 4}, Shape{2, 2, 2, 3}}) {
    const Matrix<double> sum = output(SpatialSum<double>{}, x, shape);
    const Matrix<double> mean = output(SpatialMean<double>{}, x, shape);
    REQUIRE(sum.rows() == 2);
    for (Index n = 0; n < 3; ++n)
      for (Index channel = 0; channel < 2; ++channel) {
        const double expected = x.col(n).segment(12 * channel, 12).sum();
        REQUIRE(sum(channel, n) == Approx(expected).epsilon(1e-14));
        REQUIRE(mean(channel, n) == Approx(expected / 12).epsilon(1e-14));
      }
    REQUIRE(output(GlobalAvgPool2d<double>{}, x, shape) == mean);
  }
}

TEST_CASE("MeanTokens and SumTokens are over all tokens of each feature", "[nn][exact]") {
  Rng rng(2);
  const Matrix<double> x = normal<double>(24, 3, rng);
  for (const Shape& shape : {Shape{8, 3}, Shape{4, 2, 3}}) {
    const Matrix<double> sum = output(SumTokens<double>{}, x, shape);
    const Matrix<double> mean = output(MeanTokens<double>{}, x, shape);
    REQUIRE(sum.rows() == 3);
    for (Index n = 0; n < 3; ++n)
      for (Index feature = 0; feature < 3; ++feature) {
        double expected = 0;
        for (Index token = 0; token < 8; ++token) expected += x(token * 3 + feature, n);
        REQUIRE(sum(feature, n) == Approx(expected).epsilon(1e-14));
        REQUIRE(mean(feature, n) == Approx(expected / 8).epsilon(1e-14));
      }
  }
}

TEST_CASE("Channels moved last make of a spatial mean one over tokens", "[nn][exact]") {
  Rng rng(3);
  const Shape shape{3, 4, 5};
  const Matrix<double> x = normal<double>(shape.size(), 4, rng);
  Model spatial({SpatialMean<double>{}});
  Model tokens({ChannelsLast<double>{}, MeanTokens<double>{}});
  REQUIRE(error_of(tokens.forward(x, shape), spatial.forward(x, shape)) < 1e-15);
  const Matrix<double> grad_output = normal<double>(3, 4, rng);
  REQUIRE(tokens.input_gradient(grad_output) == spatial.input_gradient(grad_output));
}

TEST_CASE("MeanTokens and SumTokens leave padding out", "[nn][exact]") {
  Rng rng(5);
  const Shape shape{3, 2};
  const Matrix<double> x = normal<double>(6, 3, rng);
  PositionMask mask(3, 3);
  mask << true, true, false, true, false, false, true, false, false;
  const Matrix<double> grad_output = normal<double>(2, 3, rng);
  for (const bool mean : {true, false}) {
    Model model({mean ? AnyLayer<double>(MeanTokens<double>{}) : SumTokens<double>{}});
    const Matrix<double> unmasked = model.forward(x, shape);
    model.set_mask(&mask);
    const Matrix<double> y = model.forward(x, shape);
    const Matrix<double> gradient = model.input_gradient(grad_output);
    for (Index feature = 0; feature < 2; ++feature) {
      // of three real tokens, one, and none
      CHECK(y(feature, 0) == Approx(unmasked(feature, 0)).epsilon(1e-15));
      CHECK(y(feature, 1) == x(feature, 1));
      CHECK(y(feature, 2) == 0);
      for (Index token = 0; token < 3; ++token) {
        CHECK(gradient(2 * token + feature, 0) == grad_output(feature, 0) * (mean ? 1.0 / 3 : 1));
        CHECK(gradient(2 * token + feature, 1) == (token == 0 ? grad_output(feature, 1) : 0));
        CHECK(gradient(2 * token + feature, 2) == 0);
      }
    }
    CHECK(model.workspace_size(shape, 3, {}).scratch == 0);
    CHECK(model.workspace_size(shape, 3, model.workspace().mode).scratch == 9);
    model.set_mask(nullptr);
    CHECK(model.forward(x, shape) == unmasked);
    // A mask of other positions is for other layers.
    const PositionMask other = PositionMask::Constant(2, 3, false);
    model.set_mask(&other);
    CHECK(model.forward(x, shape) == unmasked);
    const PositionMask fewer = PositionMask::Constant(3, 2, true);
    model.set_mask(&fewer);
    CHECK_THROWS_WITH(model.forward(x, shape),
                      Catch::Contains("'mask' has 2 examples, expected 3"));
  }
}

TEST_CASE("Global poolings pass the layer battery", "[nn][gradient]") {
  Rng rng(4);
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{2, 3, 4}, Shape{2, 3, 1, 2}}) {
    test::require_twice_differentiable(SpatialMean<double>{}, shape, 3, rng);
    test::require_twice_differentiable(SpatialSum<double>{}, shape, 1, rng);
    test::require_twice_differentiable(MeanTokens<double>{}, shape, 3, rng);
    test::require_twice_differentiable(SumTokens<double>{}, shape, 1, rng);
  }
}

TEST_CASE("Global poolings name themselves and what they expect", "[nn][error]") {
  REQUIRE(SpatialMean<float>::kind() == std::string("SpatialMean"));
  REQUIRE(SpatialSum<float>::kind() == std::string("SpatialSum"));
  REQUIRE(MeanTokens<float>::kind() == std::string("MeanTokens"));
  REQUIRE(SumTokens<float>::kind() == std::string("SumTokens"));
  REQUIRE_THROWS_WITH(SpatialMean<double>{}.output_shape({3}),
                      "kfac::SpatialMean: 'input' has shape 3, expected channels x positions");
  REQUIRE_THROWS_WITH(SumTokens<double>{}.output_shape({3}),
                      "kfac::SumTokens: 'input' has shape 3, expected tokens x features");
  REQUIRE_THROWS_AS(MeanTokens<double>{}.output_shape({}), ShapeError);
}

}  // namespace kfac::test::global_pooling_test
