#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <kfac/compression/linear_maps.hpp>
#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/pooling.hpp>

namespace kfac {

/// Two layers between which units (hidden neurons, or the channels of a convolution) can be taken
/// out of a network: nothing else reads the outputs of `layer`, and `next` has columns of its own
/// for each.
struct UnitLink {
  std::string layer = {};  ///< its rows are the units
  std::string next = {};
  Index units = 0;
  Index positions = 1;  ///< columns of `next` for each unit: the taps of a kernel, or pixels
  /// Whether unit u has the columns u, u + units, ...; else `positions` of them side by side.
  bool interleaved = false;

  /// The columns of `next` that unit u goes into.
  std::vector<Index> columns(Index unit) const {
    std::vector<Index> result;
    for (Index position = 0; position < positions; ++position)
      result.push_back(interleaved ? position * units + unit : unit * positions + position);
    return result;
  }
};

namespace detail {

/// On which axis of a batch a layer's units are, and where they are gone.
enum class UnitAxis { First, Last, Only, FlattenedFirst, FlattenedLast, Lost };

/// Where they are behind a layer without parameters.
template <RealScalar S>
UnitAxis units_behind(const AnyLayer<S>& layer, UnitAxis axis) {
  const auto is = [&]<class... L>(std::type_identity<L>...) {
    return (... || (layer.template target<L>() != nullptr));
  };
  if (layer.is_elementwise() || is(std::type_identity<Dropout<S>>{})) return axis;
  if (is(std::type_identity<MaxPool1d<S>>{}, std::type_identity<MaxPool2d<S>>{},
         std::type_identity<MaxPool3d<S>>{}, std::type_identity<AvgPool1d<S>>{},
         std::type_identity<AvgPool2d<S>>{}, std::type_identity<AvgPool3d<S>>{}))
    return axis == UnitAxis::First ? axis : UnitAxis::Lost;
  if (is(std::type_identity<SpatialMean<S>>{}, std::type_identity<SpatialSum<S>>{}))
    return axis == UnitAxis::First ? UnitAxis::Only : UnitAxis::Lost;
  if (is(std::type_identity<MeanTokens<S>>{}, std::type_identity<SumTokens<S>>{}))
    return axis == UnitAxis::Last ? UnitAxis::Only : UnitAxis::Lost;
  if (is(std::type_identity<ChannelsLast<S>>{}))
    return axis == UnitAxis::First ? UnitAxis::Last : UnitAxis::Lost;
  if (is(std::type_identity<Flatten<S>>{})) {
    if (axis == UnitAxis::First) return UnitAxis::FlattenedFirst;
    if (axis == UnitAxis::Last) return UnitAxis::FlattenedLast;
    return axis;
  }
  return UnitAxis::Lost;
}

/// The link from a layer's units on that axis to a linear map, if it reads them there.
template <RealScalar S>
std::optional<UnitLink> link_to(const UnitMap<S>& next, Index units, UnitAxis axis) {
  UnitLink link{.units = units};
  if (next.groups != 1) return {};
  if (next.is_image) {
    if (axis != UnitAxis::First || next.inputs != units) return {};
    link.positions = next.taps;
    return link;
  }
  if (axis == UnitAxis::First || axis == UnitAxis::Lost || next.inputs % units != 0) return {};
  link.positions = next.inputs / units;
  link.interleaved = axis == UnitAxis::FlattenedLast;
  return link;
}

}  // namespace detail

/// All pairs of layers between which units can be taken out, in order: Linear or Conv (without
/// groups) to the next of these, with activations, Dropout, poolings, ChannelsLast and Flatten
/// between them as they keep the units apart; in the blocks of Residual too, but not across one.
/// The last layer's outputs are those of the network, and no units.
template <RealScalar S>
std::vector<UnitLink> unit_links(const DynamicSequential<S>& model) {
  std::vector<UnitLink> links;
  detail::for_each_chain(model, [&](const DynamicSequential<S>& chain, const std::string& prefix) {
    std::vector<std::optional<detail::UnitMap<S>>> maps;
    for (std::size_t i = 0; i < chain.size(); ++i) maps.push_back(detail::unit_map(chain.layer(i)));
    for (std::size_t i = 0; i < chain.size(); ++i) {
      if (!maps[i] || maps[i]->groups != 1) continue;
      detail::UnitAxis axis = maps[i]->is_image ? detail::UnitAxis::First : detail::UnitAxis::Last;
      std::size_t j = i + 1;
      for (; j < chain.size() && !maps[j]; ++j) axis = detail::units_behind(chain.layer(j), axis);
      if (j == chain.size()) continue;
      auto link = detail::link_to(*maps[j], maps[i]->outputs(), axis);
      if (!link) continue;
      link->layer = prefix + std::to_string(i);
      link->next = prefix + std::to_string(j);
      links.push_back(*link);
    }
  });
  return links;
}

}  // namespace kfac
