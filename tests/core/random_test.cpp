#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include <kfac/core/random.hpp>

#include "support/catch.hpp"

using kfac::Index;
using kfac::Rng;

static_assert(std::uniform_random_bit_generator<Rng>);
static_assert(sizeof(Rng) == 32);

namespace {

/// splitmix64, as its authors publish it.
std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// xoshiro256++, as its authors publish it.
struct Xoshiro256PlusPlus {
  std::array<std::uint64_t, 4> s;

  static std::uint64_t rotl(std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }
  std::uint64_t next() {
    const std::uint64_t result = rotl(s[0] + s[3], 23) + s[0];
    const std::uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
  }
};

/// Of `count` draws, mean and variance.
template <class Draw>
std::pair<double, double> moments(int count, Draw draw) {
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < count; ++i) {
    const double value = draw();
    sum += value;
    squares += value * value;
  }
  const double mean = sum / count;
  return {mean, squares / count - mean * mean};
}

/// Whether `count` of `draws` is what chance `p` gives, within five standard deviations.
bool plausible(int count, int draws, double p) {
  return std::abs(count - draws * p) < 5 * std::sqrt(draws * p * (1 - p));
}

}  // namespace

TEST_CASE("Rng: the recurrences of this test give the authors' published numbers", "[core]") {
  std::uint64_t seed = 1234567;
  CHECK(splitmix64(seed) == 6457827717110365317u);
  CHECK(splitmix64(seed) == 3203168211198807973u);
  CHECK(splitmix64(seed) == 9817491932198370423u);
  Xoshiro256PlusPlus xoshiro{{1, 2, 3, 4}};
  CHECK(xoshiro.next() == 41943041u);
  CHECK(xoshiro.next() == 58720359u);
  CHECK(xoshiro.next() == 3588806011781223u);
  CHECK(xoshiro.next() == 3591011842654386u);
}

TEST_CASE("Rng: is xoshiro256++ seeded by splitmix64", "[core][exact]") {
  std::uint64_t seed = GENERATE(as<std::uint64_t>{}, 0u, 1u, 42u, 0xffffffffffffffffu);
  Rng rng(seed);
  Xoshiro256PlusPlus expected{};
  for (std::uint64_t& word : expected.s) word = splitmix64(seed);
  for (int i = 0; i < 1000; ++i) REQUIRE(rng() == expected.next());
}

TEST_CASE("Rng: seed 0 gives the numbers other libraries give", "[core][exact]") {
  // rand 0.8 (Rust): Xoshiro256PlusPlus::seed_from_u64(0).
  Rng rng;
  for (const std::uint64_t expected :
       {5987356902031041503u, 7051070477665621255u, 6633766593972829180u, 211316841551650330u,
        9136120204379184874u, 379361710973160858u, 15813423377499357806u, 15596884590815070553u})
    CHECK(rng() == expected);
}

TEST_CASE("Rng: the same seed repeats, another does not, and a copy goes on alike", "[core]") {
  Rng first(7), second(7), other(8);
  const std::uint64_t number = first();
  CHECK(number == second());
  CHECK(number != other());
  Rng copy = first;
  CHECK(copy() == first());
  CHECK(copy.normal() == first.normal());
  CHECK(copy.below(1000000) == first.below(1000000));
}

TEST_CASE("Rng: works with the distributions of the standard library", "[core]") {
  Rng rng(5);
  std::uniform_int_distribution<int> die(1, 6);
  std::array<int, 6> counts{};
  for (int i = 0; i < 6000; ++i) ++counts[static_cast<std::size_t>(die(rng) - 1)];
  for (const int count : counts) CHECK(plausible(count, 6000, 1.0 / 6));
}

TEST_CASE("Rng: uniform numbers have all 53 bits and stay below 1", "[core]") {
  Rng rng(11), bits(11);
  for (int i = 0; i < 10000; ++i) {
    const double value = rng.uniform();
    REQUIRE((value >= 0 && value < 1));
    // The 53 highest bits, as an integer over 2^53.
    REQUIRE(std::ldexp(value, 53) == static_cast<double>(bits() >> 11));
  }
}

TEST_CASE("Rng: uniform and normal numbers have their moments", "[core][property]") {
  const int count = 200000;
  const double error = 5 / std::sqrt(count);  // five standard errors, of unit variance
  Rng rng(13);
  SECTION("uniform in [0, 1)") {
    const auto [mean, variance] = moments(count, [&] { return rng.uniform(); });
    CHECK(mean == Approx(0.5).margin(error * std::sqrt(1.0 / 12)));
    CHECK(variance == Approx(1.0 / 12).margin(error * std::sqrt(1.0 / 180)));
  }
  SECTION("uniform in [low, high)") {
    const auto [mean, variance] = moments(count, [&] { return rng.uniform(-3, 1); });
    CHECK(mean == Approx(-1).margin(error * std::sqrt(16.0 / 12)));
    CHECK(variance == Approx(16.0 / 12).margin(error * 16 * std::sqrt(1.0 / 180)));
  }
  SECTION("normal") {
    const auto [mean, variance] = moments(count, [&] { return rng.normal(); });
    CHECK(mean == Approx(0).margin(error));
    CHECK(variance == Approx(1).margin(error * std::sqrt(2.0)));
  }
}

TEST_CASE("Rng: normal numbers have the normal distribution function", "[core][property]") {
  Rng rng(17);
  const int count = 50000;
  std::vector<double> draws(static_cast<std::size_t>(count));
  for (double& draw : draws) draw = rng.normal();
  for (const double x : {-3.0, -1.5, -0.5, 0.0, 1.0, 2.5}) {
    const auto below = std::ranges::count_if(draws, [=](double draw) { return draw < x; });
    CHECK(plausible(static_cast<int>(below), count, std::erfc(-x / std::sqrt(2.0)) / 2));
  }
}

TEST_CASE("Rng: below is uniform on all of its range", "[core][property]") {
  const Index bound = GENERATE(1, 2, 7, 10);
  Rng rng(19);
  const int draws = 20000;
  std::vector<int> counts(static_cast<std::size_t>(bound));
  for (int i = 0; i < draws; ++i) {
    const Index value = rng.below(bound);
    REQUIRE((value >= 0 && value < bound));
    ++counts[static_cast<std::size_t>(value)];
  }
  const double p = 1.0 / static_cast<double>(bound);
  for (const int count : counts) CHECK((bound == 1 ? count == draws : plausible(count, draws, p)));
}

TEST_CASE("Rng: below has no bias where the bound does not divide 2^64", "[core][property]") {
  // Of 3 * 2^61 numbers, a plain remainder would draw the first 2^62 half as often again.
  const Index bound = Index{3} << 61;
  Rng rng(23);
  const int draws = 20000;
  int in_first = 0;
  for (int i = 0; i < draws; ++i) in_first += rng.below(bound) < (Index{1} << 61) ? 1 : 0;
  CHECK(plausible(in_first, draws, 1.0 / 3));
}

TEST_CASE("Rng: shuffle permutes, and any order of three is as likely", "[core][property]") {
  Rng rng(29);
  SECTION("a vector of the standard library") {
    const int draws = 12000;
    std::map<std::vector<int>, int> orders;
    for (int i = 0; i < draws; ++i) {
      std::vector<int> values{1, 2, 3};
      rng.shuffle(values);
      ++orders[values];
    }
    CHECK(orders.size() == 6);
    for (const auto& [order, count] : orders) {
      CHECK(std::is_permutation(order.begin(), order.end(), std::vector{1, 2, 3}.begin()));
      CHECK(plausible(count, draws, 1.0 / 6));
    }
  }
  SECTION("a vector of Eigen") {
    Eigen::VectorXi values = Eigen::VectorXi::LinSpaced(100, 0, 99);
    rng.shuffle(values);
    CHECK(values != Eigen::VectorXi::LinSpaced(100, 0, 99));
    std::ranges::sort(values);
    CHECK(values == Eigen::VectorXi::LinSpaced(100, 0, 99));
  }
  SECTION("nothing, and one value") {
    std::vector<int> none, one{4};
    rng.shuffle(none);
    rng.shuffle(one);
    CHECK(none.empty());
    CHECK(one == std::vector{4});
  }
}

TEMPLATE_TEST_CASE("Rng: matrices are filled column by column", "[core]", float, double) {
  using S = TestType;
  Rng rng(31), reference(31);
  kfac::Matrix<S> values(3, 2);
  rng.fill_uniform(values, -1, 2);
  for (Index i = 0; i < 6; ++i) CHECK(values.data()[i] == static_cast<S>(reference.uniform(-1, 2)));
  rng.fill_normal(values);
  for (Index i = 0; i < 6; ++i) CHECK(values.data()[i] == static_cast<S>(reference.normal()));
}
