#include <vector>

#include <kfac/compression/compensation.hpp>
#include <kfac/compression/exact_updates.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::compensation_test {

namespace {

/// Zeros and ones, with about that share of ones.
Vector<double> random_mask(AnyModel& model, double kept, Rng& rng) {
  Vector<double> mask(model.parameter_count());
  for (double& entry : mask) entry = rng.uniform() < kept ? 1 : 0;
  return mask;
}

std::vector<Index> zeros_of(const Vector<double>& mask) {
  std::vector<Index> zeros;
  for (Index i = 0; i < mask.size(); ++i)
    if (mask(i) == 0) zeros.push_back(i);
  return zeros;
}

CompensationOptions to_the_end(double damping) {
  return {.damping = damping, .tolerance = 1e-14, .max_iterations = 2000};
}

}  // namespace

TEST_CASE("compensate: equals the dense constrained minimum, of any structure and mask",
          "[compression][exact]") {
  for (const CurvatureStructure structure : kStructures)
    for (const double damping : {0.0, 0.1})
      for (const double kept : {0.2, 0.7, 1.0}) {
        INFO("structure " << static_cast<int>(structure) << " kept " << kept);
        Rng rng(7);
        AnyModel model({Linear<double>(3, 4, rng), Tanh<double>{},
                        Linear<double>(4, 2, rng, {.bias = false})});
        const Curvature estimate = random_estimate(model, structure, rng);
        const Vector<double> mask = random_mask(model, kept, rng);
        const Vector<double> before = flat_parameters(model);
        const auto reports = compensate(model, mask, estimate, to_the_end(damping));
        const Vector<double> after = flat_parameters(model);
        for (std::size_t i = 0; i < estimate.blocks.size(); ++i) {
          const ParameterBlock& block = estimate.blocks[i].block;
          const Vector<double> w = before.segment(block.offset, block.size());
          const Matrix<double> c = dense_curvature(estimate.blocks[i], damping);
          const std::vector<Index> gone = zeros_of(mask.segment(block.offset, block.size()));
          const Removal expected = removal(c, w, gone);
          CHECK(relative_error(Vector<double>(after.segment(block.offset, block.size())),
                               expected.left) < 1e-9);
          CHECK(std::abs(reports[i].cost - expected.cost) <= 1e-10 * (expected.cost + 1e-3));
          CHECK(reports[i].relative_residual < 1e-12);
          CHECK(reports[i].block == block.name());
          for (const Index q : gone) CHECK(after(block.offset + q) == 0);
          Vector<double> alone = Vector<double>::Zero(w.size());
          for (const Index q : gone) alone(q) = w(q);
          CHECK(std::abs(reports[i].cost_before - 0.5 * alone.dot(c * alone)) <=
                1e-10 * (1e-3 + reports[i].cost_before));
          CHECK(reports[i].cost <= reports[i].cost_before);
          if (gone.empty()) CHECK(reports[i].iterations == 0);
        }
      }
}

TEST_CASE("compensate: each iteration lowers the cost, from that of the mask alone",
          "[compression]") {
  Rng rng(8);
  const AnyModel original = small_network(rng);
  Data data(16, 3, 80, rng);
  AnyModel model = original;
  const Curvature estimate =
      estimate_curvature(model, SoftmaxCrossEntropy<double>{}, slices(data.set, 80));
  const Vector<double> mask = random_mask(model, 0.4, rng);
  double before = 0;
  for (const auto iterations : {0, 1, 2, 4, 8, 40}) {
    model = original;
    const auto reports = compensate(model, mask, estimate, {.max_iterations = iterations});
    double cost = 0;
    for (const BlockCompensation& report : reports) {
      cost += report.cost;
      CHECK(report.iterations <= iterations);
    }
    if (iterations == 0) {
      before = reports[0].cost_before + reports[1].cost_before + reports[2].cost_before;
      CHECK(cost == Approx(before).epsilon(1e-12));
    } else {
      CHECK(cost < before);
    }
    before = cost;
  }
}

TEST_CASE("compensate: of inputs alone it is the least-squares fit of each output",
          "[compression][exact]") {
  Rng rng(9);
  AnyModel model({Linear<double>(5, 3, rng)});
  Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const Vector<double> mask = random_mask(model, 0.5, rng);
  AnyModel both = model;
  compensate(both, mask, estimate, to_the_end(0));
  CompensationOptions options = to_the_end(0);
  options.inputs_only = true;
  AnyModel inputs = model;
  compensate(inputs, mask, estimate, options);
  estimate.blocks[0].factors.g.setIdentity();
  AnyModel expected = model;
  compensate(expected, mask, estimate, to_the_end(0));
  CHECK(relative_error(flat_parameters(inputs), flat_parameters(expected)) < 1e-12);
  CHECK(relative_error(flat_parameters(both), flat_parameters(expected)) > 1e-2);
}

TEST_CASE("compensate: preconditioners and tolerance decide how long it takes, not what comes out",
          "[compression]") {
  using linalg::KroneckerSumPreconditioner;
  Rng rng(10);
  const AnyModel original({Linear<double>(9, 6, rng)});
  AnyModel model = original;
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const Vector<double> mask = random_mask(model, 0.5, rng);
  std::vector<Vector<double>> found;
  std::vector<Index> iterations;
  for (const auto preconditioner :
       {KroneckerSumPreconditioner::None, KroneckerSumPreconditioner::Diagonal}) {
    CompensationOptions options = to_the_end(0);
    options.preconditioner = preconditioner;
    model = original;
    iterations.push_back(compensate(model, mask, estimate, options)[0].iterations);
    found.push_back(flat_parameters(model));
  }
  CHECK(relative_error(found[0], found[1]) < 1e-9);
  CHECK(iterations[0] != iterations[1]);
  model = original;
  const auto loose =
      compensate(model, mask, estimate, {.damping = 0, .tolerance = 0.1, .max_iterations = 2000});
  CHECK(loose[0].iterations < iterations[1]);
  CHECK(loose[0].relative_residual <= 0.1);
}

TEST_CASE("remove_rows, remove_columns: equal the dense constrained minimum",
          "[compression][exact]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const Index outputs = 2 + rng.below(5);
    const Index columns = 2 + rng.below(5);
    linalg::KroneckerTerm<double> factors{random_spd(columns, rng), random_spd(outputs, rng)};
    const Matrix<double> w = random_matrix(outputs, columns, rng);
    for (const double damping : {0.0, 0.2}) {
      BlockEstimate<double> block;
      block.factors = factors;
      const Matrix<double> c = dense_curvature(block, damping);
      const auto check = [&](bool by_rows, const std::vector<Index>& gone) {
        std::vector<Index> entries;
        for (Index q = 0; q < w.size(); ++q)
          for (const Index one : gone)
            if ((by_rows ? q % outputs : q / outputs) == one) entries.push_back(q);
        const Removal expected = removal(c, w.reshaped(), entries);
        Matrix<double> actual = w;
        const double cost = by_rows ? remove_rows<double>(actual, factors, gone, damping)
                                    : remove_columns<double>(actual, factors, gone, damping);
        CHECK(relative_error(Vector<double>(actual.reshaped()), expected.left) < 1e-10);
        CHECK(cost == Approx(expected.cost).epsilon(1e-10));
      };
      check(true, {outputs - 1});
      check(false, {0});
      if (outputs > 2) check(true, {outputs - 1, 0});
      if (columns > 3) check(false, {2, 0, 1});
    }
  }
}

TEST_CASE("remove_columns: the update does not depend on G, and takes over means by the bias",
          "[compression][exact]") {
  Rng rng(12);
  // Inputs of which one is constant but for the bias: its column goes into the bias.
  const Index examples = 50;
  Matrix<double> x = random_matrix(4, examples, rng);
  x.row(1).setConstant(3);
  x.row(3).setOnes();
  const Matrix<double> a = x * x.transpose() / static_cast<double>(examples);
  Matrix<double> w = random_matrix(3, 4, rng);
  Matrix<double> expected = w;
  expected.col(3) += 3 * w.col(1);
  expected.col(1).setZero();
  const linalg::KroneckerTerm<double> factors{a, random_spd(3, rng)};
  const double cost = remove_columns<double>(w, factors, {1});
  CHECK(relative_error(w, expected) < 1e-10);
  CHECK(std::abs(cost) < 1e-12);
}

TEST_CASE("compensate: what is wrong is named, and the network is as it was",
          "[compression][errors]") {
  Rng rng(13);
  AnyModel model = small_mlp(rng);
  AnyModel other = small_network(rng);
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const Curvature diagonal = random_estimate(model, CurvatureStructure::Diagonal, rng);
  const Vector<double> before = flat_parameters(model);
  Vector<double> mask = Vector<double>::Ones(model.parameter_count());
  const auto message = [&](const Curvature& with, const CompensationOptions& options) {
    return message_of<std::invalid_argument>([&] { compensate(model, mask, with, options); });
  };
  CHECK(message(estimate, {.damping = -1}) ==
        "kfac::compensate: 'damping' is -1, expected >= 0 and finite");
  CHECK(message(estimate, {.tolerance = -1}) ==
        "kfac::compensate: 'tolerance' is -1, expected >= 0 and finite");
  CHECK(message(estimate, {.max_iterations = -1}) ==
        "kfac::compensate: 'max_iterations' is -1, expected >= 0");
  CHECK(message(diagonal, {.inputs_only = true}) ==
        "kfac::compensate: 'inputs_only' is true, expected an estimate with Kronecker factors");
  CHECK(message_of<MemoryError>([&] {
          compensate(model, mask, estimate, {.memory_limit = 10});
        }).starts_with("kfac::compensate: 'memory_limit' is 10 B"));
  mask(3) = 0;
  Curvature partial = estimate;
  partial.blocks[0] = {};
  partial.blocks[0].block = estimate.blocks[0].block;
  CHECK(message(partial, {}) ==
        "kfac::compensate: 'estimate' has no curvature, expected some (layer '0')");
  mask(3) = 0.5;
  CHECK(message(estimate, {}) == "kfac::compensate: 'mask' has an entry 0.5, expected 0 or 1");
  mask.conservativeResize(7);
  CHECK(message(estimate, {}) == "kfac::compensate: 'mask' has 7 entries, expected 83");
  CHECK(message_of<ShapeError>([&] {
          compensate(other, Vector<double>::Ones(other.parameter_count()), estimate);
        }).starts_with("kfac::compensate: 'estimate' has block '0'"));
  CHECK(flat_parameters(model) == before);
}

TEST_CASE("remove_rows, remove_columns: what is wrong is named, and W is as it was",
          "[compression][errors]") {
  Rng rng(14);
  const Matrix<double> before = random_matrix(3, 2, rng);
  Matrix<double> w = before;
  linalg::KroneckerTerm<double> factors{random_spd(2, rng), random_spd(3, rng)};
  const auto rows = [&](const std::vector<Index>& gone) {
    return message_of<ValueError>([&] { remove_rows<double>(w, factors, gone); });
  };
  CHECK(rows({0, 3}) == "kfac::remove_rows: 'rows' has 3, expected 0 to 2");
  CHECK(rows({1, 1}) == "kfac::remove_rows: 'rows' has 1 twice, expected it once");
  CHECK(rows({0, 1, 2}) == "kfac::remove_rows: 'rows' are all 3, expected at least one to be left");
  CHECK(message_of<ValueError>([&] {
          remove_columns<double>(w, factors, {0, 1});
        }) == "kfac::remove_columns: 'columns' are all 2, expected at least one to be left");
  CHECK(message_of<OptionError>([&] { remove_rows<double>(w, factors, {0}, -1); }) ==
        "kfac::remove_rows: 'damping' is -1, expected >= 0 and finite");
  factors.g.setZero();
  CHECK(message_of<SingularError>([&] { remove_rows<double>(w, factors, {0}); }) ==
        "kfac::remove_rows: the curvature is singular, expected damping > 0");
  factors.g.resize(2, 2);
  CHECK(message_of<ShapeError>([&] { remove_rows<double>(w, factors, {0}); }) ==
        "kfac::remove_rows: 'factors.g' is 2x2, expected 3x3");
  CHECK(w == before);
}

}  // namespace kfac::test::compression::compensation_test
