#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include <kfac/core/pieces.hpp>
#include <kfac/core/random.hpp>

#include "support/catch.hpp"

namespace kfac::test::pieces_test {

TEST_CASE("Pieces cover all of a range once, none larger than asked for") {
  ThreadPool pool(2);
  for (const bool parallel : {false, true}) {
    const ParallelScope scope(parallel ? &pool : nullptr);
    for (const Index size : {1, 7, 8, 9, 64, 1000}) {
      std::vector<int> visits(static_cast<std::size_t>(size));
      std::atomic<bool> too_large = false;
      detail::for_each_piece(size, 8, [&](Index first, Index count) {
        if (count < 1 || count > 8) too_large = true;
        for (Index i = first; i < first + count; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      REQUIRE_FALSE(too_large);
      REQUIRE(visits == std::vector<int>(static_cast<std::size_t>(size), 1));
    }
  }
}

TEST_CASE("A sum over pieces is the same with any number of threads", "[threads]") {
  Rng rng(1);
  Vector<float> values(10007);
  rng.fill_normal(values);
  const auto sum = [&] {
    return detail::sum_over_pieces<float>(values.size(), 16, [&](Index first, Index count) {
      return values.segment(first, count).sum();
    });
  };
  const float alone = sum();
  REQUIRE(std::abs(static_cast<double>(alone) - values.cast<double>().sum()) < 1e-2);
  ThreadPool pool(3);
  const ParallelScope scope(&pool);
  for (int repetition = 0; repetition < 20; ++repetition) REQUIRE(sum() == alone);
}

TEMPLATE_TEST_CASE("One number that is not finite is found among many", "", float, double) {
  using S = TestType;
  Rng rng(2);
  Matrix<S> values(5, 70);
  rng.fill_normal(values);
  values(1, 1) = std::numeric_limits<S>::max();
  values(2, 1) = -std::numeric_limits<S>::max();
  values(3, 1) = std::numeric_limits<S>::denorm_min();
  REQUIRE(detail::all_finite<S>(values));
  REQUIRE(detail::all_finite<S>(values.middleRows(1, 3)));
  for (const S bad : {std::numeric_limits<S>::infinity(), -std::numeric_limits<S>::infinity(),
                      std::numeric_limits<S>::quiet_NaN()})
    for (const Index column : {0, 33, 69}) {
      Matrix<S> spoiled = values;
      spoiled(4, column) = bad;
      REQUIRE_FALSE(detail::all_finite<S>(spoiled));
      REQUIRE_FALSE(detail::all_finite<S>(spoiled.bottomRows(2)));
      REQUIRE(detail::all_finite<S>(spoiled.topRows(4)));
    }
}

}  // namespace kfac::test::pieces_test
