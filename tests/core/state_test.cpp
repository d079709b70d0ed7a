#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <kfac/core/state.hpp>

#include "support/catch.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::state_test {

namespace {

struct Inner {
  Vector<float> values;
  Rng rng;

  void visit_state(StateVisitor& visitor) {
    visitor.visit("values", values);
    visitor.visit("rng", rng);
  }
};

struct Everything {
  std::int64_t steps = 0;
  int small = 0;
  std::uint64_t bits = 0;
  bool flag = false;
  double real = 0;
  Matrix<double> matrix;
  Eigen::RowVectorXf row;
  Eigen::Matrix<double, 2, 3> fixed;
  Matrix<double> optional_matrix;
  Vector<double> optional_vector;
  std::vector<double> flat;
  Inner first, second;

  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps);
    visitor.visit("small", small);
    visitor.visit("bits", bits);
    visitor.visit("flag", flag);
    visitor.visit("real", real);
    visitor.visit("matrix", matrix);
    visitor.visit("row", row);
    visitor.visit("fixed", fixed);
    visitor.visit_optional("optional.matrix", optional_matrix, 2, 3);
    visitor.visit_optional("optional.vector", optional_vector, 4);
    visitor.visit("flat", VectorMap<double>(flat.data(), 6));
    visitor.visit("flat.matrix", MatrixMap<double>(flat.data(), 3, 2));
    visitor.in("first", first);
    visitor.under("layer.", [&] { visitor.in("second", second); });
    visitor.visit("last", small);
  }
};

Everything everything(std::uint64_t seed) {
  Rng rng(seed);
  Everything result;
  result.steps = std::numeric_limits<std::int64_t>::min() + static_cast<std::int64_t>(seed);
  result.small = -static_cast<int>(seed);
  result.bits = rng() | (std::uint64_t{1} << 63U);
  result.flag = seed % 2 == 0;
  result.real = rng.normal();
  result.matrix.resize(3, 1);
  rng.fill_normal(result.matrix);
  result.row.resize(5);
  rng.fill_normal(result.row);
  rng.fill_normal(result.fixed);
  result.flat = {1, 2, 3, 4, 5, rng.normal()};
  for (Inner* inner : {&result.first, &result.second}) {
    inner->values.resize(2);
    rng.fill_normal(inner->values);
    inner->rng = Rng(rng());
  }
  return result;
}

std::vector<Index> axes_of(const SavedState& state, const std::string& name) {
  return std::visit([](const auto& array) { return array.axes; }, state.entries().at(name));
}

}  // namespace

TEST_CASE("StateVisitor: every kind of part is named, typed and shaped by its declaration",
          "[core]") {
  Everything object = everything(2);
  object.optional_vector.setOnes(4);
  const SavedState state(object);
  std::vector<std::string> names;
  for (const auto& [name, entry] : state.entries()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"bits", "first/rng", "first/values", "fixed", "flag",
                                          "flat", "flat.matrix", "last", "layer.second/rng",
                                          "layer.second/values", "matrix", "optional.vector",
                                          "real", "row", "small", "steps"});
  using Axes = std::vector<Index>;
  for (const char* number : {"bits", "flag", "real", "small", "steps"})
    CHECK(axes_of(state, number).empty());
  CHECK(axes_of(state, "matrix") == Axes{3, 1});
  CHECK(axes_of(state, "fixed") == Axes{2, 3});
  CHECK(axes_of(state, "row") == Axes{5});
  CHECK(axes_of(state, "flat") == Axes{6});
  CHECK(axes_of(state, "flat.matrix") == Axes{3, 2});
  CHECK(axes_of(state, "optional.vector") == Axes{4});
  CHECK(axes_of(state, "first/rng") == Axes{4});
}

TEST_CASE("StateVisitor: another object takes on the whole state, bit for bit", "[core]") {
  Everything source = everything(2);
  source.optional_matrix.setConstant(2, 3, 0.1);
  const SavedState saved(source);
  Everything target = everything(3);
  target.optional_vector.setOnes(4);
  REQUIRE_FALSE(SavedState(target) == saved);
  saved.restore(target);

  CHECK(SavedState(target) == saved);
  CHECK(target.steps == source.steps);
  CHECK(target.small == -2);
  CHECK(target.bits == source.bits);
  CHECK(target.flag);
  CHECK(target.real == source.real);
  CHECK(target.matrix == source.matrix);
  CHECK(target.row == source.row);
  CHECK(target.fixed == source.fixed);
  CHECK(target.optional_matrix == source.optional_matrix);
  CHECK(target.optional_vector.size() == 0);
  CHECK(target.flat == source.flat);
  CHECK(target.first.values == source.first.values);
  CHECK(target.second.rng.state() == source.second.rng.state());
}

TEST_CASE("StateVisitor: looking at a state changes nothing", "[core]") {
  Everything object = everything(4);
  const std::uint64_t next = Rng(object.first.rng)();
  const SavedState first(object);
  CHECK(SavedState(object) == first);
  CHECK(object.optional_matrix.size() == 0);
  CHECK(object.first.rng() == next);
}

}  // namespace kfac::test::state_test
