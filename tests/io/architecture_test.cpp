#include <string>

#include <nlohmann/json.hpp>

#include <kfac/io/architecture.hpp>

#include "support/catch.hpp"

using kfac::Index;
using kfac::Matrix;
using kfac::Shape;

namespace {

kfac::DynamicSequential<double> network(const char* layers) {
  kfac::Rng rng(1);
  return kfac::io::make_network<double>(nlohmann::json::parse(layers), rng);
}

Shape output_of(const char* layers, const Shape& input) {
  return network(layers).output_shape(input);
}

}  // namespace

TEST_CASE("make_network makes convolutions of one, two and three axes", "[io]") {
  CHECK(output_of(R"([{"type": "conv1d", "in_channels": 2, "out_channels": 5}])", {2, 9}) ==
        Shape{5, 7});
  CHECK(output_of(R"([{"type": "conv1d", "in_channels": 2, "out_channels": 5, "kernel_size": [4],
                       "stride": 2, "padding": [1], "dilation": 2}])",
                  {2, 9}) == Shape{5, 3});
  CHECK(output_of(R"([{"type": "conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 2,
                       "stride": [2, 1]}])",
                  {1, 6, 6}) == Shape{2, 3, 5});
  CHECK(output_of(R"([{"type": "conv3d", "in_channels": 2, "out_channels": 4, "groups": 2,
                       "kernel_size": [1, 2, 3], "bias": false, "workspace": 0}])",
                  {2, 3, 4, 5}) == Shape{4, 3, 3, 3});
}

TEST_CASE("make_network names the layers as they are", "[io]") {
  const auto kind = [](const std::string& layer) {
    auto model = network(("[{" + layer + "}]").c_str());
    return model.layers()[0].kind;
  };
  const std::string channels = R"(, "in_channels": 1, "out_channels": 1)";
  CHECK(kind(R"("type": "conv1d")" + channels) == "Conv1d");
  CHECK(kind(R"("type": "conv2d")" + channels) == "Conv2d");
  CHECK(kind(R"("type": "conv3d")" + channels) == "Conv3d");
  CHECK(kind(R"("type": "maxpool1d")") == "MaxPool1d");
  CHECK(kind(R"("type": "maxpool2d")") == "MaxPool2d");
  CHECK(kind(R"("type": "avgpool1d")") == "AvgPool1d");
  CHECK(kind(R"("type": "avgpool2d")") == "AvgPool2d");
  CHECK(kind(R"("type": "mean_tokens")") == "MeanTokens");
  CHECK(kind(R"("type": "sum_tokens")") == "SumTokens");
  CHECK(kind(R"("type": "spatial_mean")") == "SpatialMean");
  CHECK(kind(R"("type": "spatial_sum")") == "SpatialSum");
  CHECK(kind(R"("type": "channels_last")") == "ChannelsLast");
}

TEST_CASE("make_network gives poolings their options", "[io]") {
  CHECK(output_of(R"([{"type": "avgpool1d", "kernel_size": 3, "stride": [2], "padding": 1}])",
                  {4, 9}) == Shape{4, 5});
  CHECK(output_of(R"([{"type": "maxpool2d"}, {"type": "channels_last"}])", {4, 6, 8}) ==
        Shape{3, 4, 4});
  CHECK(output_of(R"([{"type": "channels_last"}, {"type": "mean_tokens"}])", {4, 9}) == Shape{4});
}

TEST_CASE("make_network says which layer's field is wrong", "[io][error]") {
  CHECK_THROWS_WITH(
      network(R"([{"type": "relu"}, {"type": "conv2d", "in_channels": 1, "out_channels": 1,
                                     "stride": [1, 2, 3]}])"),
      "kfac::io::make_network: layer '1' has a 'stride' that is neither an integer nor an array of "
      "2");
  CHECK_THROWS_WITH(network(R"([{"type": "avgpool1d", "kernel_size": [1.5]}])"),
                    "kfac::io::make_network: layer '0' has a 'kernel_size' that is neither an "
                    "integer nor an array of 1");
  CHECK_THROWS_WITH(network(R"([{"type": "conv1d", "in_channels": 1}])"),
                    "kfac::io::make_network: layer '0' has no integer 'out_channels'");
  CHECK_THROWS_WITH(network(R"([{"type": "conv4d"}])"),
                    "kfac::io::make_network: layer '0' is of unknown type 'conv4d'");
  CHECK_THROWS_AS(
      network(R"([{"type": "conv1d", "in_channels": 1, "out_channels": 1, "workspace": -1}])"),
      kfac::OptionError);
}
