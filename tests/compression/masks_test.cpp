#include <algorithm>
#include <limits>
#include <vector>

#include <kfac/compression/prune_weights.hpp>
#include <kfac/optim/adam.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::masks_test {

namespace {

Index zeros(const Vector<double>& mask) {
  return (mask.array() == 0).count();
}

Vector<double> magnitudes(AnyModel& model) {
  return weight_saliencies(model, {}, {.saliency = Saliency::Magnitude});
}

}  // namespace

TEST_CASE("prune_mask: one threshold for all layers, exactly the share, biases untouched",
          "[compression]") {
  Rng rng(1);
  AnyModel model = small_mlp(rng);  // 24, 30 and 15 weights
  const Vector<double> saliencies = magnitudes(model);
  for (const double ratio : {0.0, 0.25, 0.5, 0.9}) {
    const Vector<double> mask = prune_mask(model, saliencies, {.ratio = ratio, .layer_limit = 1});
    CHECK(zeros(mask) == static_cast<Index>(ratio * 69 + 1e-9));
    CHECK(pruned_share(model, mask) == Approx(static_cast<double>(zeros(mask)) / 69));
    double largest_gone = -1;
    double smallest_left = std::numeric_limits<double>::infinity();
    for (Index i = 0; i < mask.size(); ++i) {
      if (mask(i) == 0) largest_gone = std::max(largest_gone, saliencies(i));
      if (mask(i) == 1) smallest_left = std::min(smallest_left, saliencies(i));
    }
    CHECK(largest_gone < smallest_left);
    for (const ParameterBlock& block : parameter_blocks(model))
      CHECK(block.of(mask).col(block.inputs) == Vector<double>::Ones(block.outputs));
  }
}

TEST_CASE("prune_mask: a layer never loses more than its limit, the others make up for it",
          "[compression]") {
  Rng rng(2);
  AnyModel model = small_mlp(rng);
  Vector<double> flat = flat_parameters(model);
  parameter_blocks(model)[0].of(flat) *= 1e-3;
  set_flat_parameters(model, flat);
  const Vector<double> saliencies = magnitudes(model);
  const auto lost = [&](double limit) {
    const Vector<double> mask = prune_mask(model, saliencies, {.ratio = 0.4, .layer_limit = limit});
    CHECK(zeros(mask) == 27);
    return zeros(mask.head(30));
  };
  CHECK(lost(1) == 24);
  CHECK(lost(0.95) == 22);
  CHECK(lost(0.5) == 12);
  // Where the limits leave no room, less goes.
  CHECK(zeros(prune_mask(model, saliencies, {.ratio = 0.95, .layer_limit = 0.95})) == 22 + 28 + 14);
}

TEST_CASE("prune_mask: what is pruned stays pruned", "[compression]") {
  Rng rng(3);
  AnyModel model = small_mlp(rng);
  const Vector<double> first = prune_mask(
      model, weight_saliencies(model, {}, {.saliency = Saliency::Random}), {.ratio = 0.3});
  const Vector<double> second = prune_mask(model, magnitudes(model), {.ratio = 0.6}, first);
  CHECK(zeros(second) == 41);
  CHECK((second.array() <= first.array()).all());
}

TEST_CASE("MaskedParameters: keep the weights at zero while the network is trained on",
          "[compression]") {
  Rng rng(4);
  AnyModel model = small_mlp(rng);
  Data data(4, 3, 30, rng);
  const Vector<double> mask = prune_mask(model, magnitudes(model), {.ratio = 0.5});
  const Vector<double> before = flat_parameters(model);
  const MaskedParameters<AnyModel> masked(model, mask);
  CHECK(flat_parameters(model) == before.cwiseProduct(mask));
  SoftmaxCrossEntropy<double> loss;
  Adam adam(model, {.learning_rate = 0.1});
  for (int step = 0; step < 3; ++step) {
    model.backward(loss.gradient(model.forward(data.set.inputs), data.set.targets));
    adam.step();
    CHECK((flat_parameters(model).array() * (1 - mask.array())).abs().maxCoeff() > 0);
    masked.apply();
    CHECK((flat_parameters(model).array() * (1 - mask.array())).abs().maxCoeff() == 0);
  }
  CHECK(relative_error(flat_parameters(model), Vector<double>(before.cwiseProduct(mask))) > 1e-2);
  model.layers()[0].parameters.setConstant(std::numeric_limits<double>::quiet_NaN());
  masked.apply();
  for (Index i = 0; i < 30; ++i)
    if (mask(i) == 0) CHECK(model.layers()[0].parameters(i) == 0);
}

TEST_CASE("prune_weights: rounds prune more and more of the same weights, with new curvature each",
          "[compression]") {
  Rng rng(5);
  const AnyModel original = small_mlp(rng);
  Data data(4, 3, 40, rng);
  const SoftmaxCrossEntropy<double> loss;
  const auto data_slices = slices(data.set, 40);

  AnyModel model = original;
  std::vector<Vector<double>> masks;
  const auto result =
      prune_weights(model, loss, data_slices, {.ratio = 0.784, .saliency = Saliency::Obd},
                    {.rounds = 3}, [&](const auto& masked) { masks.push_back(masked.mask()); });
  REQUIRE(masks.size() == 3);
  CHECK(zeros(masks[0]) == 27);  // 0.4, 0.64 and 0.784 of 69
  CHECK(zeros(masks[1]) == 44);
  CHECK(zeros(masks[2]) == 54);
  CHECK((masks[1].array() <= masks[0].array()).all());
  CHECK((masks[2].array() <= masks[1].array()).all());
  CHECK(result.mask == masks[2]);
  CHECK(result.rounds[2].ratio == Approx(54.0 / 69));
  CHECK(result.rounds[2].blocks.size() == 3);
  CHECK((flat_parameters(model).array() * (1 - result.mask.array())).abs().maxCoeff() == 0);

  // One round is what its parts are.
  AnyModel once = original;
  const auto one = prune_weights(once, loss, data_slices, {.ratio = 0.5});
  AnyModel parts = original;
  const auto curvature = estimate_curvature(parts, loss, data_slices);
  const Vector<double> mask = prune_mask(parts, magnitudes(parts), {.ratio = 0.5});
  compensate(parts, mask, curvature);
  CHECK(one.mask == mask);
  CHECK(flat_parameters(once) == flat_parameters(parts));

  AnyModel bare = original;
  const auto without = prune_weights(bare, loss, data_slices, {.ratio = 0.5, .compensate = false});
  CHECK(without.mask == mask);
  CHECK(without.rounds[0].blocks.empty());
  AnyModel copy = original;
  CHECK(flat_parameters(bare) == flat_parameters(copy).cwiseProduct(mask));
}

TEST_CASE("pruning: what is wrong is named", "[compression][errors]") {
  Rng rng(6);
  AnyModel model = small_mlp(rng);
  Data data(4, 3, 10, rng);
  Vector<double> saliencies = magnitudes(model);
  const auto message = [&](const SelectionOptions& options, const Vector<double>& before = {}) {
    return message_of<std::invalid_argument>(
        [&] { prune_mask(model, saliencies, options, before); });
  };
  CHECK(message({.ratio = 1}) == "kfac::prune_mask: 'ratio' is 1, expected 0 <= ratio < 1");
  CHECK(message({.ratio = -0.1}) == "kfac::prune_mask: 'ratio' is -0.1, expected 0 <= ratio < 1");
  CHECK(message({.ratio = 0.97}) ==
        "kfac::prune_mask: 'layer_limit' is 0.95, expected ratio <= layer_limit <= 1");
  CHECK(message({}, Vector<double>::Constant(83, 2)) ==
        "kfac::prune_mask: 'mask' has an entry 2, expected 0 or 1");
  saliencies(40) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message({}) == "kfac::prune_mask: 'saliencies' is nan, expected numbers (layer '2')");
  saliencies.conservativeResize(5);
  CHECK(message({}) == "kfac::prune_mask: 'saliencies' has 5 entries, expected 83");
  const Vector<double> before = flat_parameters(model);
  CHECK(message_of<ShapeError>([&] {
          MaskedParameters<AnyModel>(model, Vector<double>::Zero(4));
        }) == "kfac::MaskedParameters: 'mask' has 4 entries, expected 83");
  CHECK(message_of<OptionError>([&] {
          prune_weights(model, SoftmaxCrossEntropy<double>{}, slices(data.set, 10), {},
                        {.rounds = 0});
        }) == "kfac::prune_weights: 'rounds' is 0, expected >= 1");
  CHECK(flat_parameters(model) == before);
}

}  // namespace kfac::test::compression::masks_test
