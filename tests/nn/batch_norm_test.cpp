#include <string>

#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"
#include "support/message_of.hpp"

// What BatchNorm has beside other normalisations: two modes, and running statistics.

namespace kfac::test::batch_norm_test {

namespace {

/// The same layer where it is always in evaluation.
template <class L>
struct InEvaluation : L {
  explicit InEvaluation(const L& layer) : L(layer) {}
  void forward(const ConstBatchView<double>& x, BatchView<double> y, typename L::Scratch& scratch,
               Mode mode) const {
    mode.training = false;
    L::forward(x, y, scratch, mode);
  }
};

/// With any parameters, and statistics of any batches.
template <class L>
L trained(L layer, const Shape& shape, Rng& rng) {
  Vector<double> values(layer.parameter_count());
  rng.fill_normal(values);
  layer.parameters() = values;
  typename L::Scratch scratch;
  for (int batch = 0; batch < 2; ++batch) {
    const Matrix<double> x = 2 * normal<double>(shape.size(), 5, rng).array() + 1;
    Matrix<double> y(shape.size(), 5);
    layer.forward({{x.data(), x.rows(), 5}, shape}, {{y.data(), y.rows(), 5}, shape}, scratch, {});
    layer.absorb(scratch);
  }
  return layer;
}

using Model = Sequential<Linear<double>, BatchNorm1d<double>, Linear<double>>;
Model network(Rng& rng, BatchNormOptions options = {}) {
  return Model(Linear<double>(3, 4, rng), BatchNorm1d<double>(4, options),
               Linear<double>(4, 2, rng));
}
BatchNorm1d<double>& norm_of(Model& model) {
  return model.template layer<1>();
}

}  // namespace

TEST_CASE("BatchNorm passes the layer battery in training", "[nn][gradient]") {
  Rng rng(1);
  for (const BatchNormOptions& options :
       {BatchNormOptions{.eps = 1e-2}, BatchNormOptions{.eps = 0.1, .affine = false}})
    for (const Index batch : {2, 5}) {
      const Index channels = between(1, 4, rng);
      for (const Shape& shape : {Shape{channels}, Shape{channels, between(1, 4, rng)}})
        require_twice_differentiable(trained(BatchNorm1d<double>(channels, options), shape, rng),
                                     shape, batch, rng);
      const Shape image{channels, between(1, 3, rng), between(2, 3, rng)};
      require_twice_differentiable(trained(BatchNorm2d<double>(channels, options), image, rng),
                                   image, batch, rng);
    }
  const Shape one{3, 2, 2};
  require_twice_differentiable(trained(BatchNorm2d<double>(3, {.eps = 1e-2}), one, rng), one, 1,
                               rng);
  const Shape volume{2, 2, 1, 3};
  require_twice_differentiable(BatchNorm3d<double>(2, {.eps = 1e-2}), volume, 2, rng);
}

TEST_CASE("BatchNorm passes the layer battery in evaluation", "[nn][gradient]") {
  Rng rng(2);
  for (const Index batch : {1, 4}) {
    for (const Shape& shape : {Shape{3}, Shape{3, 4}})
      require_twice_differentiable(
          InEvaluation(trained(BatchNorm1d<double>(3, {.eps = 1e-2}), shape, rng)), shape, batch,
          rng);
    const Shape image{3, 2, 2};
    require_twice_differentiable(
        InEvaluation(trained(BatchNorm2d<double>(3, {.momentum = 0.5}), image, rng)), image, batch,
        rng);
    require_twice_differentiable(
        InEvaluation(BatchNorm2d<double>(3, {.eps = 1e-2, .track_running_stats = false})), image,
        batch, rng);
  }
}

TEST_CASE("BatchNorm in evaluation is linear, by the running statistics", "[nn][exact]") {
  Rng rng(3);
  const Shape shape{3, 2, 2};
  const auto layer = trained(BatchNorm2d<double>(3, {.eps = 1e-2}), shape, rng);
  BatchNorm2d<double> copy = layer;
  const Vector<double> scale = copy.parameters().head(3), shift = copy.parameters().tail(3);
  const Matrix<double> x = normal<double>(12, 1, rng);
  Matrix<double> y(12, 1);
  BatchNorm2d<double>::Scratch scratch;
  layer.forward({{x.data(), 12, 1}, shape}, {{y.data(), 12, 1}, shape}, scratch,
                {.training = false});
  for (Index i = 0; i < 12; ++i) {
    const Index c = i / 4;
    const double expected =
        (x(i, 0) - layer.running_mean()[c]) / std::sqrt(layer.running_var()[c] + 1e-2) * scale[c] +
        shift[c];
    CHECK(y(i, 0) == Approx(expected).epsilon(1e-13));
  }
}

TEST_CASE("BatchNorm: a training step moves the running statistics once, and nothing else does") {
  Rng rng(4);
  for (const std::optional<double> momentum :
       {std::optional<double>(0.3), std::optional<double>()}) {
    Model model = network(rng, {.momentum = momentum});
    BatchNorm1d<double>& norm = norm_of(model);
    CHECK(norm.running_mean().isZero(0));
    CHECK(norm.running_var().isOnes(0));
    Vector<double> mean = norm.running_mean(), variance = norm.running_var();
    for (Index step = 1; step <= 3; ++step) {
      const Matrix<double> x = normal<double>(3, 6, rng);
      const Matrix<double> g = normal<double>(2, 6, rng);
      Linear<double>& first = model.layer<0>();
      const Matrix<double> z =
          (first.augmented_weight().leftCols(3) * x).colwise() + first.augmented_weight().col(3);
      const Vector<double> batch_mean = z.rowwise().mean();
      const Vector<double> batch_variance = (z.colwise() - batch_mean).rowwise().squaredNorm() / 5;
      const double weight = momentum ? *momentum : 1 / static_cast<double>(step);
      mean += weight * (batch_mean - mean);
      variance += weight * (batch_variance - variance);
      // Of these only the last counts.
      model.forward(normal<double>(3, 4, rng));
      auto workspace = model.make_workspace();
      model.forward(normal<double>(3, 4, rng), workspace);
      model.forward(x);
      model.backward_hooks_only(g);
      CHECK(norm.num_batches_tracked() == step - 1);
      model.backward(g);
      CHECK(norm.num_batches_tracked() == step);
      CHECK(error_of(norm.running_mean(), mean) < 1e-14);
      CHECK(error_of(norm.running_var(), variance) < 1e-14);
      model.backward(g);
      model.absorb_statistics();
      model.eval();
      model.forward(x);
      model.backward(g);
      model.train();
      CHECK(norm.num_batches_tracked() == step);
    }
  }
}

TEST_CASE("BatchNorm in training announces gradients with the statistics as constants") {
  struct Keeper : Observer<double> {
    Matrix<double> gradients;
    bool wants_example_gradients() const override { return true; }
    void on_example_gradients(const std::string&, const SharedBatch<double>& announced) override {
      gradients = announced.matrix();
    }
  } keeper;
  Rng rng(8);
  const Shape shape{2, 3};
  Sequential model(trained(BatchNorm1d<double>(2), shape, rng));
  model.layers()[0].hooks->attach(keeper);
  const Matrix<double> x = normal<double>(6, 5, rng);
  const Matrix<double> g = normal<double>(6, 5, rng);
  const Matrix<double> y = model.forward(x, shape);
  const Vector<double> parameters = model.layers()[0].parameters;
  model.backward(g);
  REQUIRE(keeper.gradients.rows() == 4);
  for (Index n = 0; n < 5; ++n)
    for (Index c = 0; c < 2; ++c) {
      double scale = 0, shift = 0;
      for (Index i = 3 * c; i < 3 * c + 3; ++i) {
        scale += g(i, n) * (y(i, n) - parameters[2 + c]) / parameters[c];
        shift += g(i, n);
      }
      CHECK(keeper.gradients(c, n) == Approx(scale).epsilon(1e-11));
      CHECK(keeper.gradients(2 + c, n) == Approx(shift).epsilon(1e-11));
    }
  CHECK(error_of(keeper.gradients.rowwise().sum(), model.gradient()) < 1e-12);
}

TEST_CASE("BatchNorm without running statistics uses the batch's in evaluation") {
  Rng rng(5);
  Model model = network(rng, {.track_running_stats = false});
  const Matrix<double> x = normal<double>(3, 6, rng);
  const Matrix<double> y = model.forward(x);
  model.backward(y);
  CHECK(norm_of(model).num_batches_tracked() == 0);
  model.eval();
  CHECK(model.forward(x) == y);
}

TEST_CASE("BatchNorm: running statistics are part of a network's state") {
  struct Names : StateVisitor {
    std::string all;
    bool overwrites() const override { return false; }

   private:
    bool present(const std::string&, bool now) override { return now; }
    void integers(const std::string& path, std::int64_t*, Axes) override { all += path + ' '; }
    void reals(const std::string& path, float*, Axes) override { all += path + ' '; }
    void reals(const std::string& path, double*, Axes) override { all += path + ' '; }
  };
  Rng rng(6);
  Model model = network(rng);
  Names names;
  model.visit_state(names);
  CHECK(names.all ==
        "0.weight 0.bias 1.weight 1.bias 2.weight 2.bias 1.running_mean 1.running_var "
        "1.num_batches_tracked ");
  Model untracked = network(rng, {.track_running_stats = false});
  Names fewer;
  untracked.visit_state(fewer);
  CHECK(fewer.all.find("running") == std::string::npos);
}

TEST_CASE("BatchNorm refuses what does not fit", "[nn][error]") {
  REQUIRE_THROWS_WITH(BatchNorm2d<double>(3).output_shape({2, 4, 4}),
                      "kfac::BatchNorm2d: 'input' has shape 2x4x4, expected 3 channels x height x "
                      "width");
  REQUIRE_THROWS_WITH(BatchNorm1d<double>(3).output_shape({3, 4, 4}),
                      "kfac::BatchNorm1d: 'input' has shape 3x4x4, expected 3 channels, or these x "
                      "length");
  REQUIRE_THROWS_WITH(BatchNorm2d<double>(0), "kfac::BatchNorm2d: 'channels' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(BatchNorm2d<double>(1, {.eps = -1}),
                      "kfac::BatchNorm2d: 'eps' is -1, expected > 0 and finite");
  REQUIRE_THROWS_WITH(BatchNorm1d<double>(1, {.momentum = 1.5}),
                      "kfac::BatchNorm1d: 'momentum' is 1.5, expected in [0, 1]");
  CHECK(BatchNorm2d<double>::kind() == std::string("BatchNorm2d"));

  Rng rng(7);
  Model model = network(rng);
  const Matrix<double> one = normal<double>(3, 1, rng);
  CHECK(message_of<ShapeError>([&] { model.forward(one); }) ==
        "kfac::BatchNorm1d: 'input' has 1 value for each channel in training, expected at least 2");
  CHECK(norm_of(model).num_batches_tracked() == 0);
  model.eval();
  CHECK(model.forward(one).allFinite());
}

}  // namespace kfac::test::batch_norm_test
