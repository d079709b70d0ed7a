#include <string>

#include <nlohmann/json.hpp>

#include <kfac/io/network_file.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::network_file_test {

namespace {

using nlohmann::json;

/// Every type of layer and every field, none at its default.
json all_types() {
  return json::parse(R"([
    {"type": "unflatten", "shape": [2, 6, 8]},
    {"type": "conv2d", "in_channels": 2, "out_channels": 4, "kernel_size": [2, 3],
     "stride": [2, 1], "padding": [1, 2], "padding_end": [2, 0], "dilation": 2, "groups": 2, "bias": false,
     "workspace": 7},
    {"type": "relu"}, {"type": "tanh"}, {"type": "sigmoid"}, {"type": "gelu"},
    {"type": "softplus"}, {"type": "sine"}, {"type": "identity"},
    {"type": "maxpool2d", "kernel_size": 2, "stride": [1, 2], "padding": [1, 0], "padding_end": 1},
    {"type": "avgpool2d", "kernel_size": 2, "stride": 1, "padding": 0},
    {"type": "dropout", "p": 0.25},
    {"type": "residual", "layers": [{"type": "conv2d", "in_channels": 4, "out_channels": 4,
     "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": true,
     "workspace": 0}]},
    {"type": "channels_last"}, {"type": "flatten"},
    {"type": "linear", "in": 32, "out": 3, "bias": false}, {"type": "linear", "in": 3, "out": 2,
     "bias": true}])");
}

DynamicSequential<double> network(const json& layers) {
  Rng rng(3);
  return io::make_network<double>(layers, rng);
}

}  // namespace

TEST_CASE("describe_network: is what make_network makes the same network of", "[io]") {
  CHECK(io::describe_network(network(all_types())) == all_types());
  for (const char* rest :
       {R"({"type": "conv1d", "in_channels": 1, "out_channels": 1})",
        R"({"type": "conv3d", "in_channels": 1, "out_channels": 1})", R"({"type": "maxpool1d"})",
        R"({"type": "avgpool1d"})", R"({"type": "spatial_mean"})", R"({"type": "spatial_sum"})",
        R"({"type": "mean_tokens"})", R"({"type": "sum_tokens"})"}) {
    const json once = io::describe_network(network(json::array({json::parse(rest)})));
    CHECK(once[0]["type"] == json::parse(rest)["type"]);
    CHECK(io::describe_network(network(once)) == once);
  }
}

TEST_CASE("save_network: load_network gives the same network back", "[io]") {
  const TemporaryFolder folder;
  json layers = all_types();
  layers[15]["in"] = network(json(layers.begin(), layers.begin() + 15)).output_shape({96}).size();
  DynamicSequential<double> model = network(layers);
  io::save_network(folder / "network.safetensors", model);
  DynamicSequential<double> loaded = io::load_network<double>(folder / "network.safetensors");
  CHECK(io::describe_network(loaded) == layers);
  Rng rng(5);
  const Matrix<double> x = normal<double>(96, 3, rng);
  const Matrix<double> outputs = loaded.forward(x);  // in training: Dropout goes on as it was, too
  CHECK(outputs == Matrix<double>(model.forward(x)));

  // It is a checkpoint, for a network that is there.
  DynamicSequential<double> again = network(layers);
  again.layers()[1].parameters.setZero();
  io::load_checkpoint(folder / "network.safetensors", {{"model", again}});
  CHECK(again.layers()[1].parameters == loaded.layers()[1].parameters);
}

TEST_CASE("save_network: what is wrong is named", "[io][errors]") {
  const TemporaryFolder folder;
  const std::string path = (folder / "network.safetensors").string();
  Rng rng(6);
  DynamicSequential<double> odd;
  odd.push_back(Linear<double>(2, 2, rng));
  odd.push_back(Residual(Linear<double>(2, 2, rng)));
  CHECK(message_of<ValueError>([&] { io::save_network(path, odd); }) ==
        "kfac::io::describe_network: layer '1' is of a type that make_network does not know");
  DynamicSequential<double> model({Linear<double>(2, 2, rng)});
  io::save_checkpoint(path, {{"model", model}});
  CHECK(message_of<FileError>([&] { io::load_network<double>(path); }) ==
        "kfac::io::load_network: '" + path +
            "' has no 'kfac.architecture' in its metadata, expected one by save_network");
  io::save_network(path, model);
  CHECK(message_of<FileError>([&] { io::load_network<float>(path); }) ==
        "kfac::io::load_checkpoint: '" + path +
            "' has 'model/0.weight' as F64 [2, 2], expected F32 [2, 2]");
}

}  // namespace kfac::test::network_file_test
