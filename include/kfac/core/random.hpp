#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <utility>

#include <kfac/core/types.hpp>

namespace kfac {

/// A seeded random generator whose numbers, unlike those of `std::normal_distribution`, are the
/// same with every standard library. Models `std::uniform_random_bit_generator`; 32 bytes of state,
/// period 2^256 - 1.
/// \source Blackman and Vigna, Scrambled linear pseudorandom number generators, 2021, for
///         xoshiro256++; the seed is spread by splitmix64 (Steele, Lea and Flood, 2014).
class Rng {
 public:
  using result_type = std::uint64_t;

  explicit Rng(std::uint64_t seed = 0) {
    for (std::uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15U;
      std::uint64_t mixed = (seed ^ (seed >> 30U)) * 0xbf58476d1ce4e5b9U;
      mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebU;
      word = mixed ^ (mixed >> 31U);
    }
  }

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }

  result_type operator()() {
    auto& [s0, s1, s2, s3] = state_;
    const std::uint64_t result = std::rotl(s0 + s3, 23) + s0;
    const std::uint64_t shifted = s1 << 17U;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = std::rotl(s3, 45);
    return result;
  }

  /// Uniform in [0, 1), with all the bits a double has.
  double uniform() { return static_cast<double>((*this)() >> 11U) * 0x1.0p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// Standard normal, by Box and Muller.
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// Uniform in 0, ..., bound - 1, without bias. \pre bound >= 1
  Index below(Index bound) {
    const auto range = static_cast<std::uint64_t>(bound);
    const std::uint64_t tail = (max() - range + 1) % range;
    std::uint64_t draw = (*this)();
    while (draw > max() - tail) draw = (*this)();
    return static_cast<Index>(draw % range);
  }

  /// Permutes a vector in place, any order being as likely (Fisher and Yates).
  template <class Vector>
  void shuffle(Vector& values) {
    const auto first = values.begin();
    for (Index last = static_cast<Index>(values.size()) - 1; last > 0; --last) {
      using std::swap;
      swap(first[last], first[below(last + 1)]);
    }
  }

  template <class Derived>
  void fill_uniform(Eigen::DenseBase<Derived>& values, double low, double high) {
    using S = typename Derived::Scalar;
    for (Index column = 0; column < values.cols(); ++column)
      for (Index row = 0; row < values.rows(); ++row)
        values(row, column) = static_cast<S>(uniform(low, high));
  }

  template <class Derived>
  void fill_normal(Eigen::DenseBase<Derived>& values) {
    using S = typename Derived::Scalar;
    for (Index column = 0; column < values.cols(); ++column)
      for (Index row = 0; row < values.rows(); ++row)
        values(row, column) = static_cast<S>(normal());
  }

  /// All there is to it, to be saved and restored.
  std::array<std::uint64_t, 4>& state() { return state_; }
  const std::array<std::uint64_t, 4>& state() const { return state_; }

 private:
  std::array<std::uint64_t, 4> state_{};
};

}  // namespace kfac
