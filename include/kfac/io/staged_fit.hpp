#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/io/curvature_file.hpp>

namespace kfac::io {

/// What a fit of curvature has done: what the file has.
enum class FitStage {
  Factors,  ///< the factors; of other structures, all there is
  Bases,    ///< and their eigenbases
  Moments,  ///< and the second moments in these: EKFAC
};

namespace detail {

inline constexpr const char* kFitOf = "kfac.fit.of";

/// A number that changes with any bit of what is added to it (FNV-1a, 64 bits).
class Fingerprint {
 public:
  template <class Derived>
  void add(const Eigen::PlainObjectBase<Derived>& values) {
    add(values.data(), values.size());
  }
  template <class Scalar>
  void add(const Scalar* values, Index count) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count) * sizeof(Scalar); ++i)
      value_ = (value_ ^ bytes[i]) * 0x100000001b3U;
  }
  std::string text() const {
    std::array<char, 17> digits{};
    for (std::size_t i = 0; i < 16; ++i)
      digits[i] = "0123456789abcdef"[(value_ >> (4 * (15 - i))) & 15U];
    return digits.data();
  }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

/// What a fit is of, as text.
template <class Model, Loss L>
std::string fit_of(Model& model, const L& loss,
                   const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
                   const EstimateOptions& options, const std::vector<ParameterBlock>& wanted) {
  using S = typename L::Scalar;
  Fingerprint fingerprint;
  fingerprint.add(flat_parameters(model));
  for (const auto& slice : slices) {
    fingerprint.add(slice.inputs.data(), slice.inputs.size());
    fingerprint.add(slice.targets.data(), slice.targets.size());
  }
  if (!slices.empty()) {
    const Evaluation evaluation(model);
    const ConstMatrixMap<S> outputs = model.forward(slices[0].inputs, slices[0].shape);
    const S value = loss.value(outputs, slices[0].targets);  // other losses, other values
    fingerprint.add(&value, 1);
  }
  std::string text = fingerprint.text() + ' ' + word_of(kStructures, options.structure) + ' ' +
                     word_of(kFisherTypes, options.fisher) + ' ' + std::to_string(options.samples) +
                     ' ' + std::to_string(options.seed) + ' ' + word_of(kSharings, options.sharing);
  for (const ParameterBlock& block : wanted) text += ' ' + block.name();
  return text;
}

}  // namespace detail

/// `estimate_curvature` that is saved after each stage, and goes on from the file if there is one:
/// a fit that was interrupted loses the stage it was in, and one that had ended is read.
///
///     const auto curvature = kfac::io::fit_in_stages(
///         "curvature.safetensors", model, loss, kfac::slices(train, 500),
///         {.structure = kfac::CurvatureStructure::Ekfac});
///
/// The file remembers the parameters, the data and the options: of others it is refused.
/// `after_stage` is called when a stage is saved.
/// \throws FileError if the file cannot be read or written, or is of something else; likewise
template <class Model, Loss L>
CurvatureEstimate<typename L::Scalar> fit_in_stages(
    const std::filesystem::path& path, Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const EstimateOptions& options = {.structure = CurvatureStructure::Ekfac},
    const std::function<void(FitStage)>& after_stage = {}) {
  using S = typename L::Scalar;
  using Structure = CurvatureStructure;
  static constexpr const char* kWhere = "kfac::io::fit_in_stages";
  std::vector<ParameterBlock> wanted;
  for (const ParameterBlock& block : parameter_blocks(model))
    if (!options.layers || options.layers(block.layer)) wanted.push_back(block);
  const std::string of = detail::fit_of(model, loss, slices, options, wanted);
  const bool is_ekfac = options.structure == Structure::Ekfac;

  CurvatureEstimate<S> estimate;
  const auto save = [&](FitStage stage) {
    SafeTensors file;
    add_curvature(file, estimate);
    file.set_metadata(detail::kFitOf, of);
    write_safetensors(path, file);
    if (after_stage) after_stage(stage);
  };
  if (std::filesystem::exists(path)) {
    const SafeTensors file = read_safetensors(path);
    const auto found = file.metadata().find(detail::kFitOf);
    if (found == file.metadata().end() || found->second != of)
      raise<FileError>(std::string(kWhere) + ": '" + path.string() +
                       "' is of other parameters, data or options, expected a fit of these (or no "
                       "file)");
    estimate = detail::naming_file(path, [&] { return curvature_of<S>(file); });
  } else {
    if (is_ekfac)
      kfac::detail::check_memory(kWhere,
                                 curvature_memory<S>(parameter_blocks(model), Structure::Ekfac),
                                 options.memory_limit);
    EstimateOptions first = options;
    if (is_ekfac) first.structure = Structure::Kronecker;
    estimate = estimate_curvature(model, loss, slices, first);
    save(FitStage::Factors);
  }
  if (!is_ekfac || estimate.record.structure == Structure::Ekfac) return estimate;
  const auto needs_basis = [](const BlockEstimate<S>& block) {
    return block.has_factors() && block.eigen.empty();
  };
  if (std::any_of(estimate.blocks.begin(), estimate.blocks.end(), needs_basis)) {
    decompose(estimate);
    save(FitStage::Bases);
  }
  fit_moments(estimate, model, loss, slices);
  save(FitStage::Moments);
  return estimate;
}

}  // namespace kfac::io
