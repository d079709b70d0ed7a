#include "optim/accumulation.hpp"

#include <limits>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/inverse_free_block.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::accumulation_test {

using namespace accumulation;

namespace {

/// Images of 2 channels, 4 x 4 each; grouped, and with patches that are made on demand.
Model image_network() {
  Rng rng(2);
  Model model;
  model.push_back(Conv2d<double>(
      {.in_channels = 2, .out_channels = 4, .padding = {1, 1}, .groups = 2, .workspace = 0}, rng));
  model.push_back(Tanh<double>{});
  model.push_back(SpatialMean<double>{});
  model.push_back(Linear<double>(4, 3, rng));  // few inputs: no eigenvalue of A is there twice
  return model;
}
const Shape kImage{2, 4, 4};

}  // namespace

TEST_CASE("Accumulation: every Fisher type gives the step of the full batch") {
  for (const FisherType fisher : {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical,
                                  FisherType::CurvaturePropagation, FisherType::ForwardOnly})
    for (const Reduction reduction : {Reduction::Mean, Reduction::Sum}) {
      CAPTURE(static_cast<int>(fisher), static_cast<int>(reduction));
      Options options = kBase;
      options.fisher = fisher;
      check_slices(CrossEntropy({.reduction = reduction}), dense_network(), kDense, options, 1, 6);
    }
}

TEST_CASE("Accumulation: so do several labels an example") {
  // The 6 outputs are two positions of three classes.
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const FisherType fisher : {FisherType::Type2, FisherType::Empirical}) {
      Options options = kBase;
      options.fisher = fisher;
      check_slices(CrossEntropy(CrossEntropyOptions{.reduction = reduction, .classes = 3}),
                   dense_network(), kDense, options, 2, 3);
    }
}

TEST_CASE("Accumulation: so do images, EKFAC, and inverse-free curvature") {
  const CrossEntropy loss;
  Options options = kBase;
  for (const FisherType fisher : {FisherType::Type2, FisherType::ForwardOnly}) {
    options.fisher = fisher;
    check_slices(loss, dense_network(), kDense, options, 1, 6,
                 block_factory<InverseFreeBlock<double>>());
  }
  options = kBase;
  check_slices(loss, image_network(), kImage, options);
  options.fisher = FisherType::Empirical;
  check_slices(loss, image_network(), kImage, options, 1, 3, block_factory<EkfacBlock<double>>());
  options.fisher = FisherType::Type2;
  check_slices(loss, dense_network(), kDense, options, 1, 6, block_factory<EkfacBlock<double>>());
}

TEST_CASE("Accumulation: so do steps by the quadratic model with an adapted damping") {
  Options options = kBase;
  options.adaptive_learning_rate = true;
  options.adaptive_momentum = true;
  options.damping_adaptation = {.every = 1};
  options.weight_decay = 1e-3;
  check_slices(CrossEntropy(), dense_network(), kDense, options, 1, 6);
}

TEST_CASE("Accumulation: so do steps with a second level") {
  for (const CoarseSpace space :
       {CoarseSpace::Layer, CoarseSpace::LayerAndBias, CoarseSpace::Spectral})
    for (const CoarseForm form : {CoarseForm::Additive, CoarseForm::Deflated}) {
      CAPTURE(static_cast<int>(space), static_cast<int>(form));
      Options options = kBase;
      options.two_level = {.space = space, .form = form};
      check_slices(CrossEntropy(), dense_network(), kDense, options, 1, 6);
    }
}

TEST_CASE("Accumulation: a mean is over all labels, also where slices have different numbers") {
  Rng rng(5);
  Model model;
  model.push_back(Linear<double>(4, 3, rng));  // at each token
  const CrossEntropy loss(CrossEntropyOptions{.classes = 3});
  const Matrix<double> two = normal<double>(8, 5, rng), three = normal<double>(12, 2, rng);
  const Labels two_labels = random_targets(loss, 10, 3, 0, rng),
               three_labels = random_targets(loss, 6, 3, 0, rng);
  const double first = loss.value(Matrix<double>(model.forward(two, {2, 4})), two_labels);
  const double second = loss.value(Matrix<double>(model.forward(three, {3, 4})), three_labels);
  KfacOptimizer optimizer(model, loss);
  const StepReport<double>& report =
      optimizer.step({{two, two_labels, {2, 4}}, {three, three_labels, {3, 4}}});
  REQUIRE(report.ok());
  check_near(report.loss, (10 * first + 6 * second) / 16);
}

TEST_CASE("Accumulation: no slices, or a bad one, throws and leaves all as it was") {
  Model model = dense_network(), twin_model = dense_network();
  const CrossEntropy loss;
  const FisherType fisher = GENERATE(FisherType::MonteCarlo, FisherType::Empirical);
  Options options = kBase;
  options.fisher = fisher;
  KfacOptimizer optimizer(model, loss, options), twin(twin_model, loss, options);
  Rng rng(6);
  const Matrix<double> x = normal<double>(4, kExamples, rng);
  const Labels y = random_targets(loss, kExamples, 6, 0, rng);
  const auto good = cut<CrossEntropy>(x, y, kDense, {3, 5});
  REQUIRE(optimizer.step(good).ok());
  REQUIRE(twin.step(good).ok());
  const SavedState state(optimizer);
  const Vector<double> before = parameters_of(model);

  CHECK(message_of<ShapeError>([&] { optimizer.step({}); }) ==
        "kfac::KfacOptimizer::step: 'slices' is empty, expected at least one");
  Matrix<double> infinite = x;
  infinite(1, 6) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(optimizer.step(cut<CrossEntropy>(infinite, y, kDense, {3, 5})), ValueError);
  Labels none = y;
  none(7) = 6;
  CHECK_THROWS_AS(optimizer.step(cut<CrossEntropy>(x, none, kDense, {3, 5})), ValueError);
  CHECK_THROWS_AS(optimizer.step(cut<CrossEntropy>(x, y, kDense, {3, 0, 5})), ShapeError);
  auto wide = good;
  wide[1].shape = Shape{5};
  CHECK_THROWS_AS(optimizer.step(wide), ShapeError);
  auto few = cut<CrossEntropy>(x, y, kDense, {3, 5});
  few.pop_back();
  few.emplace_back(ConstMatrixMap<double>(x.data(), 4, 5), Eigen::Map<const Labels>(y.data(), 4),
                   kDense);
  CHECK_THROWS_AS(optimizer.step(few), ShapeError);

  CHECK(parameters_of(model) == before);
  CHECK(SavedState(optimizer) == state);
  for (int step = 0; step < 3; ++step) {
    REQUIRE(optimizer.step(good).ok());
    REQUIRE(twin.step(good).ok());
    CHECK(parameters_of(model) == parameters_of(twin_model));
  }
}

}  // namespace kfac::test::accumulation_test
