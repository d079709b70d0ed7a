#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::channels_last_test {

using kfac::test::normal;

TEST_CASE("ChannelsLast moves the first axis behind the others", "[nn][exact]") {
  Rng rng(1);
  const Matrix<double> x = normal<double>(24, 2, rng);
  DynamicSequential<double> model({ChannelsLast<double>{}});
  const Matrix<double> image = model.forward(x, {2, 3, 4});
  REQUIRE(model.output_shape({2, 3, 4}) == Shape{3, 4, 2});
  const Matrix<double> sequence = model.forward(x, {2, 12});
  REQUIRE(model.output_shape({2, 12}) == Shape{12, 2});
  const Matrix<double> volume = model.forward(x, {2, 3, 2, 2});
  REQUIRE(model.output_shape({2, 3, 2, 2}) == Shape{3, 2, 2, 2});
  for (Index n = 0; n < 2; ++n)
    for (Index channel = 0; channel < 2; ++channel)
      for (Index position = 0; position < 12; ++position)
        REQUIRE(image(position * 2 + channel, n) == x(channel * 12 + position, n));
  REQUIRE(sequence == image);
  REQUIRE(volume == image);
}

TEST_CASE("ChannelsLast passes the layer battery", "[nn][gradient]") {
  Rng rng(2);
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{2, 3, 4}, Shape{2, 3, 1, 2}})
    test::require_twice_differentiable(ChannelsLast<double>{}, shape, 3, rng);
}

TEST_CASE("ChannelsLast says what it expects", "[nn][error]") {
  REQUIRE_THROWS_WITH(ChannelsLast<double>{}.output_shape({3}),
                      "kfac::ChannelsLast: 'input' has shape 3, expected channels x positions");
}

}  // namespace kfac::test::channels_last_test
