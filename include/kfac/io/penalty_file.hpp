#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/io/curvature_file.hpp>
#include <kfac/merging/laplace_penalty.hpp>

/// What a network remembers of earlier tasks, in safetensors files. Needs nlohmann_json.
///
/// Such a file is also one of curvature (`docs/curvature_files.md`): of sums of criteria, with the
/// first term of the penalty's first quadratic. Under "penalty/<quadratic>/" there are its "centre"
/// (flat parameters), further diagonals ("<block>/diagonal") and further terms ("<term>/<block>/a"
/// and "g"), as far as there are any; the metadata has the rest (`kfac.penalty`).
namespace kfac::io {
namespace detail {

inline constexpr const char* kPenalty = "kfac.penalty";

inline std::string penalty_prefix(std::size_t quadratic) {
  return "penalty/" + std::to_string(quadratic) + '/';
}
inline std::string penalty_prefix(std::size_t quadratic, std::size_t term,
                                  const ParameterBlock& block) {
  return penalty_prefix(quadratic) + std::to_string(term) + '/' + block.name() + '/';
}

/// The first term of the first quadratic.
template <RealScalar S>
CurvatureEstimate<S> first_estimate(const LaplacePenalty<S>& penalty) {
  CurvatureEstimate<S> estimate;
  estimate.record = {.structure = CurvatureStructure::Diagonal,
                     .examples = static_cast<Index>(penalty.state().examples),
                     .loss_scale = 1,
                     .averages = false};
  for (std::size_t i = 0; i < penalty.blocks().size(); ++i) {
    const PenaltyBlock<S>& own = penalty.state().quadratics[0].blocks[i];
    BlockEstimate<S>& block = estimate.blocks.emplace_back();
    block.block = penalty.blocks()[i];
    block.diagonal = own.diagonal;
    if (own.terms.empty() || own.terms[0].a.size() == 0) continue;
    block.factors = own.terms[0];
    estimate.record.structure = CurvatureStructure::Kronecker;
  }
  return estimate;
}

/// A block of a quadratic, of which `first` is what is with the curvature, if it is.
template <RealScalar S>
PenaltyBlock<S> penalty_block(const SafeTensors& file, std::size_t quadratic,
                              const ParameterBlock& block, const BlockEstimate<S>* first,
                              bool compresses) {
  PenaltyBlock<S> result;
  if (first) {
    result.diagonal = first->diagonal;
    if (first->has_factors()) result.terms.push_back(first->factors);
  } else {
    result.diagonal =
        curvature_matrix<S>(file, penalty_prefix(quadratic) + block.name() + "/diagonal",
                            block.outputs, block.columns());
  }
  for (std::size_t t = result.terms.size();; ++t) {
    const std::string prefix = penalty_prefix(quadratic, t, block);
    linalg::KroneckerTerm<S> term{
        curvature_matrix<S>(file, prefix + "a", block.columns(), block.columns()),
        curvature_matrix<S>(file, prefix + "g", block.outputs, block.outputs)};
    if (term.a.size() == 0 || term.g.size() == 0) break;
    result.terms.push_back(std::move(term));
  }
  if (compresses && block.factored && result.terms.empty()) result.terms.resize(1);
  return result;
}

}  // namespace detail

/// Writes what a penalty has of earlier tasks to a safetensors file, in place of any that is there;
/// a failure leaves that one as it was. \throws FileError
template <RealScalar S>
void save_penalty(const std::filesystem::path& path, const LaplacePenalty<S>& penalty) {
  const PenaltyState<S>& state = penalty.state();
  SafeTensors file;
  add_curvature(file, detail::first_estimate(penalty));
  for (std::size_t q = 0; q < state.quadratics.size(); ++q) {
    file.add_vector(detail::penalty_prefix(q) + "centre", state.quadratics[q].centre);
    for (std::size_t i = 0; i < penalty.blocks().size(); ++i) {
      const ParameterBlock& block = penalty.blocks()[i];
      const PenaltyBlock<S>& own = state.quadratics[q].blocks[i];
      if (q > 0 && own.diagonal.size() > 0)
        file.add_matrix(detail::penalty_prefix(q) + block.name() + "/diagonal", own.diagonal);
      for (std::size_t t = q == 0 ? 1 : 0; t < own.terms.size(); ++t) {
        file.add_matrix(detail::penalty_prefix(q, t, block) + "a", own.terms[t].a);
        file.add_matrix(detail::penalty_prefix(q, t, block) + "g", own.terms[t].g);
      }
    }
  }
  file.set_metadata(detail::kPenalty, nlohmann::json{{"tasks", state.tasks},
                                                     {"examples", state.examples},
                                                     {"loss_scale", state.loss_scale}}
                                          .dump());
  write_safetensors(path, file);
}

/// Gives a penalty of the same network, centre and compression what is in the file: bit for bit in
/// the scalar it was written in. Options are those of the penalty.
///
///     kfac::LaplacePenalty penalty(model, options);
///     kfac::io::load_penalty("penalty.safetensors", penalty);
///
/// \throws FileError naming the file, if it is missing, truncated, or not that of such a penalty,
///         which is as it was then
template <RealScalar S>
void load_penalty(const std::filesystem::path& path, LaplacePenalty<S>& penalty) {
  const SafeTensors file = read_safetensors(path);
  detail::naming_file(path, [&] {
    const CurvatureEstimate<S> first = curvature_of<S>(file);
    kfac::detail::check_estimate("kfac::io::load_penalty", first, penalty.blocks());
    const nlohmann::json json = detail::parsed_entry(file, detail::kPenalty);
    const detail::CurvatureFields fields(json, detail::kPenalty);
    PenaltyState<S> state{.tasks = fields.get<Index>("tasks"),
                          .examples = fields.get<double>("examples"),
                          .loss_scale = fields.get<double>("loss_scale")};
    for (std::size_t q = 0; file.contains(detail::penalty_prefix(q) + "centre"); ++q) {
      PenaltyQuadratic<S>& quadratic = state.quadratics.emplace_back();
      quadratic.centre = file.vector<S>(detail::penalty_prefix(q) + "centre");
      if (!quadratic.centre.allFinite())
        raise<FileError>("kfac::io::load_penalty: '" + detail::penalty_prefix(q) +
                         "centre' is not finite, expected finite numbers");
      for (std::size_t i = 0; i < penalty.blocks().size(); ++i)
        quadratic.blocks.push_back(detail::penalty_block<S>(file, q, penalty.blocks()[i],
                                                            q == 0 ? &first.blocks[i] : nullptr,
                                                            penalty.compresses()));
    }
    penalty.set_state(std::move(state));
  });
}

}  // namespace kfac::io
