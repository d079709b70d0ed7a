#include <kfac/curvature/combine_estimates.hpp>
#include <kfac/curvature/estimate_curvature.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/parameter_block_networks.hpp"

namespace kfac::test::combine_estimates_test {

namespace {

using Structure = CurvatureStructure;
using Result = CurvatureEstimate<double>;
using Parts = std::vector<Result>;

Blocks dense_blocks(const Result& estimate) {
  Blocks blocks;
  for (const BlockEstimate<double>& block : estimate.blocks) blocks.push_back(dense_of(block));
  return blocks;
}

void check_equal(const Result& actual, const Result& expected) {
  CHECK(actual.record.examples == expected.record.examples);
  CHECK(actual.record.moment_examples == expected.record.moment_examples);
  CHECK(actual.record.loss_scale == Approx(expected.record.loss_scale).epsilon(1e-14));
  CHECK(largest_error(dense_blocks(actual), dense_blocks(expected)) < 1e-12);
  for (std::size_t i = 0; i < expected.blocks.size(); ++i)
    CHECK(relative_error(actual.blocks[i].factors.a, expected.blocks[i].factors.a) < 1e-12);
}

/// All losses and reductions, on networks of all kinds of blocks.
template <class Body>
void for_each_task(Body&& body) {
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const AnyLoss& loss : all_losses({.reduction = reduction})) {
      Rng rng(3);
      RandomNetwork network = network_of_all_blocks(rng);
      const Task task(network.model, loss, network.shape, 9, rng);
      body(network.model, task);
    }
}

}  // namespace

TEST_CASE("combine_data: estimates of parts of the data make that of all of them") {
  for_each_task([](AnyModel& model, const Task& task) {
    const auto whole = growing_slices(task);  // of 1, 2, 3 and 3 examples
    const std::vector<AnySlice> first{whole[0]}, second{whole[1], whole[2]}, third{whole[3]};
    for (const Structure structure : {Structure::Diagonal, Structure::Kronecker, Structure::Full})
      for (const FisherType fisher : {FisherType::Type2, FisherType::Empirical}) {
        const auto estimate = [&](const std::vector<AnySlice>& slices) {
          return estimate_curvature(model, task.loss, slices,
                                    {.structure = structure, .fisher = fisher});
        };
        const Parts parts{estimate(second), estimate(first), estimate(third)};
        check_equal(combine_data<double>(parts), estimate(whole));
        const Parts nested{combine_data<double>(Parts{parts[0], parts[2]}), parts[1]};
        check_equal(combine_data<double>(nested), estimate(whole));
      }
  });
}

TEST_CASE("combine_data: in two rounds, parts make the EKFAC of all the data") {
  for_each_task([](AnyModel& model, const Task& task) {
    const auto whole = growing_slices(task);
    const std::vector<std::vector<AnySlice>> data{{whole[0], whole[1]}, {whole[2], whole[3]}};
    Parts parts;
    for (const auto& slices : data) parts.push_back(estimate_curvature(model, task.loss, slices));
    Result factors = combine_data<double>(parts);
    CHECK(factors.blocks[0].eigen.empty());
    decompose(factors);
    Parts moments;
    for (const auto& slices : data) {
      moments.push_back(factors);
      fit_moments(moments.back(), model, task.loss, slices);
    }
    const Result expected =
        estimate_curvature(model, task.loss, whole, {.structure = Structure::Ekfac});
    const Result combined = combine_data<double>(moments);
    CHECK(combined.record.structure == Structure::Ekfac);
    check_equal(combined, expected);
  });
}

TEST_CASE("combine_layers: estimates of some layers each make that of all") {
  for_each_task([](AnyModel& model, const Task& task) {
    const auto data = growing_slices(task);
    for (const Structure structure :
         {Structure::Diagonal, Structure::Kronecker, Structure::Ekfac, Structure::Full}) {
      Parts parts;
      for (const std::string name : {"4", "0", "1"})
        parts.push_back(estimate_curvature(
            model, task.loss, data,
            {.structure = structure,
             .layers = [&](const std::string& layer) { return layer == name; }}));
      const Result expected = estimate_curvature(model, task.loss, data, {.structure = structure});
      const Result combined = combine_layers<double>(parts);
      CHECK(combined.record == expected.record);
      CHECK(dense_blocks(combined) == dense_blocks(expected));
    }
  });
}

TEST_CASE("Parts of estimates that do not belong together are refused") {
  Rng rng(5);
  Sequential model{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 2, rng)};
  Sequential wider{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 3, rng)};
  const SoftmaxCrossEntropy<double> loss;
  const SoftmaxCrossEntropy<double> sum(LossOptions{Reduction::Sum});
  const Dataset<double> data{random_matrix(3, 5, rng), random_labels(2, 5, rng)};
  const auto all = slices(data, 5);
  const Result one = estimate_curvature(model, loss, all);
  const auto combined = [](Parts parts) { return [parts] { combine_data<double>(parts); }; };
  CHECK(message_of<ShapeError>(combined({})) ==
        "kfac::combine_data: 'parts' is empty, expected at least one estimate");
  CHECK(message_of<ShapeError>(combined({one, estimate_curvature(wider, loss, all)})) ==
        "kfac::combine_data: 'estimate' has block '2', Linear 3x(2+1), expected '2', Linear "
        "2x(2+1)");
  const std::string kinds =
      "kfac::combine_data: 'parts' are of different kinds, expected one structure, Fisher type, "
      "number of samples, weight sharing and reduction";
  CHECK(message_of<ValueError>(combined({one, estimate_curvature(model, sum, all)})) == kinds);
  CHECK(message_of<ValueError>(combined(
            {one, estimate_curvature(model, loss, all, {.structure = Structure::Full})})) == kinds);
  CHECK(message_of<ValueError>(combined(
            {one, estimate_curvature(model, loss, all, {.fisher = FisherType::Empirical})})) ==
        kinds);
  Result scaled = estimate_curvature(model, sum, all);
  scaled.record.loss_scale = 2;
  CHECK(message_of<ValueError>(combined({estimate_curvature(model, sum, all), scaled})) ==
        "kfac::combine_data: 'parts' have losses of different scales, 2 and 1, expected one");
  CHECK(message_of<ValueError>(combined(
            {one, estimate_curvature(
                      model, loss, all,
                      {.layers = [](const std::string& layer) { return layer == "0"; }})})) ==
        "kfac::combine_data: 'parts' have different forms of layer '2', expected the same");
  const Result ekfac = estimate_curvature(model, loss, all, {.structure = Structure::Ekfac});
  Result other = ekfac;
  model.layers()[0].parameters *= 2;
  CHECK(message_of<ValueError>(combined(
            {ekfac, estimate_curvature(model, loss, all, {.structure = Structure::Ekfac})})) ==
        "kfac::combine_data: 'parts' have second moments in different bases, expected those of one "
        "decompose (layer '0')");
  CHECK(message_of<ValueError>([&] {
          combine_layers<double>(Parts{one, one});
        }) == "kfac::combine_layers: layer '0' is in two of the 'parts', expected one");
  other.record.seed = 4;
  CHECK(message_of<ValueError>([&] {
          combine_layers<double>(Parts{ekfac, other});
        }) ==
        "kfac::combine_layers: 'parts' are not of the same data and seed, expected equal records");
}

}  // namespace kfac::test::combine_estimates_test
