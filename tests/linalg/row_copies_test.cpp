#include <algorithm>

#include <kfac/core/random.hpp>
#include <kfac/linalg/row_copies.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::row_copies_test {

using linalg::detail::RowCopies;

namespace {

/// Copies rows of random lengths, in both matrices at random places, and whatever is to be copied
/// elsewhere, and compares with a loop over single numbers.
template <class S>
void check(Index from_step, Index to_step, Rng& rng) {
  const Index rows = 1 + rng.below(4);
  const Index length = 1 + rng.below(40);
  const Index from_row = from_step * length + rng.below(3),
              to_row = to_step * length + rng.below(3);
  const Vector<S> from = normal<S>(rows * from_row, 1, rng);
  const auto shift = static_cast<S>(rng.below(2));
  Vector<S> expected = Vector<S>::Constant(rows * to_row, shift);
  RowCopies copies;
  copies.begin(expected.size(), from_step, to_step);
  // Those of a row one after another, first the rows at one remainder and then at the next.
  const Index phases = std::max(from_step, to_step);
  for (Index phase = 0; phase < phases; ++phase) {
    if (phase > 0 && rng.below(4) == 0) continue;
    const Index count = 1 + rng.below(length);
    for (Index row = 0; row < rows; ++row)
      for (Index i = 0; i < count; ++i) {
        const Index source = row * from_row + i * from_step + (from_step > 1 ? phase : 0);
        const Index target = row * to_row + i * to_step + (to_step > 1 ? phase : 0);
        if (phase > 0 && from_step > 1) continue;  // would be written twice
        copies.add(target, source);
        expected[target] = from[source] + shift;
      }
  }
  copies.end();
  REQUIRE(copies.size() == expected.size());
  Vector<S> actual = normal<S>(expected.size(), 1, rng);
  copies.copy(from.data(), shift, actual.data());
  REQUIRE(actual == expected);
}

}  // namespace

TEMPLATE_TEST_CASE("RowCopies copies rows at any steps", "[linalg][exact]", float, double) {
  Rng rng(1);
  for (int trial = 0; trial < 300; ++trial) {
    check<TestType>(1, 1, rng);
    for (const Index step : {2, 3}) {
      check<TestType>(step, 1, rng);
      check<TestType>(1, step, rng);
    }
  }
}

TEST_CASE("RowCopies separates the even and odd numbers of a row", "[linalg][exact]") {
  Rng rng(2);
  for (Index size = 1; size < 50; ++size) {
    const Vector<float> from = normal<float>(size, 1, rng);
    Vector<float> to(size), back(size);
    const Index evens = (size + 1) / 2;
    RowCopies separate, join;
    separate.begin(size, 2, 1);
    join.begin(size, 1, 2);
    for (Index i = 0; i < evens; ++i) separate.add(i, 2 * i), join.add(2 * i, i);
    for (Index i = evens; i < size; ++i) {
      separate.add(i, 2 * (i - evens) + 1);
      join.add(2 * (i - evens) + 1, i);
    }
    separate.end();
    join.end();
    separate.copy(from.data(), 0.0F, to.data());
    for (Index i = 0; i < size; ++i)
      REQUIRE(to[i] == from[i < evens ? 2 * i : 2 * (i - evens) + 1]);
    join.copy(to.data(), 0.0F, back.data());
    REQUIRE(back == from);
  }
}

}  // namespace kfac::test::row_copies_test
