#include <kfac/data/subset.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::subset_test {

TEST_CASE("subset: copies the examples in the order of their numbers") {
  Rng rng(1);
  const Dataset<double> labelled{normal<double>(3, 4, rng), Labels(Labels::LinSpaced(4, 0, 3))};
  const auto some = subset(labelled, {2, 0, 2});
  CHECK(some.examples() == 3);
  for (Index i = 0; i < 3; ++i) {
    const Index from = i == 1 ? 0 : 2;
    CHECK(some.inputs.col(i) == labelled.inputs.col(from));
    CHECK(some.targets(i) == labelled.targets(from));
  }
  const Dataset<double, Matrix<double>> measured{labelled.inputs, normal<double>(2, 4, rng)};
  const auto others = subset(measured, {3});
  CHECK(others.inputs == measured.inputs.col(3));
  CHECK(others.targets == measured.targets.col(3));
}

TEST_CASE("subset: no examples, or others than there are, are exceptions") {
  Rng rng(2);
  const Dataset<double> data{normal<double>(3, 4, rng), Labels(Labels::Zero(4))};
  CHECK(message_of<ShapeError>([&] { subset(data, {}); }) ==
        "kfac::subset: 'examples' is empty, expected at least one");
  CHECK(message_of<ValueError>([&] {
          subset(data, {1, 4});
        }) == "kfac::subset: 'examples' has 4, expected 0 to 3");
  CHECK_THROWS_AS(subset(data, {-1}), ValueError);
  CHECK(message_of<ShapeError>([&] { subset(Dataset<double>{}, {0}); }) ==
        "kfac::subset: 'data' has no examples");
}

TEST_CASE("Slice: parts of a slice have its shape, and as many targets for each example") {
  Rng rng(3);
  const Matrix<double> inputs = normal<double>(6, 4, rng);
  const Labels two_each = Labels::LinSpaced(8, 0, 7);
  const Slice<double, Labels> tokens(inputs, two_each, Shape{2, 3});
  const auto part = tokens.examples(1, 2);
  CHECK(part.size() == 2);
  CHECK(part.shape == Shape{2, 3});
  CHECK(Matrix<double>(part.inputs) == inputs.middleCols(1, 2));
  CHECK(Labels(part.targets) == two_each.segment(2, 4));
  const Matrix<double> targets = normal<double>(2, 4, rng);
  const Slice<double, Matrix<double>> measured(inputs, targets);
  CHECK(Matrix<double>(measured.examples(3, 1).targets) == targets.col(3));
  CHECK(example_count(std::vector{tokens, part}) == 6);
}

}  // namespace kfac::test::subset_test
