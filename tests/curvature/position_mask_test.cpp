#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"
#include "support/eigensolver.hpp"

// Sequences with padding and a mask, against the sequences themselves.

namespace kfac::test::position_mask_test {

namespace {

constexpr double kExact = 1e-12;

/// Each kind of block that is exact in its own way.
std::vector<BlockFactory<double>> all_kinds() {
  return {block_factory<KroneckerBlock<double>>(), block_factory<EkfacBlock<double>>(),
          block_factory<DiagonalBlock<double>>(), block_factory<FullBlock<double>>()};
}
/// The options that each of them is tried with.
std::vector<EstimatorOptions<double>> all_options() {
  std::vector<EstimatorOptions<double>> result;
  for (const FisherType type : {FisherType::Type2, FisherType::Empirical})
    for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce})
      result.push_back({.fisher = type, .sharing = sharing});
  return result;
}

/// Sequences of different lengths, padded with what must not matter.
struct PaddedTask {
  Task task;
  PositionMask mask;

  PaddedTask(const AnyModel& model, const AnyLoss& loss, Index tokens, Index examples, Rng& rng)
      : task(model, loss, {tokens, 3}, examples, rng), mask(tokens, examples) {
    for (Index n = 0; n < examples; ++n) {
      const Index length = 1 + rng.below(tokens);
      // Not all padding is at the end.
      const Index first = rng.below(tokens - length + 1);
      for (Index s = 0; s < tokens; ++s) mask(s, n) = s >= first && s < first + length;
    }
  }

  Index tokens() const { return mask.rows(); }
  Index length(Index n) const { return mask.col(n).count(); }
  /// Of each position of example n that is real, the rows of `values`.
  Matrix<double> real(const Matrix<double>& values, Index n) const {
    const Index features = values.rows() / tokens();
    Matrix<double> result(features, length(n));
    for (Index s = 0, column = 0; s < tokens(); ++s)
      if (mask(s, n)) result.col(column++) = values.col(n).segment(s * features, features);
    return result.reshaped(features * length(n), 1);
  }

  void fit(Estimator& estimator) const {
    estimator.fit(task.x, task.y, {.shape = task.shape, .mask = &mask});
  }
  /// Sequence by sequence, without padding, with such targets.
  template <class TargetsOf>
  void fit_unpadded(Estimator& estimator, const TargetsOf& targets_of) const {
    for (Index pass = 0; estimator.begin_pass(pass); ++pass) {
      for (Index n = 0; n < mask.cols(); ++n)
        estimator.add(real(task.x, n), targets_of(n), {.shape = {length(n), 3}});
      estimator.end_pass();
    }
  }
};

AnyModel token_network(Rng& rng, bool bias) {
  AnyModel model;
  append_linear(model, {3, 4}, rng, bias);
  model.push_back(Tanh<double>{});
  append_linear(model, {4, 2}, rng, bias);
  return model;
}

}  // namespace

TEST_CASE("Masked, a padded batch has the curvature of the sequences without padding") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    AnyModel model = token_network(rng, seed % 2 == 0);
    const Index tokens = 2 + rng.below(4), examples = 1 + rng.below(4);
    for (const Reduction reduction : {Reduction::Mean, Reduction::Sum})
      for (const AnyLoss& loss :
           {AnyLoss(MeanSquaredError<double>({.reduction = reduction})),
            AnyLoss(SoftmaxCrossEntropy<double>({.reduction = reduction, .classes = 2})),
            AnyLoss(BinaryCrossEntropy<double>({.reduction = reduction}))}) {
        const PaddedTask padded(model, loss, tokens, examples, rng);
        // A mean is over all positions, padding or not.
        const double scale = reduction == Reduction::Sum
                                 ? 1.0
                                 : static_cast<double>(padded.mask.count()) /
                                       static_cast<double>(padded.mask.size());
        for (const BlockFactory<double>& kind : all_kinds())
          for (const EstimatorOptions<double>& options : all_options()) {
            Estimator masked(model, loss, options, kind);
            padded.fit(masked);
            Estimator unpadded(model, loss, options, kind);
            padded.fit_unpadded(unpadded, [&](Index n) {
              // Labels are one to a position, other targets as many as outputs.
              const Index rows = padded.task.y.size() / (tokens * examples);
              const Matrix<double> y =
                  padded.real(padded.task.y.reshaped(rows * tokens, examples), n);
              return Matrix<double>(
                  y.reshaped(padded.task.y.rows() == 1 ? 1 : y.size(), Eigen::AutoSize));
            });
            Blocks expected = dense_blocks(unpadded);
            for (Matrix<double>& block : expected) block *= scale;
            CHECK(largest_error(dense_blocks(masked), expected) < kExact);
          }
      }
  }
}

TEST_CASE("Masked, factors are those of the sequences without padding") {
  Rng rng(11);
  AnyModel model = token_network(rng, true);
  const AnyLoss loss = MeanSquaredError<double>({.reduction = Reduction::Sum});
  const PaddedTask padded(model, loss, 5, 4, rng);
  for (const EstimatorOptions<double>& options : all_options()) {
    Estimator masked(model, loss, options);
    padded.fit(masked);
    Estimator unpadded(model, loss, options);
    padded.fit_unpadded(unpadded, [&](Index n) { return padded.real(padded.task.y, n); });
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& actual = block_of(*masked.layers()[i]);
      const auto& expected = block_of(*unpadded.layers()[i]);
      CHECK(relative_error(actual.input_factor(), expected.input_factor()) < kExact);
      CHECK(relative_error(actual.output_gradient_factor(), expected.output_gradient_factor()) <
            kExact);
    }
  }
}

TEST_CASE("A mask concerns the layers before the tokens are pooled, and those alone") {
  Rng rng(12);
  // Without biases, padding of zeros adds nothing to the sum.
  AnyModel model;
  append_linear(model, {3, 4}, rng, false);
  model.push_back(Tanh<double>{});
  append_linear(model, {4, 3}, rng, false);
  model.push_back(SumTokens<double>{});
  model.push_back(Tanh<double>{});
  append_linear(model, {3, 3}, rng, true);
  for (const AnyLoss& loss : all_losses({})) {
    PaddedTask padded(model, loss, 4, 3, rng);
    for (Index n = 0; n < 3; ++n)
      for (Index s = 0; s < 4; ++s)
        if (!padded.mask(s, n)) padded.task.x.col(n).segment(3 * s, 3).setZero();
    const auto targets_of = [&](Index n) { return Matrix<double>(padded.task.y.col(n)); };
    for (const BlockFactory<double>& kind : all_kinds())
      for (const EstimatorOptions<double>& options : all_options()) {
        Estimator masked(model, loss, options, kind);
        padded.fit(masked);
        Estimator unpadded(model, loss, options, kind);
        padded.fit_unpadded(unpadded, targets_of);
        CHECK(largest_error(dense_blocks(masked), dense_blocks(unpadded)) < kExact);
      }
    Estimator careless(model, loss);
    careless.fit(padded.task.x, padded.task.y, {.shape = padded.task.shape});
    Estimator unpadded(model, loss);
    padded.fit_unpadded(unpadded, targets_of);
    const auto errors = relative_errors(dense_blocks(careless), dense_blocks(unpadded));
    CHECK(errors[0] > 0.05);
    CHECK(errors[2] < kExact);
  }
}

TEST_CASE("A mask of only true is no mask") {
  Rng rng(13);
  AnyModel model = token_network(rng, true);
  const Task task(model, BinaryCrossEntropy<double>(), {3, 3}, 4, rng);
  const PositionMask all = PositionMask::Constant(3, 4, true);
  for (const EstimatorOptions<double>& options : all_options()) {
    Estimator masked(model, task.loss, options);
    masked.fit(task.x, task.y, {.shape = task.shape, .mask = &all});
    CHECK(largest_error(dense_blocks(masked), estimated_blocks(model, task, options)) < 1e-14);
  }
}

TEST_CASE("A network's own mask reaches what its layers announce, where it fits them") {
  Rng rng(15);
  AnyModel model = token_network(rng, true);
  const PaddedTask padded(model, BinaryCrossEntropy<double>(), 4, 3, rng);
  Estimator given(model, padded.task.loss);
  padded.fit(given);
  model.set_mask(&padded.mask);
  const Blocks own = estimated_blocks(model, padded.task, {});
  CHECK(largest_error(own, dense_blocks(given)) < 1e-14);
  {
    const Evaluation evaluation(model);
    CHECK(model.workspace().mode.mask == &padded.mask);
  }
  // Of other examples or positions it is not: the masks of pooled layers are none.
  const Task shorter(model, padded.task.loss, {2, 3}, 3, rng);
  const Blocks unmasked = estimated_blocks(model, shorter, {});
  model.set_mask(nullptr);
  CHECK(largest_error(unmasked, estimated_blocks(model, shorter, {})) < 1e-14);
  CHECK(largest_error(estimated_blocks(model, padded.task, {}), dense_blocks(given)) > 0.01);
}

TEST_CASE("Masks have to fit the batch and leave each example a position") {
  Rng rng(14);
  AnyModel model = token_network(rng, true);
  const Task task(model, MeanSquaredError<double>(), {3, 3}, 4, rng);
  Estimator estimator(model, task.loss);
  const auto message = [&](const PositionMask& mask) -> std::string {
    try {
      estimator.fit(task.x, task.y, {.shape = task.shape, .mask = &mask});
    } catch (const ShapeError& error) {
      return error.what();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  PositionMask mask = PositionMask::Constant(3, 4, true);
  mask.col(1).setConstant(false);
  CHECK(message(mask) ==
        "kfac::LayerCurvature: 'mask' has no position for example 1, expected at least one");
  CHECK(message(PositionMask::Constant(4, 4, true)) ==
        "kfac::LayerCurvature: 'mask' is 4x4, expected 3x4");
  CHECK(message(PositionMask::Constant(3, 5, true)) ==
        "kfac::LayerCurvature: 'mask' is 3x5, expected 3x4");
  // What was added before the error does not stay.
  mask.setConstant(true);
  CHECK(message(mask).empty());
  CHECK(largest_error(dense_blocks(estimator), estimated_blocks(model, task, {})) == 0);
}

}  // namespace kfac::test::position_mask_test
