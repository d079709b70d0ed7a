#include <string>
#include <vector>

#include <kfac/compression/choose_units.hpp>
#include <kfac/compression/cost.hpp>
#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/dynamic_copy.hpp>
#include <kfac/nn/pooling.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::remove_units_test {

namespace {

struct Case {
  AnyModel model;
  Shape shape;
};

/// A network of each kind that units can be taken out of.
std::vector<Case> cases(Rng& rng) {
  std::vector<Case> result;
  result.push_back({small_mlp(rng), {4}});
  result.push_back({small_network(rng), {16}});
  const auto conv = [&](Index in, Index out, Index padding) {
    return Conv2d<double>({.in_channels = in,
                           .out_channels = out,
                           .kernel_size = {2, 3},
                           .padding = {padding, padding}},
                          rng);
  };
  result.push_back(
      {AnyModel({conv(2, 4, 1), ReLU<double>{}, MaxPool2d<double>{}, conv(4, 3, 1), Tanh<double>{},
                 AvgPool2d<double>{}, Flatten<double>{}, Linear<double>(6, 4, rng), GELU<double>{},
                 Linear<double>(4, 2, rng)}),
       {2, 5, 7}});
  result.push_back({AnyModel({conv(1, 4, 0), Dropout<double>(0.3, rng), Sigmoid<double>{},
                              SpatialMean<double>{}, Linear<double>(4, 2, rng)}),
                    {1, 3, 4}});
  // Tokens: units on the last axis, in turn where they are flattened.
  result.push_back({AnyModel({Linear<double>(2, 4, rng), Tanh<double>{}, Linear<double>(4, 3, rng),
                              Tanh<double>{}, Flatten<double>{}, Linear<double>(9, 2, rng)}),
                    {3, 2}});
  result.push_back(
      {AnyModel({conv(1, 3, 0), Tanh<double>{}, ChannelsLast<double>{}, Linear<double>(3, 4, rng),
                 Tanh<double>{}, Flatten<double>{}, Linear<double>(16, 2, rng)}),
       {1, 3, 4}});
  // Within the block of a skip, and not across it.
  result.push_back(
      {AnyModel({Linear<double>(3, 4, rng), Tanh<double>{},
                 Residual(AnyModel({Linear<double>(4, 5, rng), Tanh<double>{},
                                    Linear<double>(5, 4, rng, {.bias = false})})),
                 Linear<double>(4, 4, rng), Softplus<double>{}, Linear<double>(4, 2, rng)}),
       {3}});
  for (Case& one : result) one.model.eval();
  return result;
}

/// Some units of each link, never all.
std::vector<UnitRemoval> some_units(const std::vector<UnitLink>& links, Rng& rng) {
  std::vector<UnitRemoval> removals;
  for (const UnitLink& link : links) {
    std::vector<Index> units;
    for (Index unit = 0; unit < link.units; ++unit) units.push_back(unit);
    rng.shuffle(units);
    units.resize(static_cast<std::size_t>(rng.below(link.units)));
    removals.push_back({link.layer, units});
  }
  return removals;
}

const ParameterBlock& block_called(const std::vector<ParameterBlock>& blocks,
                                   const std::string& name) {
  for (const ParameterBlock& block : blocks)
    if (block.name() == name) return block;
  FAIL("no block " << name);
  return blocks.front();
}

/// The model with the next layers' weights of those units at zero.
AnyModel masked(const AnyModel& original, const std::vector<UnitRemoval>& removals) {
  AnyModel model = original;
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const std::vector<UnitLink> links = unit_links(model);
  Vector<double> flat = flat_parameters(model);
  for (const UnitRemoval& removal : removals)
    for (const UnitLink& link : links) {
      if (link.layer != removal.layer) continue;
      for (const Index unit : removal.units)
        for (const Index column : link.columns(unit))
          block_called(blocks, link.next).of(flat).col(column).setZero();
    }
  set_flat_parameters(model, flat);
  return model;
}

}  // namespace

TEST_CASE("remove_units: the smaller network computes what the masked one does",
          "[compression][exact]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    for (Case& one : cases(rng)) {
      const std::vector<UnitLink> links = unit_links(one.model);
      const std::vector<UnitRemoval> removals = some_units(links, rng);
      AnyModel smaller = remove_units(one.model, removals);
      AnyModel expected = masked(one.model, removals);
      const Matrix<double> x = random_matrix(one.shape.size(), 5, rng);
      const Matrix<double> outputs = smaller.forward(x, one.shape);
      CHECK(relative_error(outputs, Matrix<double>(expected.forward(x, one.shape))) < 1e-12);
      Index fewer = 0;
      for (std::size_t i = 0; i < links.size(); ++i)
        fewer += static_cast<Index>(removals[i].units.size());
      if (fewer > 0) CHECK(smaller.parameter_count() < one.model.parameter_count());
      CHECK(network_cost(smaller, one.shape).parameters() == smaller.parameter_count());
    }
  }
}

TEST_CASE("remove_units: where the activation keeps zero, also what one with masked rows does",
          "[compression][exact]") {
  Rng rng(1);
  AnyModel model = small_mlp(rng);
  const std::vector<UnitRemoval> removals{{"0", {5, 0, 2}}, {"2", {1}}};
  AnyModel smaller = remove_units(model, removals);
  AnyModel expected = model;
  Vector<double> flat = flat_parameters(expected);
  const auto blocks = parameter_blocks(expected);
  for (const Index row : {0, 2, 5}) blocks[0].of(flat).row(row).setZero();
  blocks[1].of(flat).row(1).setZero();
  set_flat_parameters(expected, flat);
  const Matrix<double> x = random_matrix(4, 6, rng);
  const Matrix<double> outputs = smaller.forward(x);
  CHECK(relative_error(outputs, Matrix<double>(expected.forward(x))) < 1e-12);
  CHECK(smaller.parameter_count() == 5 * 3 + 4 * 4 + 5 * 3);
}

TEST_CASE("unit_links: layers between which units are apart, and no others", "[compression]") {
  Rng rng(2);
  std::vector<Case> all = cases(rng);
  const auto names = [](const AnyModel& model) {
    std::string text;
    for (const UnitLink& link : unit_links(model))
      text += link.layer + '-' + link.next + 'x' + std::to_string(link.positions) +
              (link.interleaved ? "i " : " ");
    return text;
  };
  CHECK(names(all[0].model) == "0-2x1 2-4x1 ");
  CHECK(names(all[1].model) == "1-4x9 4-6x1 ");
  CHECK(names(all[2].model) == "0-3x6 3-7x2 7-9x1 ");
  CHECK(names(all[3].model) == "0-4x1 ");
  CHECK(names(all[4].model) == "0-2x1 2-5x3i ");
  CHECK(names(all[5].model) == "0-3x1 3-6x4i ");
  CHECK(names(all[6].model) == "3-5x1 2.0.0-2.0.2x1 ");
  const auto grouped = [&](Index in, Index out, Index groups) {
    return Conv1d<double>(
        {.in_channels = in, .out_channels = out, .kernel_size = {1}, .groups = groups}, rng);
  };
  CHECK(names(AnyModel({grouped(2, 4, 2), grouped(4, 4, 1), grouped(4, 4, 2)})) == "");
  // A linear map of the last axis reads no channels; pooling mixes what is on the last axis.
  CHECK(names(AnyModel({grouped(2, 4, 1), Linear<double>(4, 3, rng)})) == "");
  CHECK(names(AnyModel(
            {Linear<double>(2, 4, rng), MaxPool1d<double>{}, Linear<double>(2, 3, rng)})) == "");
  CHECK(names(AnyModel(
            {Linear<double>(2, 4, rng), SpatialMean<double>{}, Linear<double>(4, 3, rng)})) == "");
  CHECK(names(AnyModel({Linear<double>(2, 4, rng), Unflatten<double>({1, 4}), grouped(1, 1, 1)})) ==
        "");
}

TEST_CASE("remove_units: compensation is the dense constrained minimum of the next layer",
          "[compression][exact]") {
  Rng rng(3);
  for (Case& one : cases(rng)) {
    const Curvature estimate = random_estimate(one.model, CurvatureStructure::Kronecker, rng);
    for (const UnitLink& link : unit_links(one.model)) {
      std::vector<Index> columns = link.columns(0);
      if (link.units > 2)
        for (const Index column : link.columns(link.units - 1)) columns.push_back(column);
      const std::vector<UnitRemoval> removals{
          {link.layer,
           link.units > 2 ? std::vector<Index>{link.units - 1, 0} : std::vector<Index>{0}}};
      AnyModel smaller = remove_units(one.model, removals, estimate, {.damping = 0.05});
      const Vector<double> flat = flat_parameters(one.model);
      for (const BlockEstimate<double>& block : estimate.blocks) {
        if (block.block.name() != link.next) continue;
        const Index outputs = block.block.outputs;
        std::vector<Index> gone;
        for (const Index column : columns)
          for (Index i = 0; i < outputs; ++i) gone.push_back(column * outputs + i);
        const Removal expected =
            removal(dense_curvature(block, 0.05),
                    flat.segment(block.block.offset, block.block.size()), gone);
        std::vector<double> left;
        for (Index q = 0; q < expected.left.size(); ++q)
          if (std::find(gone.begin(), gone.end(), q) == gone.end())
            left.push_back(expected.left(q));
        const Vector<double> after = flat_parameters(smaller);
        const ParameterBlock small = block_called(parameter_blocks(smaller), link.next);
        const Vector<double> actual = after.segment(small.offset, small.size());
        CHECK(relative_error(actual, Vector<double>(VectorMap<double>(
                                         left.data(), static_cast<Index>(left.size())))) < 1e-9);
        // The saliency of one unit is what its removal costs.
        const auto saliencies = unit_saliencies(
            one.model, estimate, {.saliency = UnitSaliency::NextLayer, .damping = 0.05});
        std::vector<Index> first;
        for (const Index column : link.columns(0))
          for (Index i = 0; i < outputs; ++i) first.push_back(column * outputs + i);
        const double cost = removal(dense_curvature(block, 0.05),
                                    flat.segment(block.block.offset, block.block.size()), first)
                                .cost;
        const auto links = unit_links(one.model);
        for (std::size_t i = 0; i < links.size(); ++i)
          if (links[i].layer == link.layer) CHECK(saliencies[i](0) == Approx(cost).epsilon(1e-9));
      }
    }
  }
}

TEST_CASE("choose_units: the least salient of all layers, one of each stays", "[compression]") {
  Rng rng(4);
  AnyModel model = small_mlp(rng);  // 6 and 5 hidden units
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const auto rows = row_saliencies(model, estimate, {.saliency = Saliency::Obs});
  const auto removals = choose_units(model, estimate, {.ratio = 0.3});
  double largest = 0;
  Index count = 0;
  for (const UnitRemoval& removal : removals)
    for (const Index unit : removal.units) {
      largest = std::max(largest, rows[removal.layer == "0" ? 0 : 1](unit));
      ++count;
    }
  CHECK(count == 3);
  Index below = 0;
  for (int layer : {0, 1})
    below += (rows[static_cast<std::size_t>(layer)].array() <= largest).count();
  CHECK(below == 3);
  Index most = 0;
  for (const UnitRemoval& removal : choose_units(model, estimate, {.ratio = 0.9, .layer_limit = 1}))
    most += static_cast<Index>(removal.units.size());
  CHECK(most == 9);
  for (const auto saliency : {UnitSaliency::Random, UnitSaliency::Magnitude, UnitSaliency::Obd})
    CHECK(unit_saliencies(model, estimate, {.saliency = saliency})[1].size() == 5);
  CHECK(unit_saliencies(model, {}, {.saliency = UnitSaliency::Random, .seed = 1}) !=
        unit_saliencies(model, {}, {.saliency = UnitSaliency::Random, .seed = 2}));
}

TEST_CASE("prune_units: in rounds as many go as at once, each at the network's own curvature",
          "[compression]") {
  Rng rng(5);
  AnyModel model = small_mlp(rng);
  Data data(4, 3, 40, rng);
  const SoftmaxCrossEntropy<double> loss;
  const auto batches = slices(data.set, 40);
  std::vector<Index> sizes;
  AnyModel rounds =
      prune_units(model, loss, batches, {.ratio = 0.5}, {.rounds = 3}, [&](AnyModel& smaller) {
        Index units = 0;
        for (const UnitLink& link : unit_links(smaller)) units += link.units;
        sizes.push_back(units);
      });
  CHECK(sizes == std::vector<Index>{9, 7, 6});
  AnyModel once = prune_units(model, loss, batches, {.ratio = 0.5});
  const auto curvature = estimate_curvature(model, loss, batches);
  AnyModel parts = remove_units(model, choose_units(model, curvature, {.ratio = 0.5}), curvature);
  CHECK(flat_parameters(once) == flat_parameters(parts));
  CHECK(flat_parameters(once).size() > 0);
}

TEST_CASE("dynamic_copy: a network of types as one that can be changed", "[compression][nn]") {
  Rng rng(6);
  Sequential model{Linear<double, 3, 4>(rng), Tanh<double>{},
                   Residual(Linear<double>(4, 4, rng), ReLU<double>{}, Linear<double>(4, 4, rng)),
                   Sequential{Linear<double>(4, 3, rng), Tanh<double>{}},
                   Linear<double>(3, 2, rng, {.bias = false})};
  model.eval();
  DynamicSequential<double> copy = dynamic_copy(model);
  const Matrix<double> x = random_matrix(3, 4, rng);
  const Matrix<double> outputs = copy.forward(x);
  CHECK(relative_error(outputs, Matrix<double>(model.forward(x))) < 1e-14);
  CHECK_FALSE(copy.workspace().mode.training);
  const auto links = unit_links(copy);
  REQUIRE(links.size() == 1);
  CHECK(links[0].layer == "2.0.0");
  CHECK(remove_units(copy, {{"2.0.0", {1, 3}}}).parameter_count() == copy.parameter_count() - 18);
}

TEST_CASE("remove_units: what is wrong is named, and the model is as it was",
          "[compression][errors]") {
  Rng rng(7);
  AnyModel model = small_mlp(rng);
  AnyModel other = small_network(rng);
  const Vector<double> before = flat_parameters(model);
  const auto message = [&](const std::vector<UnitRemoval>& removals) {
    return message_of<ValueError>([&] { remove_units(model, removals); });
  };
  CHECK(message({{"4", {0}}}) ==
        "kfac::remove_units: 'removals' has layer '4', expected one whose units can be removed: "
        "'0', '2'");
  CHECK(message({{"0", {0}}, {"0", {1}}}) ==
        "kfac::remove_units: 'removals' has layer '0' twice, expected it once");
  CHECK(message({{"0", {6}}}) == "kfac::remove_units: 'units' has 6, expected 0 to 5 (layer '0')");
  CHECK(message({{"0", {2, 2}}}) ==
        "kfac::remove_units: 'units' has 2 twice, expected it once (layer '0')");
  CHECK(message({{"2", {0, 1, 2, 3, 4}}}) ==
        "kfac::remove_units: 'units' are all 5, expected at least one to be left (layer '2')");
  const Curvature estimate = random_estimate(other, CurvatureStructure::Kronecker, rng);
  const Curvature diagonal = random_estimate(model, CurvatureStructure::Diagonal, rng);
  CHECK(message_of<ShapeError>([&] {
          remove_units(model, {{"0", {0}}}, estimate);
        }).starts_with("kfac::remove_units: 'estimate' has block '1', Conv2d"));
  CHECK(message_of<ValueError>([&] {
          remove_units(model, {{"0", {0}}}, diagonal);
        }) == "kfac::remove_units: 'estimate' has no Kronecker factors, expected some (layer '2')");
  CHECK(message_of<OptionError>([&] {
          remove_units(model, {{"0", {0}}}, diagonal, {.damping = -1});
        }) == "kfac::remove_units: 'damping' is -1, expected >= 0 and finite");
  CHECK(message_of<OptionError>([&] { choose_units(model, diagonal, {.ratio = 1}); }) ==
        "kfac::choose_units: 'ratio' is 1, expected 0 <= ratio < 1");
  Curvature dead = random_estimate(model, CurvatureStructure::Kronecker, rng);
  dead.blocks[1].factors.a.setZero();
  CHECK(message_of<SingularError>([&] {
          remove_units(model, {{"0", {0}}}, dead, {.damping = 0});
        }) == "kfac::remove_units: the curvature is singular, expected damping > 0 (layer '2')");
  CHECK(flat_parameters(model) == before);
}

}  // namespace kfac::test::compression::remove_units_test
