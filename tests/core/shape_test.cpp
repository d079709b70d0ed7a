#include <kfac/core/shape.hpp>

#include "support/catch.hpp"

using kfac::Index;
using kfac::Shape;

TEST_CASE("Shape: its size is the product of its axes", "[core]") {
  CHECK(Shape{5}.size() == 5);
  CHECK(Shape{3, 28, 28}.size() == 2352);
  CHECK(Shape{2, 3, 4, 5}.size() == 120);
  CHECK(Shape{}.size() == 0);
}

TEST_CASE("Shape: its axes are read slowest first", "[core]") {
  const Shape image{3, 28, 14};
  CHECK(image.rank() == 3);
  CHECK(image[0] == 3);
  CHECK(image[1] == 28);
  CHECK(image[2] == 14);
  CHECK(image.back() == 14);
}

TEST_CASE("Shape: an axis can be appended, and the fastest replaced", "[core]") {
  Shape shape{7};
  shape.push_back(2);
  CHECK(shape == Shape{7, 2});
  CHECK(shape.with_back(9) == Shape{7, 9});
  CHECK(shape == Shape{7, 2});
}

TEST_CASE("Shape: equal are the same axes in the same order", "[core]") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{6} != Shape{2, 3});
  CHECK(Shape{2} != Shape{2, 1});
  CHECK(Shape{} == Shape());
}

TEST_CASE("Shape: prints like 3x28x28", "[core]") {
  CHECK(Shape{3, 28, 28}.to_string() == "3x28x28");
  CHECK(Shape{10}.to_string() == "10");
  CHECK(Shape{}.to_string() == "empty");
}

TEST_CASE("Shape: misuse is named, and changes nothing", "[core][error]") {
  CHECK_THROWS_AS((Shape{1, 2, 3, 4, 5}), kfac::ShapeError);
  CHECK_THROWS_WITH((Shape{1, 2, 3, 4, 5}),
                    "kfac::Shape: 'axes' has 5 entries, expected at most 4");
  CHECK_THROWS_WITH((Shape{3, 0}), "kfac::Shape: an axis is 0, expected at least 1");
  CHECK_THROWS_WITH((Shape{-2}), "kfac::Shape: an axis is -2, expected at least 1");

  Shape full{1, 2, 3, 4};
  CHECK_THROWS_WITH(full.push_back(5), "kfac::Shape: more than four axes");
  CHECK_THROWS_AS(full.push_back(-1), kfac::ShapeError);
  CHECK(full == Shape{1, 2, 3, 4});
}
