#include <cmath>
#include <limits>
#include <vector>

#include <kfac/compression/saliency.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::saliency_test {

namespace {

std::vector<Index> row_of(const ParameterBlock& block, Index row) {
  std::vector<Index> entries;
  for (Index j = 0; j < block.columns(); ++j) entries.push_back(j * block.outputs + row);
  return entries;
}

std::vector<Index> column_of(const ParameterBlock& block, Index column) {
  std::vector<Index> entries;
  for (Index i = 0; i < block.outputs; ++i) entries.push_back(column * block.outputs + i);
  return entries;
}

/// 1/2 w_S^T C_SS w_S.
double cost_alone(const Matrix<double>& c, const Vector<double>& w,
                  const std::vector<Index>& entries) {
  const Vector<double> part = w(entries);
  const Matrix<double> among = c(entries, entries);
  return 0.5 * part.dot(among * part);
}

void require_near(double actual, double expected) {
  REQUIRE(std::abs(actual - expected) <= 1e-10 * std::abs(expected));
}

}  // namespace

TEST_CASE("saliencies: OBD and OBS are the cost by dense algebra, of any structure",
          "[compression][exact]") {
  for (const CurvatureStructure structure : kStructures) {
    for (const double damping : {0.0, 0.3}) {
      Rng rng(static_cast<std::uint64_t>(structure));
      AnyModel model({Linear<double>(3, 4, rng), Linear<double>(4, 2, rng, {.bias = false})});
      const Curvature estimate = random_estimate(model, structure, rng);
      const Vector<double> flat = flat_parameters(model);
      const auto of = [&](Saliency saliency) {
        return SaliencyOptions{.saliency = saliency, .damping = damping};
      };
      const auto weights = weight_saliencies(model, estimate, of(Saliency::Obd));
      const auto joint_weights = weight_saliencies(model, estimate, of(Saliency::Obs));
      const auto rows = row_saliencies(model, estimate, of(Saliency::Obd));
      const auto joint_rows = row_saliencies(model, estimate, of(Saliency::Obs));
      const auto columns = column_saliencies(model, estimate, of(Saliency::Obd));
      const auto joint_columns = column_saliencies(model, estimate, of(Saliency::Obs));
      for (std::size_t i = 0; i < estimate.blocks.size(); ++i) {
        const ParameterBlock& block = estimate.blocks[i].block;
        const Matrix<double> c = dense_curvature(estimate.blocks[i]);
        const Matrix<double> damped = dense_curvature(estimate.blocks[i], damping);
        const Vector<double> w = flat.segment(block.offset, block.size());
        for (Index q = 0; q < block.outputs * block.inputs; ++q) {
          require_near(weights(block.offset + q), cost_alone(c, w, {q}));
          require_near(joint_weights(block.offset + q), removal(damped, w, {q}).cost);
        }
        for (Index q = block.outputs * block.inputs; q < block.size(); ++q)
          REQUIRE(std::isinf(weights(block.offset + q)));
        for (Index row = 0; row < block.outputs; ++row) {
          require_near(rows[i](row), cost_alone(c, w, row_of(block, row)));
          require_near(joint_rows[i](row), removal(damped, w, row_of(block, row)).cost);
        }
        for (Index column = 0; column < block.columns(); ++column) {
          require_near(columns[i](column), cost_alone(c, w, column_of(block, column)));
          require_near(joint_columns[i](column), removal(damped, w, column_of(block, column)).cost);
        }
      }
    }
  }
}

TEST_CASE("saliencies: of the estimated curvature of a network with a convolution",
          "[compression][exact]") {
  Rng rng(3);
  AnyModel model = small_network(rng);
  Data data(16, 3, 60, rng);
  const Curvature estimate =
      estimate_curvature(model, SoftmaxCrossEntropy<double>{}, slices(data.set, 25));
  const Vector<double> flat = flat_parameters(model);
  const double damping = 1e-2;
  const auto joint =
      row_saliencies(model, estimate, {.saliency = Saliency::Obs, .damping = damping});
  for (std::size_t i = 0; i < estimate.blocks.size(); ++i) {
    const ParameterBlock& block = estimate.blocks[i].block;
    const Matrix<double> c = dense_curvature(estimate.blocks[i], damping);
    for (Index row = 0; row < block.outputs; ++row)
      require_near(joint[i](row),
                   removal(c, flat.segment(block.offset, block.size()), row_of(block, row)).cost);
  }
}

TEST_CASE("saliencies: OBD and OBS agree where the curvature is a multiple of I",
          "[compression][exact]") {
  Rng rng(4);
  AnyModel model({Linear<double>(3, 4, rng)});
  Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  estimate.blocks[0].factors = {Matrix<double>::Identity(4, 4), 2 * Matrix<double>::Identity(4, 4)};
  const auto of = [&](Saliency saliency) {
    return Vector<double>(
        weight_saliencies(model, estimate, {.saliency = saliency, .damping = 0}).head(12));
  };
  CHECK(relative_error(of(Saliency::Obs), of(Saliency::Obd)) < 1e-14);
  CHECK(relative_error(of(Saliency::Obd), 2 * of(Saliency::Magnitude)) < 1e-14);
}

TEST_CASE("saliencies: magnitudes and random ones need no estimate, and a seed repeats them",
          "[compression]") {
  Rng rng(5);
  AnyModel model = small_mlp(rng);
  const Vector<double> flat = flat_parameters(model);
  const auto magnitudes = weight_saliencies(model, {}, {.saliency = Saliency::Magnitude});
  CHECK(magnitudes(0) == 0.5 * flat(0) * flat(0));
  const auto rows = row_saliencies(model, {}, {.saliency = Saliency::Magnitude});
  CHECK(rows[0](1) == Approx(0.5 * parameter_blocks(model)[0].of(flat).row(1).squaredNorm()));
  const auto columns = column_saliencies(model, {}, {.saliency = Saliency::Magnitude});
  CHECK(columns[0](1) == Approx(0.5 * parameter_blocks(model)[0].of(flat).col(1).squaredNorm()));
  const auto drawn = [&](std::uint64_t seed) {
    return Vector<double>(
        weight_saliencies(model, {}, {.saliency = Saliency::Random, .seed = seed}).head(24));
  };
  CHECK(drawn(1) == drawn(1));
  CHECK(drawn(1) != drawn(2));
  CHECK((drawn(1).minCoeff() >= 0 && drawn(1).maxCoeff() < 1));
}

TEST_CASE("saliencies: what is wrong is named", "[compression][errors]") {
  Rng rng(6);
  AnyModel model = small_mlp(rng);
  AnyModel other = small_network(rng);
  Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  CHECK(message_of<ShapeError>([&] {
          weight_saliencies(other, estimate);
        }).starts_with("kfac::weight_saliencies: 'estimate' has block '0', Linear 6x(4+1)"));
  CHECK(message_of<OptionError>([&] { weight_saliencies(model, estimate, {.damping = -1}); }) ==
        "kfac::weight_saliencies: 'damping' is -1, expected >= 0 and finite");
  CHECK(message_of<MemoryError>([&] {
          row_saliencies(model, estimate, {.memory_limit = 1000});
        }).starts_with("kfac::row_saliencies: 'memory_limit' is 1 kB, expected at least "));
  Curvature partial = estimate;
  partial.blocks[1].factors = {};
  CHECK(message_of<ValueError>([&] { row_saliencies(model, partial); }) ==
        "kfac::row_saliencies: 'estimate' has no curvature, expected some (layer '2')");
  estimate.blocks[2].factors.g.row(1).setZero();
  estimate.blocks[2].factors.g.col(1).setZero();
  CHECK(message_of<SingularError>([&] {
          column_saliencies(model, estimate, {.saliency = Saliency::Obs, .damping = 0});
          weight_saliencies(model, estimate, {.saliency = Saliency::Obs, .damping = 0});
        }) ==
        "kfac::weight_saliencies: the curvature is singular, expected damping > 0 (layer '4')");
  CHECK(weight_saliencies(model, estimate, {.saliency = Saliency::Obs}).head(24).allFinite());
}

}  // namespace kfac::test::compression::saliency_test
