#pragma once

#include <array>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
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

  /// One integer for each axis of an image, or one for all of them.
  template <std::size_t Axes>
  std::array<Index, Axes> per_axis(const char* field,
                                   const std::array<Index, Axes>& otherwise) const {
    if (!json_.contains(field)) return otherwise;
    const nlohmann::json& value = json_[field];
    if (value.is_number_integer()) return kfac::detail::on_all_axes<Axes>(value.get<Index>());
    std::array<Index, Axes> result{};
    if (!value.is_array() || value.size() != Axes) fail_per_axis(field, Axes);
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      if (!value[axis].is_number_integer()) fail_per_axis(field, Axes);
      result[axis] = value[axis].get<Index>();
    }
    return result;
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
  [[noreturn]] void fail_per_axis(const char* field, std::size_t axes) const {
    fail(std::string("has a '") + field + "' that is neither an integer nor an array of " +
         std::to_string(axes));
  }

  const nlohmann::json& json_;
  std::string name_;
};

template <RealScalar S>
std::vector<AnyLayer<S>> make_layers(const nlohmann::json& layers, const std::string& prefix,
                                     Rng& rng);

template <RealScalar S, std::size_t Axes>
Conv<S, Axes> make_convolution(const LayerDescription& layer, Rng& rng) {
  const ConvOptions<Axes> defaults;
  return Conv<S, Axes>({.in_channels = layer.integer("in_channels"),
                        .out_channels = layer.integer("out_channels"),
                        .kernel_size = layer.per_axis("kernel_size", defaults.kernel_size),
                        .stride = layer.per_axis("stride", defaults.stride),
                        .padding = layer.per_axis("padding", defaults.padding),
                        .padding_end = layer.per_axis("padding_end", defaults.padding_end),
                        .dilation = layer.per_axis("dilation", defaults.dilation),
                        .groups = layer.integer("groups", defaults.groups),
                        .bias = layer.boolean("bias", defaults.bias),
                        .workspace = layer.integer("workspace", defaults.workspace)},
                       rng);
}

template <std::size_t Axes>
PoolOptions<Axes> pooling(const LayerDescription& layer) {
  const PoolOptions<Axes> defaults;
  return {.kernel_size = layer.per_axis("kernel_size", defaults.kernel_size),
          .stride = layer.per_axis("stride", defaults.stride),
          .padding = layer.per_axis("padding", defaults.padding),
          .padding_end = layer.per_axis("padding_end", defaults.padding_end)};
}

template <RealScalar S>
AnyLayer<S> make_layer(const LayerDescription& layer, Rng& rng) {
  const std::string type = layer.type();
  if (type == "linear")
    return Linear<S>(layer.integer("in"), layer.integer("out"), rng,
                     {.bias = layer.boolean("bias", true)});
  if (type == "conv1d") return make_convolution<S, 1>(layer, rng);
  if (type == "conv2d") return make_convolution<S, 2>(layer, rng);
  if (type == "conv3d") return make_convolution<S, 3>(layer, rng);
  if (type == "maxpool1d") return MaxPool1d<S>(pooling<1>(layer));
  if (type == "maxpool2d") return MaxPool2d<S>(pooling<2>(layer));
  if (type == "avgpool1d") return AvgPool1d<S>(pooling<1>(layer));
  if (type == "avgpool2d") return AvgPool2d<S>(pooling<2>(layer));
  if (type == "spatial_mean") return SpatialMean<S>();
  if (type == "spatial_sum") return SpatialSum<S>();
  if (type == "mean_tokens") return MeanTokens<S>();
  if (type == "sum_tokens") return SumTokens<S>();
  if (type == "channels_last") return ChannelsLast<S>();
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
  if (type == "sine") return Sine<S>();
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

/// One integer where all axes agree, which says the same and is shorter.
template <std::size_t Axes>
nlohmann::json per_axis(const std::array<Index, Axes>& entries) {
  for (const Index entry : entries)
    if (entry != entries[0]) return entries;
  return entries[0];
}

/// What windows of convolutions and poolings have in common. `padding_end` only where it says more
/// than `padding`.
template <class Options>
void describe_window(const Options& options, nlohmann::json& into) {
  into["kernel_size"] = per_axis(options.kernel_size);
  into["stride"] = per_axis(options.stride);
  into["padding"] = per_axis(options.padding);
  if (options.padding_end != Options{}.padding_end)
    into["padding_end"] = per_axis(options.padding_end);
}

template <RealScalar S>
nlohmann::json describe_layers(const DynamicSequential<S>& layers, const std::string& prefix);

/// Writes the description of a layer if it is an `L`.
template <class L, RealScalar S>
bool describe_as(const AnyLayer<S>& layer, const std::string& type, nlohmann::json& into) {
  const L* held = layer.template target<L>();
  if (!held) return false;
  into["type"] = type;
  if constexpr (requires { held->options().in_channels; }) {
    const auto& options = held->options();
    into["in_channels"] = options.in_channels;
    into["out_channels"] = options.out_channels;
    describe_window(options, into);
    into["dilation"] = per_axis(options.dilation);
    into["groups"] = options.groups;
    into["bias"] = options.bias;
    into["workspace"] = options.workspace;
  } else if constexpr (requires { held->options(); }) {
    describe_window(held->options(), into);
  } else if constexpr (requires { held->has_bias(); }) {
    into["in"] = held->inputs();
    into["out"] = held->outputs();
    into["bias"] = held->has_bias();
  } else if constexpr (requires { held->p(); }) {
    into["p"] = held->p();
  } else if constexpr (requires { held->shape(); }) {
    for (int axis = 0; axis < held->shape().rank(); ++axis)
      into["shape"].push_back(held->shape()[axis]);
  }
  return true;
}

template <RealScalar S>
nlohmann::json describe_layer(const AnyLayer<S>& layer, const std::string& name) {
  nlohmann::json result;
  if (const auto* residual = layer.template target<Residual<DynamicSequential<S>>>()) {
    result["type"] = "residual";
    result["layers"] = describe_layers(residual->block().template layer<0>(), name + '.');
    return result;
  }
  const bool known = describe_as<Linear<S>>(layer, "linear", result) ||
                     describe_as<Conv1d<S>>(layer, "conv1d", result) ||
                     describe_as<Conv2d<S>>(layer, "conv2d", result) ||
                     describe_as<Conv3d<S>>(layer, "conv3d", result) ||
                     describe_as<MaxPool1d<S>>(layer, "maxpool1d", result) ||
                     describe_as<MaxPool2d<S>>(layer, "maxpool2d", result) ||
                     describe_as<AvgPool1d<S>>(layer, "avgpool1d", result) ||
                     describe_as<AvgPool2d<S>>(layer, "avgpool2d", result) ||
                     describe_as<SpatialMean<S>>(layer, "spatial_mean", result) ||
                     describe_as<SpatialSum<S>>(layer, "spatial_sum", result) ||
                     describe_as<MeanTokens<S>>(layer, "mean_tokens", result) ||
                     describe_as<SumTokens<S>>(layer, "sum_tokens", result) ||
                     describe_as<ChannelsLast<S>>(layer, "channels_last", result) ||
                     describe_as<Flatten<S>>(layer, "flatten", result) ||
                     describe_as<Unflatten<S>>(layer, "unflatten", result) ||
                     describe_as<Dropout<S>>(layer, "dropout", result) ||
                     describe_as<ReLU<S>>(layer, "relu", result) ||
                     describe_as<Tanh<S>>(layer, "tanh", result) ||
                     describe_as<Sigmoid<S>>(layer, "sigmoid", result) ||
                     describe_as<GELU<S>>(layer, "gelu", result) ||
                     describe_as<Softplus<S>>(layer, "softplus", result) ||
                     describe_as<Sine<S>>(layer, "sine", result) ||
                     describe_as<Identity<S>>(layer, "identity", result);
  if (!known)
    raise<ValueError>("kfac::io::describe_network: layer '" + name +
                      "' is of a type that make_network does not know");
  return result;
}

template <RealScalar S>
nlohmann::json describe_layers(const DynamicSequential<S>& layers, const std::string& prefix) {
  nlohmann::json result = nlohmann::json::array();
  for (std::size_t i = 0; i < layers.size(); ++i)
    result.push_back(describe_layer(layers.layer(i), prefix + std::to_string(i)));
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
/// Types: linear; conv1d, conv2d and conv3d; maxpool1d, maxpool2d, avgpool1d and avgpool2d
/// (kernel_size, stride, padding, padding_end); spatial_mean and spatial_sum (over all positions of
/// each channel); mean_tokens and sum_tokens; channels_last; flatten, unflatten; dropout (p);
/// residual; relu, tanh, sigmoid, gelu, softplus, sine, identity. What is left out has the layer's
/// default; what has an entry for each axis may be one integer for all. \throws FileError naming a
/// layer that is of unknown type or lacks a field; OptionError for a
///         field out of range
template <RealScalar S>
DynamicSequential<S> make_network(const nlohmann::json& layers, Rng& rng) {
  return DynamicSequential<S>(detail::make_layers<S>(layers, "", rng));
}

/// The description from which `make_network` makes a network like this one, all fields written out.
/// What it draws, parameters and the seeds of Dropout, is not part of it.
/// \throws ValueError naming a layer that `make_network` cannot make
template <RealScalar S>
nlohmann::json describe_network(const DynamicSequential<S>& model) {
  return detail::describe_layers(model, "");
}

}  // namespace kfac::io
