#include <string>

#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/group_norm.hpp>
#include <kfac/nn/rms_norm.hpp>

#include "nn/support.hpp"

// Layers that normalise: all against the same formula, and through the battery.

namespace kfac::test::normalization_test {

namespace {

/// Any scales and shifts in place of 1 and 0.
template <class L>
L with_parameters(L layer, Rng& rng) {
  Vector<typename L::Scalar> values(layer.parameter_count());
  rng.fill_normal(values);
  layer.parameters() = values;
  return layer;
}

template <class L>
Matrix<double> output(const L& layer, const Matrix<double>& x, const Shape& shape) {
  DynamicSequential<double> model({AnyLayer<double>(layer)});
  return model.forward(x, shape);
}

/// Entry by entry: `group_of(i, n)` says which entries are normalised together, `channel_of(i)`
/// which scale and shift entry i of an example has.
template <class GroupOf, class ChannelOf>
Matrix<double> normalized(const Matrix<double>& x, const Vector<double>& scale,
                          const Vector<double>& shift, bool centered, double eps,
                          GroupOf&& group_of, ChannelOf&& channel_of) {
  Matrix<double> y(x.rows(), x.cols());
  for (Index n = 0; n < x.cols(); ++n)
    for (Index i = 0; i < x.rows(); ++i) {
      double sum = 0, squares = 0, count = 0;
      for (Index m = 0; m < x.cols(); ++m)
        for (Index j = 0; j < x.rows(); ++j)
          if (group_of(j, m) == group_of(i, n)) {
            sum += x(j, m);
            squares += x(j, m) * x(j, m);
            ++count;
          }
      const double mean = centered ? sum / count : 0;
      const double deviation = std::sqrt(squares / count - mean * mean + eps);
      y(i, n) = (x(i, n) - mean) / deviation * scale[channel_of(i)] + shift[channel_of(i)];
    }
  return y;
}

/// Scale and shift of a layer's parameters.
template <class L>
std::pair<Vector<double>, Vector<double>> affine(L& layer, Index channels) {
  Vector<double> scale = Vector<double>::Ones(channels), shift = Vector<double>::Zero(channels);
  if (layer.parameter_count() >= channels) scale = layer.parameters().head(channels);
  if (layer.parameter_count() == 2 * channels) shift = layer.parameters().tail(channels);
  return {scale, shift};
}

}  // namespace

TEST_CASE("LayerNorm and RMSNorm are over the last axes of each example", "[nn][exact]") {
  Rng rng(1);
  for (const bool has_affine : {true, false})
    for (const auto& [shape, over] : {std::pair<Shape, Shape>{{6}, {6}},
                                      {{5, 6}, {6}},
                                      {{2, 3, 4}, {3, 4}},
                                      {{2, 3, 4}, {4}}}) {
      const Matrix<double> x = normal<double>(shape.size(), 3, rng);
      const Index features = over.size();
      const NormOptions options{.eps = 0.1, .affine = has_affine};
      const auto group_of = [&](Index i, Index n) { return n * 100 + i / features; };
      const auto channel_of = [&](Index i) { return i % features; };
      auto layer = with_parameters(LayerNorm<double>(over, options), rng);
      const auto [scale, shift] = affine(layer, features);
      CHECK(layer.parameter_count() == (has_affine ? 2 * features : 0));
      CHECK(error_of(output(layer, x, shape),
                     normalized(x, scale, shift, true, 0.1, group_of, channel_of)) < 1e-13);
      auto rms = with_parameters(RMSNorm<double>(over, options), rng);
      const auto [rms_scale, zero] = affine(rms, features);
      CHECK(rms.parameter_count() == (has_affine ? features : 0));
      CHECK(error_of(output(rms, x, shape),
                     normalized(x, rms_scale, zero, false, 0.1, group_of, channel_of)) < 1e-13);
    }
}

TEST_CASE("GroupNorm is over groups of channels and their positions", "[nn][exact]") {
  Rng rng(2);
  for (const Index groups : {1, 2, 3, 6})
    for (const Shape& shape : {Shape{6}, Shape{6, 5}, Shape{6, 2, 3}}) {
      if (shape.rank() == 1 && groups == 6) continue;  // one number each
      const Index positions = shape.size() / 6;
      const Matrix<double> x = normal<double>(shape.size(), 3, rng);
      auto layer = with_parameters(GroupNorm<double>(groups, 6, {.eps = 1e-2}), rng);
      const auto [scale, shift] = affine(layer, 6);
      const auto channel_of = [&](Index i) { return i / positions; };
      const auto group_of = [&](Index i, Index n) { return n * 100 + channel_of(i) * groups / 6; };
      CHECK(error_of(output(layer, x, shape),
                     normalized(x, scale, shift, true, 1e-2, group_of, channel_of)) < 1e-13);
    }
}

TEST_CASE("BatchNorm in training is over all examples and positions of a channel", "[nn][exact]") {
  Rng rng(3);
  for (const Shape& shape : {Shape{4}, Shape{4, 5}, Shape{4, 2, 3}}) {
    const Index positions = shape.size() / 4;
    const Matrix<double> x = normal<double>(shape.size(), 3, rng);
    const auto channel_of = [&](Index i) { return i / positions; };
    const auto group_of = [&](Index i, Index) { return channel_of(i); };
    const auto check = [&](auto layer) {
      const auto [scale, shift] = affine(layer, 4);
      CHECK(error_of(output(layer, x, shape),
                     normalized(x, scale, shift, true, 1e-3, group_of, channel_of)) < 1e-13);
    };
    if (shape.rank() < 3)
      check(with_parameters(BatchNorm1d<double>(4, {.eps = 1e-3}), rng));
    else
      check(with_parameters(BatchNorm2d<double>(4, {.eps = 1e-3}), rng));
  }
}

TEST_CASE("Normalisations pass the layer battery", "[nn][gradient]") {
  Rng rng(4);
  for (int trial = 0; trial < 3; ++trial) {
    const Index features = between(2, 6, rng), batch = between(1, 4, rng);
    const Index groups = between(1, 3, rng), channels = groups * between(1, 3, rng);
    const bool has_affine = trial != 2;
    const NormOptions options{.eps = 1e-2, .affine = has_affine};
    for (const Shape& shape : {Shape{features}, Shape{between(1, 4, rng), features}}) {
      require_twice_differentiable(with_parameters(LayerNorm<double>(features, options), rng),
                                   shape, batch, rng);
      require_twice_differentiable(with_parameters(RMSNorm<double>(features, options), rng), shape,
                                   batch, rng);
    }
    for (const Shape& shape : {Shape{channels, 4}, Shape{channels, 2, between(1, 3, rng)}})
      require_twice_differentiable(
          with_parameters(GroupNorm<double>(groups, channels, options), rng), shape, batch, rng);
  }
  require_twice_differentiable(with_parameters(LayerNorm<double>({3, 2}), rng), {2, 3, 2}, 2, rng);
}

TEST_CASE("Normalisations pass the layer battery in single precision", "[nn][gradient]") {
  Rng rng(5);
  const auto check = [&](const auto& layer, const Shape& shape) {
    const testing::LayerCheck result = testing::check_layer(layer, shape, 3, rng);
    INFO(result.report());
    CHECK(result.passes(3e-2));
  };
  check(with_parameters(LayerNorm<float>(5, {.eps = 1e-2}), rng), {3, 5});
  check(with_parameters(GroupNorm<float>(2, 4, {.eps = 1e-2}), rng), {4, 3});
  check(with_parameters(BatchNorm1d<float>(4, {.eps = 1e-2}), rng), {4});
}

TEST_CASE("Normalisations of many entries are those of few, one after another", "[nn]") {
  Rng rng(6);
  // More than one piece of work, which threads would share.
  const Matrix<double> x = normal<double>(1920, 30, rng);
  const Matrix<double> g = normal<double>(1920, 30, rng);
  const auto check = [&](const AnyLayer<double>& layer, const Shape& shape) {
    DynamicSequential<double> model({layer});
    const Matrix<double> y = model.forward(x, shape);
    const Matrix<double> dx = model.input_gradient(g);
    const Vector<double> gradient = model.gradient();
    ThreadPool pool(1);
    const ParallelScope parallel(&pool);
    CHECK(model.forward(x, shape) == y);
    CHECK(model.input_gradient(g) == dx);
    CHECK(Vector<double>(model.gradient()) == gradient);
    // Example by example, which knows nothing of pieces.
    Vector<double> sum = Vector<double>::Zero(gradient.size());
    for (Index n = 0; n < x.cols(); ++n) {
      CHECK(error_of(model.forward(x.col(n), shape), y.col(n)) < 1e-13);
      CHECK(error_of(model.input_gradient(g.col(n)), dx.col(n)) < 1e-13);
      sum += model.gradient();
    }
    CHECK(error_of(gradient, sum) < 1e-12);
  };
  check(LayerNorm<double>(96), {20, 96});
  check(GroupNorm<double>(8, 96), {96, 20});
}

TEST_CASE("Normalisations start as they are in PyTorch, and name themselves", "[nn]") {
  LayerNorm<double> layer(3);
  Vector<double> expected(6);
  expected << 1, 1, 1, 0, 0, 0;
  CHECK(layer.parameters() == expected);
  CHECK(layer.eps() == 1e-5);
  CHECK(layer.units() == 3);
  CHECK(LayerNorm<double>(3, {.affine = false}).units() == 0);
  const auto info = GroupNorm<double>(1, 4).parameter_info();
  REQUIRE(info.size() == 2);
  CHECK(info[0].name == "weight");
  CHECK(info[1].name == "bias");
  CHECK(info[1].offset == 4);
  CHECK(RMSNorm<double>(4).parameter_info().size() == 1);
  CHECK(LayerNorm<double>::kind() == std::string("LayerNorm"));
  CHECK(RMSNorm<double>::kind() == std::string("RMSNorm"));
  CHECK(GroupNorm<double>::kind() == std::string("GroupNorm"));
}

TEST_CASE("Normalisations refuse what does not fit", "[nn][error]") {
  REQUIRE_THROWS_WITH(LayerNorm<double>(4).output_shape({4, 3}),
                      "kfac::LayerNorm: 'input' has shape 4x3, expected 4 on the last axes");
  REQUIRE_THROWS_WITH(RMSNorm<double>({2, 3}).output_shape({3}),
                      "kfac::RMSNorm: 'input' has shape 3, expected 2x3 on the last axes");
  REQUIRE_THROWS_WITH(
      GroupNorm<double>(2, 4).output_shape({3, 5}),
      "kfac::GroupNorm: 'input' has shape 3x5, expected 4 channels on the first axis");
  REQUIRE_THROWS_WITH(LayerNorm<double>(0), "kfac::LayerNorm: 'features' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(RMSNorm<double>(Shape{}),
                      "kfac::RMSNorm: 'normalized_shape' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(LayerNorm<double>(2, {.eps = 0}),
                      "kfac::LayerNorm: 'eps' is 0, expected > 0 and finite");
  REQUIRE_THROWS_WITH((GroupNorm<double>(3, 4)),
                      "kfac::GroupNorm: 'channels' is 4, expected a multiple of the groups");
  REQUIRE_THROWS_WITH((GroupNorm<double>(0, 4)), "kfac::GroupNorm: 'groups' is 0, expected >= 1");
}

}  // namespace kfac::test::normalization_test
