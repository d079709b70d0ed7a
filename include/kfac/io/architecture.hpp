#pragma once

#include <array>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv2d.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/residual.hpp>

namespace kfac::io {
namespace detail {

/// Reads the fields of one layer's description; every error names the layer.
class LayerDescription {
 public:
  LayerDescription(const nlohmann::json& json, std::string name)
      : json_(json), name_(std::move(name)) {
    if (!json_.is_object()) fail("is not an object");
  }

  const std::string& name() const { return name_; }

  std::string type() const {
    if (!json_.contains("type") || !json_["type"].is_string()) fail("has no 'type'");
    return json_["type"].get<std::string>();
  }

  Index integer(const char* field) const {
    if (!json_.contains(field) || !json_[field].is_number_integer())
      fail(std::string("has no integer '") + field + "'");
    return json_[field].get<Index>();
  }

  double number(const char* field) const {
    if (!json_.contains(field) || !json_[field].is_number())
      fail(std::string("has no number '") + field + "'");
    return json_[field].get<double>();
  }

  bool boolean(const char* field, bool otherwise) const {
    if (!json_.contains(field)) return otherwise;
    if (!json_[field].is_boolean()) fail(std::string("has a '") + field + "' that is no boolean");
    return json_[field].get<bool>();
  }

  Index integer(const char* field, Index otherwise) const {
    return json_.contains(field) ? integer(field) : otherwise;
  }

  /// A pair, or one integer for both axes.
  std::array<Index, 2> pair(const char* field, std::array<Index, 2> otherwise) const {
    if (!json_.contains(field)) return otherwise;
    const nlohmann::json& value = json_[field];
    if (value.is_number_integer()) return {value.get<Index>(), value.get<Index>()};
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_integer() ||
        !value[1].is_number_integer())
      fail(std::string("has a '") + field + "' that is not two integers");
    return {value[0].get<Index>(), value[1].get<Index>()};
  }

  Shape shape(const char* field) const {
    if (!json_.contains(field) || !json_[field].is_array())
      fail(std::string("has no array '") + field + "'");
    Shape result;
    for (const nlohmann::json& axis : json_[field]) {
      if (!axis.is_number_integer())
        fail(std::string("has a '") + field + "' of other than integers");
      result.push_back(axis.get<Index>());
    }
    return result;
  }

  const nlohmann::json& layers() const {
    if (!json_.contains("layers")) fail("has no 'layers'");
    return json_["layers"];
  }

  [[noreturn]] void fail(const std::string& what) const {
    raise<FileError>("kfac::io::make_network: layer '" + name_ + "' " + what);
  }

 private:
  const nlohmann::json& json_;
  std::string name_;
};

template <RealScalar S>
std::vector<AnyLayer<S>> make_layers(const nlohmann::json& layers, const std::string& prefix,
                                     Rng& rng);

template <RealScalar S>
AnyLayer<S> make_layer(const LayerDescription& layer, Rng& rng) {
  const std::string type = layer.type();
  if (type == "linear")
    return Linear<S>(layer.integer("in"), layer.integer("out"), rng,
                     {.bias = layer.boolean("bias", true)});
  if (type == "conv2d")
    return Conv2d<S>({.in_channels = layer.integer("in_channels"),
                      .out_channels = layer.integer("out_channels"),
                      .kernel_size = layer.pair("kernel_size", {3, 3}),
                      .stride = layer.pair("stride", {1, 1}),
                      .padding = layer.pair("padding", {0, 0}),
                      .dilation = layer.pair("dilation", {1, 1}),
                      .groups = layer.integer("groups", 1),
                      .bias = layer.boolean("bias", true)},
                     rng);
  const auto pooling = [&] {
    return Pool2dOptions{.kernel_size = layer.pair("kernel_size", {2, 2}),
                         .stride = layer.pair("stride", {0, 0}),
                         .padding = layer.pair("padding", {0, 0})};
  };
  if (type == "maxpool2d") return MaxPool2d<S>(pooling());
  if (type == "avgpool2d") return AvgPool2d<S>(pooling());
  if (type == "spatial_mean") return GlobalAvgPool2d<S>();
  if (type == "flatten") return Flatten<S>();
  if (type == "unflatten") return Unflatten<S>(layer.shape("shape"));
  if (type == "dropout") return Dropout<S>(layer.number("p"), rng);
  if (type == "residual")
    return Residual(DynamicSequential<S>(make_layers<S>(layer.layers(), layer.name() + '.', rng)));
  if (type == "relu") return ReLU<S>();
  if (type == "tanh") return Tanh<S>();
  if (type == "sigmoid") return Sigmoid<S>();
  if (type == "gelu") return GELU<S>();
  if (type == "softplus") return Softplus<S>();
  if (type == "identity") return Identity<S>();
  layer.fail("is of unknown type '" + type + "'");
}

template <RealScalar S>
std::vector<AnyLayer<S>> make_layers(const nlohmann::json& layers, const std::string& prefix,
                                     Rng& rng) {
  if (!layers.is_array() || layers.empty())
    raise<FileError>("kfac::io::make_network: 'layers' is not an array of at least one layer");
  std::vector<AnyLayer<S>> result;
  for (std::size_t i = 0; i < layers.size(); ++i)
    result.push_back(make_layer<S>(LayerDescription(layers[i], prefix + std::to_string(i)), rng));
  return result;
}

}  // namespace detail

/// A network from its description, an array of layers in order, with freshly drawn parameters:
///
///     [{"type": "unflatten", "shape": [1, 28, 28]},
///      {"type": "conv2d", "in_channels": 1, "out_channels": 8, "kernel_size": [3, 3],
///       "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": true},
///      {"type": "relu"}, {"type": "maxpool2d", "kernel_size": 2}, {"type": "flatten"},
///      {"type": "residual", "layers": [{"type": "linear", "in": 1352, "out": 1352}]},
///      {"type": "linear", "in": 1352, "out": 10, "bias": true}]
///
/// Types: linear, conv2d, maxpool2d and avgpool2d (kernel_size, stride, padding), spatial_mean (the
/// global average), flatten, unflatten, dropout (p), residual, relu, tanh, sigmoid, gelu, softplus,
/// identity. What is left out has the layer's default.
/// \throws FileError naming a layer that is of unknown type or lacks a field; OptionError for a
///         field out of range
template <RealScalar S>
DynamicSequential<S> make_network(const nlohmann::json& layers, Rng& rng) {
  return DynamicSequential<S>(detail::make_layers<S>(layers, "", rng));
}

}  // namespace kfac::io
