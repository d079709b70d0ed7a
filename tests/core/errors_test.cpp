#include <limits>
#include <string>
#include <type_traits>

#include <kfac/core/errors.hpp>
#include <kfac/core/reduction.hpp>

#include "support/catch.hpp"

namespace detail = kfac::detail;

// Misuse can be caught as what the standard library calls it; no type is another's base.
static_assert(std::is_base_of_v<std::invalid_argument, kfac::ShapeError>);
static_assert(std::is_base_of_v<std::invalid_argument, kfac::ValueError>);
static_assert(std::is_base_of_v<std::invalid_argument, kfac::OptionError>);
static_assert(std::is_base_of_v<std::logic_error, kfac::StateError>);
static_assert(std::is_base_of_v<std::runtime_error, kfac::SingularError>);
static_assert(std::is_base_of_v<std::runtime_error, kfac::FileError>);
static_assert(!std::is_base_of_v<kfac::ShapeError, kfac::ValueError>);
static_assert(!std::is_base_of_v<std::invalid_argument, kfac::StateError>);

TEST_CASE("errors: raise throws what it is told, with its message", "[core][error]") {
  CHECK_THROWS_AS(kfac::raise<kfac::StateError>("too early"), kfac::StateError);
  CHECK_THROWS_WITH(kfac::raise<kfac::FileError>("no such file"), "no such file");
}

TEST_CASE("errors: an option's message has the field, its value and its range", "[core][error]") {
  CHECK_NOTHROW(detail::check_option(true, "kfac::Sgd", "momentum", 0.5, "in [0, 1)"));
  CHECK_THROWS_AS(detail::check_option(false, "kfac::Sgd", "momentum", 1.5, "in [0, 1)"),
                  kfac::OptionError);
  CHECK_THROWS_WITH(detail::check_option(false, "kfac::Sgd", "momentum", 1.5, "in [0, 1)"),
                    "kfac::Sgd: 'momentum' is 1.5, expected in [0, 1)");
  CHECK_THROWS_WITH(detail::check_option(false, "kfac::Linear", "inputs", kfac::Index{0}, ">= 1"),
                    "kfac::Linear: 'inputs' is 0, expected >= 1");
}

TEST_CASE("errors: a size's message has the argument, what came and what should", "[core][error]") {
  CHECK_NOTHROW(detail::check_size("kfac::f", "x", 3, 3, "rows"));
  CHECK_THROWS_AS(detail::check_size("kfac::f", "x", 3, 2, "rows"), kfac::ShapeError);
  CHECK_THROWS_WITH(detail::check_size("kfac::f", "x", 3, 2, "rows"),
                    "kfac::f: 'x' has 3 rows, expected 2");

  CHECK_NOTHROW(detail::check_shape("kfac::f", "x", 3, 4, 3, 4));
  CHECK_THROWS_AS(detail::check_shape("kfac::f", "x", 3, 4, 3, 5), kfac::ShapeError);
  CHECK_THROWS_WITH(detail::check_shape("kfac::f", "x", 3, 4, 3, 5),
                    "kfac::f: 'x' is 3x4, expected 3x5");
  CHECK_THROWS_WITH(detail::check_shape("kfac::f", "x", 3, 4, 2, 4),
                    "kfac::f: 'x' is 3x4, expected 2x4");
}

TEMPLATE_TEST_CASE("errors: the first entry that is not finite is named", "[core][error]", float,
                   double) {
  using S = TestType;
  kfac::Matrix<S> values = kfac::Matrix<S>::Constant(2, 3, std::numeric_limits<S>::max());
  CHECK_NOTHROW(detail::check_finite("kfac::f", "x", values));
  CHECK_NOTHROW(detail::check_finite("kfac::f", "x", kfac::Matrix<S>(0, 3)));

  values(1, 2) = std::numeric_limits<S>::infinity();
  CHECK_THROWS_AS(detail::check_finite("kfac::f", "x", values), kfac::ValueError);
  CHECK_THROWS_WITH(detail::check_finite("kfac::f", "x", values),
                    "kfac::f: 'x' is inf at (1, 2), expected finite numbers");
  values(0, 2) = -std::numeric_limits<S>::infinity();
  CHECK_THROWS_WITH(detail::check_finite("kfac::f", "x", values),
                    "kfac::f: 'x' is -inf at (0, 2), expected finite numbers");
  values(1, 0) = std::numeric_limits<S>::quiet_NaN();
  CHECK_THROWS_WITH(detail::check_finite("kfac::f", "x", values),
                    "kfac::f: 'x' is nan at (1, 0), expected finite numbers");
}

TEST_CASE("errors: a layer's name is added to errors of shapes and values, and to no others",
          "[core][error]") {
  const auto within = [](auto&& body) { detail::naming_layer("2.1", body); };
  CHECK_THROWS_AS(within([] { kfac::raise<kfac::ShapeError>("too wide"); }), kfac::ShapeError);
  CHECK_THROWS_WITH(within([] { kfac::raise<kfac::ShapeError>("too wide"); }),
                    "too wide (layer '2.1')");
  CHECK_THROWS_AS(within([] { kfac::raise<kfac::ValueError>("a NaN"); }), kfac::ValueError);
  CHECK_THROWS_WITH(within([] { kfac::raise<kfac::ValueError>("a NaN"); }), "a NaN (layer '2.1')");
  CHECK_THROWS_WITH(within([] { kfac::raise<kfac::StateError>("too early"); }), "too early");
  CHECK(detail::naming_layer("2.1", [] { return 5; }) == 5);
}

TEST_CASE("GradientScale: is the weight, over the examples for a mean", "[core]") {
  CHECK(kfac::GradientScale<double>{}.factor(8) == 1.0 / 8);
  CHECK(kfac::GradientScale<double>{.weight = 0.5}.factor(8) == 1.0 / 16);
  CHECK(kfac::GradientScale<double>{.reduction = kfac::Reduction::Sum}.factor(8) == 1);
  CHECK(kfac::GradientScale<double>{kfac::Reduction::Sum, 2}.factor(8) == 2);
  CHECK(kfac::GradientScale<double>{kfac::Reduction::ExampleMean, 2}.factor(8) == 0.25);
}

TEMPLATE_TEST_CASE("GradientScale: a weight that scales nothing is named", "[core][error]", float,
                   double) {
  using Scale = kfac::GradientScale<TestType>;
  const auto inf = std::numeric_limits<TestType>::infinity();
  CHECK_NOTHROW(Scale{}.validate("kfac::KroneckerBlock"));
  CHECK_THROWS_WITH(Scale{.weight = 0}.validate("kfac::KroneckerBlock"),
                    "kfac::KroneckerBlock: 'gradient_scale.weight' is 0, expected > 0 and finite");
  CHECK_THROWS_AS(Scale{.weight = -1}.validate("kfac::KroneckerBlock"), kfac::OptionError);
  CHECK_THROWS_AS(Scale{.weight = inf}.validate("kfac::KroneckerBlock"), kfac::OptionError);
  CHECK_THROWS_AS(Scale{.weight = inf - inf}.validate("kfac::KroneckerBlock"), kfac::OptionError);
}
