#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/compression_memory.hpp>
#include <kfac/compression/exact_updates.hpp>
#include <kfac/compression/unit_links.hpp>

namespace kfac {

/// Units of a layer that are to go: hidden neurons, or channels.
struct UnitRemoval {
  std::string layer;         ///< that a `UnitLink` begins at
  std::vector<Index> units;  ///< rows of its weights; in any order, each once
};

struct RemovalOptions {
  /// Added to the inputs' factor of the layer that is compensated: so many times its mean
  /// eigenvalue; >= 0 and finite.
  double damping = 1e-3;
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

namespace detail {

/// The rows and columns that a removal takes from each layer, and the weights that are left.
template <RealScalar S>
class UnitRemover {
 public:
  UnitRemover(const char* where, DynamicSequential<S>& model,
              const std::vector<UnitRemoval>& removals)
      : model_(model) {
    const std::vector<UnitLink> links = unit_links(model);
    for (const UnitRemoval& removal : removals) {
      const auto link = std::find_if(links.begin(), links.end(), [&](const UnitLink& candidate) {
        return candidate.layer == removal.layer;
      });
      if (link == links.end()) raise_unknown(where, removal.layer, links);
      if (rows_.contains(removal.layer))
        raise<ValueError>(std::string(where) + ": 'removals' has layer '" + removal.layer +
                          "' twice, expected it once");
      const std::vector<Index> units = naming_layer(removal.layer, [&] {
        return checked_indices(where, "units", removal.units, link->units);
      });
      std::vector<Index> columns;
      for (const Index unit : units)
        for (const Index column : link->columns(unit)) columns.push_back(column);
      std::sort(columns.begin(), columns.end());
      rows_[removal.layer] = units;
      columns_[link->next] = std::move(columns);
    }
  }

  /// Compensates the columns that go by those that stay.
  void compensate(const char* where, const CurvatureEstimate<S>& estimate, double damping) {
    const Vector<S> flat = flat_parameters(model_);
    for (const BlockEstimate<S>& block : estimate.blocks) {
      const auto found = columns_.find(block.block.name());
      if (found == columns_.end() || found->second.empty()) continue;
      check_factors(where, block);
      Matrix<S> w = block.block.of(flat);
      remove_columns<S>(where, w, block.factors, found->second, damping, block.block.name());
      weights_[block.block.name()] = std::move(w);
    }
  }

  DynamicSequential<S> run() const {
    return rewritten(model_, [&](std::vector<AnyLayer<S>>& layers, const std::string& prefix) {
      for (std::size_t i = 0; i < layers.size(); ++i) {
        const std::string name = prefix + std::to_string(i);
        if (rows_.contains(name) || columns_.contains(name)) shrink(name, layers[i]);
      }
    });
  }

 private:
  [[noreturn]] static void raise_unknown(const char* where, const std::string& layer,
                                         const std::vector<UnitLink>& links) {
    std::string known;
    for (const UnitLink& link : links) known += (known.empty() ? "'" : ", '") + link.layer + "'";
    raise<ValueError>(
        std::string(where) + ": 'removals' has layer '" + layer +
        "', expected one whose units can be removed: " + (known.empty() ? "none" : known));
  }

  void shrink(const std::string& name, AnyLayer<S>& layer) const {
    UnitMap<S> map = *unit_map(layer);
    if (const auto found = weights_.find(name); found != weights_.end()) map.weight = found->second;
    std::vector<Index> rows, columns;
    if (const auto found = rows_.find(name); found != rows_.end()) rows = found->second;
    if (const auto found = columns_.find(name); found != columns_.end()) columns = found->second;
    map.inputs -= static_cast<Index>(columns.size()) / map.taps;
    const Matrix<S> kept =
        map.weight(all_but(rows, map.weight.rows()), all_but(columns, map.weight.cols()));
    map.weight = kept;
    layer = layer_of(map, layer);
  }

  DynamicSequential<S>& model_;
  std::map<std::string, std::vector<Index>> rows_, columns_;
  std::map<std::string, Matrix<S>> weights_;
};

}  // namespace detail

/// The network without those units: really smaller, with outputs as if the next layer's weights of
/// them were zero (so, where the activation maps 0 to 0, as if their own weights and biases were).
/// It is of the same kinds of layers, is trained on, described and saved like any other, and is in
/// the model's mode; the model stays as it is. To remove units of a `Sequential`, make a
/// `dynamic_copy` of it.
/// \throws ValueError for a layer that no `UnitLink` begins at, or is there twice; for a unit that
///         is not there or is there twice, or if all of a layer would go
template <RealScalar S>
DynamicSequential<S> remove_units(DynamicSequential<S>& model,
                                  const std::vector<UnitRemoval>& removals) {
  return detail::UnitRemover<S>("kfac::remove_units", model, removals).run();
}

/// The same, with the weights and the bias of each next layer as they make up for what is gone
/// best: `remove_columns`. The estimate is the model's, with Kronecker factors.
///
///     const auto curvature = kfac::estimate_curvature(model, loss, kfac::slices(train, 500));
///     const auto units = kfac::choose_units(model, curvature, {.ratio = 0.75});
///     auto smaller = kfac::remove_units(model, units, curvature);
///
/// \throws also OptionError; MemoryError; ShapeError if the estimate is of another network;
/// ValueError if it has
///         no Kronecker factors; SingularError without damping
template <RealScalar S>
DynamicSequential<S> remove_units(DynamicSequential<S>& model,
                                  const std::vector<UnitRemoval>& removals,
                                  const CurvatureEstimate<S>& estimate,
                                  const RemovalOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::remove_units";
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  detail::check_compression(kWhere, options.damping, options.memory_limit, blocks,
                            estimate.record.structure);
  detail::check_estimate(kWhere, estimate, blocks);
  detail::UnitRemover<S> remover(kWhere, model, removals);
  remover.compensate(kWhere, estimate, options.damping);
  return remover.run();
}

}  // namespace kfac
