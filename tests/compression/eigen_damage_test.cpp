#include <string>
#include <vector>

#include <kfac/compression/cost.hpp>
#include <kfac/compression/eigen_damage.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::eigen_damage_test {

namespace {

/// Padding, strides, a layer without bias, and a skip.
AnyModel network(Rng& rng) {
  return AnyModel(
      {Conv2d<double>({.in_channels = 2,
                       .out_channels = 3,
                       .kernel_size = {2, 2},
                       .stride = {1, 2},
                       .padding = {1, 1}},
                      rng),
       Tanh<double>{}, Flatten<double>{}, Linear<double>(24, 3, rng), Tanh<double>{},
       Residual(AnyModel({Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 3, rng)})),
       Linear<double>(3, 2, rng, {.bias = false})});
}
const Shape kShape{2, 3, 2};

Matrix<double> outputs(AnyModel model, const Matrix<double>& x, const Shape& shape) {
  return model.forward(x, shape);
}

/// Nothing but factors.
EigenDamageOptions factors_only(double ratio) {
  return {.ratio = ratio, .fold = false, .only_if_smaller = false};
}

/// What pruning a row or a column of a rotated layer costs, by the dense curvature.
double cost_of(const BlockEstimate<double>& block, const Matrix<double>& change) {
  const Vector<double> d = change.reshaped();
  return 0.5 * d.dot(dense_curvature(block) * d);
}

}  // namespace

TEST_CASE("eigen_damage: with nothing pruned the factors compute what the layers did",
          "[compression][exact]") {
  for (const auto structure : {CurvatureStructure::Kronecker, CurvatureStructure::Ekfac}) {
    Rng rng(1);
    AnyModel model = network(rng);
    const Curvature estimate = random_estimate(model, structure, rng);
    const Matrix<double> x = random_matrix(kShape.size(), 6, rng);
    const auto factored = eigen_damage(model, estimate, factors_only(0));
    CHECK(factored.model.parameter_count() > model.parameter_count());
    CHECK(factored.cores == std::vector<std::string>{"1", "6", "11", "9.0.1", "9.0.5"});
    CHECK(relative_error(outputs(factored.model, x, kShape), outputs(model, x, kShape)) < 1e-12);
    // Folded, it is no larger than before.
    EigenDamageOptions options = factors_only(0);
    options.fold = true;
    const auto folded = eigen_damage(model, estimate, options);
    CHECK(folded.model.parameter_count() == model.parameter_count());
    CHECK(relative_error(outputs(folded.model, x, kShape), outputs(model, x, kShape)) < 1e-12);
    // What does not become smaller stays, bit by bit.
    AnyModel kept = eigen_damage(model, estimate, {.ratio = 0}).model;
    CHECK(flat_parameters(kept) == flat_parameters(model));
  }
}

TEST_CASE("eigen_damage: prunes the eigen-channels that cost least by the dense curvature",
          "[compression][exact]") {
  for (const auto structure : {CurvatureStructure::Kronecker, CurvatureStructure::Ekfac})
    for (const bool bias : {false, true}) {
      Rng rng(2);
      AnyModel model({Linear<double>(5, 4, rng, {.bias = bias})});
      const Curvature estimate = random_estimate(model, structure, rng);
      const BlockEstimate<double>& block = estimate.blocks[0];
      const Vector<double> flat = flat_parameters(model);
      const Matrix<double> w = block.block.of(flat);

      // Each entry of W in the bases, with the change of the bias that goes with it.
      const detail::CentredInputs inputs(block.factors.a, bias);
      const Matrix<double> q_a =
          Eigen::SelfAdjointEigenSolver<Matrix<double>>(inputs.covariance).eigenvectors();
      const Matrix<double> q_g =
          Eigen::SelfAdjointEigenSolver<Matrix<double>>(block.factors.g).eigenvectors();
      const Matrix<double> rotated = q_g.transpose() * w.leftCols(5) * q_a;
      Vector<double> scores = Vector<double>::Zero(9);
      for (Index i = 0; i < 4; ++i)
        for (Index j = 0; j < 5; ++j) {
          Matrix<double> change = Matrix<double>::Zero(4, w.cols());
          change.leftCols(5) = rotated(i, j) * q_g.col(i) * q_a.col(j).transpose();
          if (bias) change.col(5) = -change.leftCols(5) * inputs.mean;
          const double cost = cost_of(block, change);
          scores(i) += cost;
          scores(4 + j) += cost;
        }
      std::vector<Index> order{0, 1, 2, 3, 4, 5, 6, 7, 8};
      std::sort(order.begin(), order.end(),
                [&](Index a, Index b) { return scores(a) < scores(b); });
      Matrix<double> left = rotated;
      for (const Index gone : {order[0], order[1], order[2], order[3]}) {
        if (gone < 4)
          left.row(gone).setZero();
        else
          left.col(gone - 4).setZero();
      }
      Matrix<double> expected = w;
      expected.leftCols(5) = q_g * left * q_a.transpose();
      if (bias) expected.col(5) -= (expected.leftCols(5) - w.leftCols(5)) * inputs.mean;
      AnyModel dense({Linear<double>(5, 4, rng, {.bias = bias})});
      Vector<double> parameters(dense.parameter_count());
      block.block.of(parameters) = expected;
      set_flat_parameters(dense, parameters);

      const auto factored = eigen_damage(model, estimate, factors_only(4.0 / 9));
      const Matrix<double> x = random_matrix(5, 7, rng);
      CHECK(relative_error(outputs(factored.model, x, {5}), outputs(dense, x, {5})) < 1e-10);
      CHECK(factored.model.size() == 3);
    }
}

TEST_CASE("eigen_damage: of a convolution the channels are rotated, the kernel stays",
          "[compression]") {
  Rng rng(3);
  AnyModel model({Conv2d<double>({.in_channels = 4,
                                  .out_channels = 5,
                                  .kernel_size = {3, 2},
                                  .stride = {2, 1},
                                  .padding = {1, 1}},
                                 rng)});
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const auto factored = eigen_damage(model, estimate, factors_only(0.5));
  AnyModel smaller = factored.model;
  const auto layers = smaller.layers();
  REQUIRE(layers.size() == 3);
  const Index channels = layers[0].kronecker->outputs;
  const Index rows = layers[1].kronecker->outputs;
  CHECK(channels + rows == 5);  // 4 of 9 eigen-channels went
  CHECK(layers[0].kronecker->inputs == 4);
  CHECK(layers[1].kronecker->inputs == 6 * channels);
  CHECK(layers[2].kronecker->inputs == rows);
  CHECK(layers[2].kronecker->bias);
  const Shape shape{4, 5, 4};
  CHECK(smaller.output_shape(shape) == model.output_shape(shape));
  // Folding changes what it takes, not what it computes.
  EigenDamageOptions options = factors_only(0.5);
  options.fold = true;
  AnyModel folded = eigen_damage(model, estimate, options).model;
  CHECK(folded.parameter_count() <= smaller.parameter_count());
  const Matrix<double> x = random_matrix(shape.size(), 3, rng);
  CHECK(relative_error(outputs(folded, x, shape), outputs(smaller, x, shape)) < 1e-12);
}

TEST_CASE("eigen_damage: passes merge their rotations, each at a curvature of its own",
          "[compression]") {
  Rng rng(4);
  AnyModel model({Linear<double>(12, 9, rng), Tanh<double>{}, Linear<double>(9, 6, rng)});
  Data data(12, 6, 60, rng);
  const SoftmaxCrossEntropy<double> loss;
  const auto batches = slices(data.set, 60);
  std::vector<Index> sizes;
  std::vector<std::vector<std::string>> cores;
  auto result = eigen_damage(model, loss, batches, {.ratio = 0.7}, {.rounds = 3},
                             [&](FactoredNetwork<double>& network) {
                               sizes.push_back(network.model.parameter_count());
                               cores.push_back(network.cores);
                             });
  CHECK(sizes[1] < sizes[0]);
  CHECK(sizes[2] < sizes[1]);
  for (const auto& names : cores) CHECK(names.size() == 2);
  // Bases are merged, not stacked: at most three layers for one.
  CHECK(result.model.size() <= 7);
  CHECK(result.model.parameter_count() == sizes[2]);
  CHECK(sizes[2] < model.parameter_count());
  const auto once = eigen_damage(model, loss, batches, {.ratio = 0.7});
  const auto curvature = estimate_curvature(model, loss, batches);
  AnyModel part = eigen_damage(model, curvature, {.ratio = 0.7}).model;
  AnyModel whole = once.model;
  CHECK(flat_parameters(whole) == flat_parameters(part));

  // A pass that prunes nothing more, on the cores, changes nothing that is computed.
  const auto again = estimate_curvature(result.model, loss, batches);
  EigenDamageOptions options{.ratio = 0, .layers = result.cores, .only_if_smaller = false};
  const auto same = eigen_damage(result.model, again, options);
  const Matrix<double> x = random_matrix(12, 5, rng);
  CHECK(same.model.parameter_count() <= result.model.parameter_count());
  CHECK(relative_error(outputs(same.model, x, {12}), outputs(result.model, x, {12})) < 1e-10);
}

TEST_CASE("eigen_damage: layers are those that are named", "[compression]") {
  Rng rng(5);
  AnyModel model = small_mlp(rng);
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  EigenDamageOptions options = factors_only(0.4);
  options.layers = {"2"};
  const auto factored = eigen_damage(model, estimate, options);
  CHECK(factored.model.size() == 7);
  CHECK(factored.cores == std::vector<std::string>{"3"});
}

TEST_CASE("eigen_damage: what is wrong is named, and the model is as it was",
          "[compression][errors]") {
  Rng rng(6);
  AnyModel model = small_mlp(rng);
  AnyModel other = small_network(rng);
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const Curvature diagonal = random_estimate(model, CurvatureStructure::Diagonal, rng);
  Data data(4, 3, 10, rng);
  const Vector<double> before = flat_parameters(model);
  const auto message = [&](AnyModel& of, const Curvature& with, const EigenDamageOptions& options) {
    return message_of<std::invalid_argument>([&] { eigen_damage(of, with, options); });
  };
  CHECK(message(model, estimate, {.ratio = -1}) ==
        "kfac::eigen_damage: 'ratio' is -1, expected 0 <= ratio < 1");
  CHECK(message(model, estimate, {.ratio = 0.5, .layer_limit = 0.4}) ==
        "kfac::eigen_damage: 'layer_limit' is 0.4, expected ratio <= layer_limit <= 1");
  CHECK(message(model, estimate, {.layers = {"3"}}) ==
        "kfac::eigen_damage: 'layers' has '3', expected a Linear, or a convolution without groups");
  CHECK(message(other, estimate, {}).starts_with("kfac::eigen_damage: 'estimate' has block '0'"));
  CHECK(message(model, diagonal, {}) ==
        "kfac::eigen_damage: 'estimate' has no Kronecker factors, expected some (layer '0')");
  CHECK(message_of<MemoryError>([&] {
          eigen_damage(model, estimate, {.memory_limit = 10});
        }).starts_with("kfac::eigen_damage: 'memory_limit' is 10 B"));
  CHECK(message_of<OptionError>([&] {
          eigen_damage(model, SoftmaxCrossEntropy<double>{}, slices(data.set, 10), {},
                       {.rounds = 0});
        }) == "kfac::eigen_damage: 'rounds' is 0, expected >= 1");
  CHECK(flat_parameters(model) == before);
}

}  // namespace kfac::test::compression::eigen_damage_test
