#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>

namespace kfac {
namespace detail {

/// Raises a ShapeError or ValueError unless there are parts, of one network and of one kind.
template <RealScalar S>
void check_parts(const char* where, std::span<const CurvatureEstimate<S>> parts) {
  if (parts.empty())
    raise<ShapeError>(std::string(where) + ": 'parts' is empty, expected at least one estimate");
  std::vector<ParameterBlock> blocks;
  for (const BlockEstimate<S>& block : parts[0].blocks) blocks.push_back(block.block);
  const CurvatureRecord& first = parts[0].record;
  for (const CurvatureEstimate<S>& part : parts) {
    check_estimate(where, part, blocks);
    const CurvatureRecord& record = part.record;
    if (record.structure != first.structure || record.fisher != first.fisher ||
        record.samples != first.samples || record.sharing != first.sharing ||
        record.averages != first.averages)
      raise<ValueError>(std::string(where) +
                        ": 'parts' are of different kinds, expected one structure, Fisher type, "
                        "number of samples, weight sharing and reduction");
  }
}

/// R of all the data: of a mean, 1 / R adds up; of a sum it is the same.
template <RealScalar S>
double combined_loss_scale(const char* where, std::span<const CurvatureEstimate<S>> parts) {
  const double first = parts[0].record.loss_scale;
  if (!parts[0].record.averages) {
    for (const CurvatureEstimate<S>& part : parts)
      if (std::abs(part.record.loss_scale - first) > 1e-6 * first)
        raise<ValueError>(std::string(where) + ": 'parts' have losses of different scales, " +
                          text(part.record.loss_scale) + " and " + text(first) + ", expected one");
    return first;
  }
  double inverse = 0;
  for (const CurvatureEstimate<S>& part : parts) inverse += 1 / part.record.loss_scale;
  return 1 / inverse;
}

/// sum_i weights(i) * matrix(parts[i].blocks[b]), if there are any.
template <RealScalar S, class Weight, class Member>
void combine_matrices(std::span<const CurvatureEstimate<S>> parts, std::size_t b,
                      const Weight& weight, const Member& member, Matrix<S>& into) {
  if (member(parts[0].blocks[b]).size() == 0) return;
  into.setZero();
  for (const CurvatureEstimate<S>& part : parts)
    into += static_cast<S>(weight(part.record)) * member(part.blocks[b]);
}

template <RealScalar S>
bool have_same_bases(const BlockEstimate<S>& a, const BlockEstimate<S>& b) {
  return a.has_moments && b.has_moments &&
         a.eigen.input_basis().vectors == b.eigen.input_basis().vectors &&
         a.eigen.output_basis().vectors == b.eigen.output_basis().vectors;
}

/// Raises a ValueError unless the same forms are there.
template <RealScalar S>
void check_forms(const char* where, const BlockEstimate<S>& a, const BlockEstimate<S>& b) {
  if (a.factors.a.size() == b.factors.a.size() && a.diagonal.size() == b.diagonal.size() &&
      a.full.size() == b.full.size() && a.has_moments == b.has_moments)
    return;
  raise<ValueError>(std::string(where) + ": 'parts' have different forms of layer '" +
                    a.block.name() + "', expected the same");
}

}  // namespace detail

/// The estimate of all the data of which the parts are estimates at the same parameters, in any
/// order: on several machines, say, or as more data come. It is exact, for Kronecker factors whose
/// examples all have one shape.
///
/// EKFAC takes two rounds: factors of each part, combined; `decompose`; `fit_moments` of copies of
/// that for each part's data, combined, where only the second moments differ. Otherwise what was
/// made of factors is left out.
/// \throws ShapeError if there are none, or not of one network; ValueError if they are not of one
///         kind, or have second moments in different bases
template <RealScalar S>
CurvatureEstimate<S> combine_data(std::span<const CurvatureEstimate<S>> parts) {
  static constexpr const char* kWhere = "kfac::combine_data";
  detail::check_parts(kWhere, parts);
  CurvatureEstimate<S> result = parts[0];
  CurvatureRecord& record = result.record;
  const bool moments = record.moment_examples > 0;
  record.examples = 0;
  record.moment_examples = 0;
  for (const CurvatureEstimate<S>& part : parts) {
    record.examples += part.record.examples;
    record.moment_examples += part.record.moment_examples;
    for (std::size_t b = 0; b < result.blocks.size(); ++b) {
      detail::check_forms(kWhere, result.blocks[b], part.blocks[b]);
      if (result.blocks[b].has_moments &&
          !detail::have_same_bases(result.blocks[b], part.blocks[b]))
        raise<ValueError>(
            std::string(kWhere) + ": 'parts' have second moments in different bases, " +
            "expected those of one decompose (layer '" + result.blocks[b].block.name() + "')");
    }
  }
  if (moments) {
    record.examples = parts[0].record.examples;
    const auto by_examples = [&](const CurvatureRecord& part) {
      return static_cast<double>(part.moment_examples) /
             static_cast<double>(record.moment_examples);
    };
    for (std::size_t b = 0; b < result.blocks.size(); ++b) {
      if (!result.blocks[b].has_moments) continue;
      Matrix<S> grid = result.blocks[b].eigen.grid();
      detail::combine_matrices(
          parts, b, by_examples,
          [](const BlockEstimate<S>& block) -> const Matrix<S>& { return block.eigen.grid(); },
          grid);
      result.blocks[b].eigen.set_grid(grid);
    }
    return result;
  }
  record.loss_scale = detail::combined_loss_scale(kWhere, parts);
  const auto by_examples = [&](const CurvatureRecord& part) {
    return static_cast<double>(part.examples) / static_cast<double>(record.examples);
  };
  const auto by_scale = [&](const CurvatureRecord& part) {
    return record.loss_scale / part.loss_scale;
  };
  for (std::size_t b = 0; b < result.blocks.size(); ++b) {
    BlockEstimate<S>& block = result.blocks[b];
    const auto combine = [&](const auto& weight, auto&& member) {
      detail::combine_matrices(parts, b, weight, member, member(block));
    };
    combine(
        by_examples, [](auto& at) -> auto& { return at.factors.a; });
    combine(
        by_scale, [](auto& at) -> auto& { return at.factors.g; });
    combine(
        by_scale, [](auto& at) -> auto& { return at.diagonal; });
    combine(
        by_scale, [](auto& at) -> auto& { return at.full; });
    block.eigen = {};
  }
  return result;
}

/// The estimate of all layers of which the parts are estimates of some, from the same data and
/// parameters (`EstimateOptions::layers`): one after another, where all take too much memory at
/// once.
/// \throws ShapeError likewise; ValueError if they are not of the same data, or a layer is in two
template <RealScalar S>
CurvatureEstimate<S> combine_layers(std::span<const CurvatureEstimate<S>> parts) {
  static constexpr const char* kWhere = "kfac::combine_layers";
  detail::check_parts(kWhere, parts);
  CurvatureEstimate<S> result = parts[0];
  for (const CurvatureEstimate<S>& part : parts.subspan(1)) {
    if (!(part.record == result.record))
      raise<ValueError>(std::string(kWhere) +
                        ": 'parts' are not of the same data and seed, expected equal records");
    for (std::size_t b = 0; b < result.blocks.size(); ++b) {
      if (part.blocks[b].is_empty()) continue;
      if (!result.blocks[b].is_empty())
        raise<ValueError>(std::string(kWhere) + ": layer '" + part.blocks[b].block.name() +
                          "' is in two of the 'parts', expected one");
      result.blocks[b] = part.blocks[b];
    }
  }
  return result;
}

}  // namespace kfac
