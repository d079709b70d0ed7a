#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <kfac/merging/merge_model.hpp>
#include <kfac/merging/merge_options.hpp>

namespace kfac::detail {

/// Which blocks of the models become which of the merged network.
struct MergeLayout {
  struct Part {
    ParameterBlock block;  ///< of the merged network
    bool head = false;
    /// Its index in each model's blocks; of a kept head, in one model's alone.
    std::vector<std::size_t> sources;
  };
  std::vector<Part> parts;
  Index size = 0;  ///< of the merged parameters

  std::vector<ParameterBlock> blocks() const {
    std::vector<ParameterBlock> result;
    for (const Part& part : parts) result.push_back(part.block);
    return result;
  }
};

/// \throws ShapeError, naming the layer, if the models differ but in their heads; OptionError if
///         there is no such head or model
template <RealScalar S>
MergeLayout merge_layout(const char* where, std::span<const MergeModel<S>> models,
                         const MergeOptions& options) {
  const bool keep = options.head_rule == HeadRule::Keep;
  check_option(options.head_of < static_cast<Index>(models.size()), where, "head_of",
               options.head_of, "the index of a model");
  const std::size_t first = keep ? static_cast<std::size_t>(options.head_of) : 0;
  const auto is_head = [&](const ParameterBlock& block) {
    return std::ranges::find(options.heads, block.layer) != options.heads.end();
  };
  for (const std::string& head : options.heads)
    if (std::ranges::find(models[first].blocks, head, &ParameterBlock::layer) ==
        models[first].blocks.end())
      raise<OptionError>(std::string(where) + ": 'heads' has '" + head +
                         "', expected the name of a layer with parameters");

  // Which blocks of each model are heads, or not.
  const auto indices = [&](const MergeModel<S>& model, bool heads) {
    std::vector<std::size_t> result;
    for (std::size_t i = 0; i < model.blocks.size(); ++i)
      if (is_head(model.blocks[i]) == heads) result.push_back(i);
    return result;
  };
  MergeLayout layout;
  std::vector<std::vector<std::size_t>> shared, heads;
  for (const MergeModel<S>& model : models) {
    shared.push_back(indices(model, false));
    heads.push_back(indices(model, true));
  }
  const auto differs = [&](std::size_t t, const std::string& found, const ParameterBlock& expected,
                           const char* what) {
    raise<ShapeError>(std::string(where) + ": 'models[" + std::to_string(t) + "].blocks' has " +
                      found + ", expected " + what + text(expected) + " as models[" +
                      std::to_string(first) + "] has (layer '" + expected.name() + "')");
  };
  std::size_t next_shared = 0, next_head = 0;
  for (const ParameterBlock& block : models[first].blocks) {
    MergeLayout::Part part{.block = block, .head = is_head(block), .sources = {}};
    part.block.offset = layout.size;
    const std::size_t i = part.head ? next_head++ : next_shared++;
    if (part.head && keep) {
      part.sources = {heads[first][i]};
    } else {
      if (part.head) part.block.outputs = 0;
      for (std::size_t t = 0; t < models.size(); ++t) {
        const std::vector<std::size_t>& own = part.head ? heads[t] : shared[t];
        if (i >= own.size()) differs(t, "no such block", block, "");
        ParameterBlock expected = models[t].blocks[own[i]];
        if (part.head) part.block.outputs += expected.outputs;
        const std::string found = "'" + expected.name() + "', " + text(expected);
        expected.offset = block.offset;
        if (part.head) {
          expected.outputs = block.outputs;
          if (block.groups > 1 || !block.factored)
            raise<ShapeError>(std::string(where) + ": 'heads' has '" + block.layer +
                              "', which is no linear map of one group, expected one for "
                              "HeadRule::Concatenate");
        }
        if (!(expected == block)) differs(t, found, block, part.head ? "but for the outputs " : "");
        part.sources.push_back(own[i]);
      }
    }
    layout.size += part.block.size();
    layout.parts.push_back(std::move(part));
  }
  for (std::size_t t = 0; t < models.size(); ++t)
    if (shared[t].size() != next_shared || (!keep && heads[t].size() != next_head))
      check_size(where, ("models[" + std::to_string(t) + "].blocks").c_str(),
                 static_cast<Index>(models[t].blocks.size()),
                 static_cast<Index>(models[first].blocks.size()), "blocks");
  return layout;
}

}  // namespace kfac::detail
