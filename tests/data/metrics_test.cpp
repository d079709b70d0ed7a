#include <kfac/data/metrics.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "support/catch.hpp"

using kfac::Index;

namespace {

/// More examples than are evaluated at once, and not a multiple of them.
constexpr Index kExamples = 600;

kfac::Dataset<double> labelled_data() {
  kfac::Rng rng(9);
  kfac::Dataset<double> data{kfac::Matrix<double>(4, kExamples), kfac::Labels(kExamples)};
  rng.fill_normal(data.inputs);
  for (Index n = 0; n < kExamples; ++n) data.targets(n) = static_cast<int>(rng.below(3));
  return data;
}

auto make_model() {
  kfac::Rng rng(10);
  return kfac::Sequential(kfac::Linear<double>(4, 3, rng));
}

}  // namespace

TEST_CASE("accuracy: counts the largest outputs", "[data]") {
  auto model = make_model();
  auto data = labelled_data();
  for (Index n = 0; n < kExamples; ++n) {
    Index largest = 0;
    model.forward(data.inputs.col(n)).col(0).maxCoeff(&largest);
    // Every third label is made wrong.
    data.targets(n) = static_cast<int>(n % 3 == 0 ? (largest + 1) % 3 : largest);
  }
  CHECK(kfac::accuracy(model, data) == Approx(2.0 / 3.0));
}

TEMPLATE_TEST_CASE_SIG("dataset_loss: is the loss of all of the data in one batch", "[data][exact]",
                       ((kfac::Reduction R), R), kfac::Reduction::Mean, kfac::Reduction::Sum,
                       kfac::Reduction::ExampleMean) {
  auto model = make_model();
  const auto data = labelled_data();
  SECTION("labels") {
    const kfac::SoftmaxCrossEntropy<double> loss({.reduction = R});
    const double expected = loss.value(model.forward(data.inputs), data.targets);
    CHECK(kfac::dataset_loss(model, loss, data) == Approx(expected).epsilon(1e-12));
  }
  SECTION("matrix targets") {
    const kfac::Dataset<double, kfac::Matrix<double>> values{data.inputs,
                                                             2 * data.inputs.topRows(3)};
    const kfac::MeanSquaredError<double> loss({.reduction = R});
    const double expected = loss.value(model.forward(values.inputs), values.targets);
    CHECK(kfac::dataset_loss(model, loss, values) == Approx(expected).epsilon(1e-12));
  }
}

TEST_CASE("metrics: a shape says how an example is laid out", "[data]") {
  kfac::Rng rng(11);
  // Two tokens of two features: the outputs are 2 x 3.
  kfac::Sequential model(kfac::Linear<double>(2, 3, rng));
  const auto data = labelled_data();
  CHECK_THROWS_AS(kfac::accuracy(model, data), kfac::ShapeError);
  const double share = kfac::accuracy(model, data, {2, 2});
  CHECK((share >= 0 && share <= 1));

  const kfac::Dataset<double, kfac::Matrix<double>> values{
      data.inputs, kfac::Matrix<double>::Ones(6, kExamples)};
  const kfac::MeanSquaredError<double> loss;
  const double expected = loss.value(model.forward(data.inputs, {2, 2}), values.targets);
  CHECK(kfac::dataset_loss(model, loss, values, {2, 2}) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("metrics: nothing is announced, and the mode is as before", "[data]") {
  struct Counter : kfac::Observer<double> {
    int inputs = 0;
    void on_input(const std::string&, const kfac::SharedBatch<double>&) override { ++inputs; }
  };
  auto model = make_model();
  Counter counter;
  model.layers().front().hooks->attach(counter);
  const auto data = labelled_data();
  kfac::accuracy(model, data);
  kfac::dataset_loss(model, kfac::SoftmaxCrossEntropy<double>{}, data);
  CHECK(counter.inputs == 0);
  CHECK(model.workspace().mode.training);
  model.forward(data.inputs);
  CHECK(counter.inputs == 1);
}

TEST_CASE("metrics: misuse is named", "[data][error]") {
  auto model = make_model();
  const kfac::Dataset<double> empty{kfac::Matrix<double>(4, 0), kfac::Labels(0)};
  CHECK_THROWS_WITH(kfac::accuracy(model, empty), "kfac::accuracy: 'data' has no examples");
  CHECK_THROWS_WITH(kfac::dataset_loss(model, kfac::SoftmaxCrossEntropy<double>{}, empty),
                    "kfac::dataset_loss: 'data' has no examples");
  auto data = labelled_data();
  data.targets(0) = 3;
  CHECK_THROWS_AS(kfac::dataset_loss(model, kfac::SoftmaxCrossEntropy<double>{}, data),
                  kfac::ValueError);
}
