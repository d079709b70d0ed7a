#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/io/curvature_file.hpp>
#include <kfac/posterior/laplace.hpp>

/// Laplace approximations in safetensors files: their curvature as `curvature_file.hpp` has it,
/// with mean, prior and data beside it. Needs nlohmann_json. `docs/curvature_files.md` has the
/// layout.
namespace kfac::io {
namespace detail {

inline constexpr const char* kPosteriorFormat = "kfac.posterior";  // in the metadata
inline constexpr const char* kPosteriorPrefix = "posterior/";      // of the tensors

inline constexpr Words<Likelihood, 2> kLikelihoods{
    {{Likelihood::Classification, "classification"}, {Likelihood::Regression, "regression"}}};
inline constexpr Words<PriorGrouping, 4> kGroupings{{{PriorGrouping::Scalar, "scalar"},
                                                     {PriorGrouping::Layer, "layer"},
                                                     {PriorGrouping::Tensor, "tensor"},
                                                     {PriorGrouping::Parameter, "parameter"}}};
inline constexpr Words<PriorDamping, 2> kDampings{
    {{PriorDamping::Additive, "additive"}, {PriorDamping::Multiplicative, "multiplicative"}}};

/// What is asked of a block by its place: the functions among the options are saved as what they
/// answer.
struct BlockAnswers {
  std::vector<ParameterBlock> blocks;
  std::vector<std::array<Index, 2>> groups;  ///< of weights and biases; empty: as the grouping says
  std::vector<bool> random;

  std::size_t index_of(const ParameterBlock& block) const {
    std::size_t i = 0;
    while (i + 1 < blocks.size() && blocks[i].offset != block.offset) ++i;
    return i;
  }
};

template <RealScalar S>
nlohmann::json to_json(const Laplace<S>& posterior) {
  const LaplaceOptions<S>& options = posterior.options();
  nlohmann::json json = {{"version", 1},
                         {"likelihood", word_of(kLikelihoods, options.likelihood)},
                         {"grouping", word_of(kGroupings, options.prior_grouping)},
                         {"damping", word_of(kDampings, options.prior_damping)},
                         {"observation_noise", options.observation_noise},
                         {"temperature", options.temperature},
                         {"loss", posterior.data().loss},
                         {"observations", posterior.data().observations},
                         {"full", posterior.is_full()}};
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i) {
    const PosteriorBlock<S>& block = posterior.blocks()[i];
    json["random"].push_back(block.random());
    if (options.prior_group)
      json["groups"].push_back(
          {block.random() ? posterior.prior().weight_group(i) : Index(-1),
           block.random() && block.block().bias ? posterior.prior().bias_group(i) : Index(-1)});
  }
  return json;
}

/// The functions of the options, from what they had answered.
template <RealScalar S>
void restore_answers(const nlohmann::json& json, BlockAnswers answers, LaplaceOptions<S>& options) {
  const CurvatureFields fields(json, kPosteriorFormat);
  const auto random = json.find("random");
  if (random == json.end() || !random->is_array() || random->size() != answers.blocks.size())
    fields.fail("random", "is not an answer for each block");
  bool all = true;
  for (const nlohmann::json& answer : *random) {
    if (!answer.is_boolean()) fields.fail("random", "is not true or false for each block");
    answers.random.push_back(answer.get<bool>());
    all = all && answers.random.back();
  }
  if (const auto groups = json.find("groups"); groups != json.end()) {
    if (!groups->is_array() || groups->size() != answers.blocks.size())
      fields.fail("groups", "is not an answer for each block");
    for (const nlohmann::json& pair : *groups) {
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() ||
          !pair[1].is_number_integer())
        fields.fail("groups", "is not two numbers for each block");
      answers.groups.push_back({pair[0].get<Index>(), pair[1].get<Index>()});
    }
    options.prior_group = [answers](const ParameterBlock& block, bool bias) {
      return answers.groups[answers.index_of(block)][bias ? 1 : 0];
    };
  }
  if (!all)
    options.subset = [answers](const ParameterBlock& block) {
      return answers.random[answers.index_of(block)];
    };
}

/// A tensor of a posterior; empty if it may be and is not there.
template <RealScalar T>
Vector<T> posterior_vector(const SafeTensors& file, const char* name, bool needed) {
  const std::string full = std::string(kPosteriorPrefix) + name;
  if (!file.contains(full) && !needed) return {};
  return file.vector<T>(full);
}

/// Runs `body`; what a constructor refuses is what the file has wrong.
template <class Body>
decltype(auto) as_file_errors(Body&& body) {
#if defined(__cpp_exceptions)
  try {
    return body();
  } catch (const FileError&) {
    throw;
  } catch (const std::logic_error& error) {
    throw FileError(error.what());
  } catch (const SingularError& error) {
    throw FileError(error.what());
  }
#else
  return body();
#endif
}

}  // namespace detail

/// Adds a posterior to what is about to be written. The functions of its options, for groups and
/// subsets of one's own, are saved as what they say of each block.
/// \throws ValueError if there is one already, or an estimate
template <RealScalar S>
void add_posterior(SafeTensors& file, const Laplace<S>& posterior) {
  const std::string prefix = detail::kPosteriorPrefix;
  add_curvature(file, posterior.curvature());
  file.add_vector(prefix + "mean", posterior.mean());
  file.add_vector(prefix + "prior_mean", posterior.prior().mean());
  file.add_vector(prefix + "prior_precision", posterior.prior().precision());
  if (posterior.data().gradient.size() > 0)
    file.add_vector(prefix + "gradient", posterior.data().gradient);
  if (posterior.is_full()) file.add_matrix(prefix + "curvature", posterior.joint_curvature());
  file.set_metadata(detail::kPosteriorFormat, detail::to_json(posterior).dump());
}

/// The posterior in a file that was read, in the scalar asked for.
/// \throws FileError, saying what, if there is none, or it is not whole
template <RealScalar S>
Laplace<S> posterior_of(const SafeTensors& file) {
  static constexpr const char* kWhere = "kfac::io::posterior_of";
  const auto entry = file.metadata().find(detail::kPosteriorFormat);
  if (entry == file.metadata().end())
    raise<FileError>(std::string(kWhere) +
                     ": 'kfac.posterior' is missing from the metadata, expected a file of a "
                     "posterior");
  CurvatureEstimate<S> curvature = curvature_of<S>(file);
  const nlohmann::json json = detail::parsed_entry(file, detail::kPosteriorFormat);
  const detail::CurvatureFields fields(json, detail::kPosteriorFormat);
  if (const auto version = fields.get<Index>("version"); version != 1)
    fields.fail("version", "is " + std::to_string(version) + ", expected 1");

  LaplaceOptions<S> options;
  options.likelihood = fields.word("likelihood", detail::kLikelihoods);
  options.prior_grouping = fields.word("grouping", detail::kGroupings);
  options.prior_damping = fields.word("damping", detail::kDampings);
  options.observation_noise = fields.get<double>("observation_noise");
  options.temperature = fields.get<double>("temperature");
  detail::BlockAnswers answers;
  for (const BlockEstimate<S>& block : curvature.blocks) answers.blocks.push_back(block.block);
  detail::restore_answers(json, std::move(answers), options);
  const auto precision = detail::posterior_vector<double>(file, "prior_precision", true);
  options.prior_precision.assign(precision.begin(), precision.end());
  options.prior_mean = detail::posterior_vector<S>(file, "prior_mean", true);
  Vector<S> mean = detail::posterior_vector<S>(file, "mean", true);
  LaplaceData<S> data{fields.get<double>("loss"), fields.get<Index>("observations"),
                      detail::posterior_vector<S>(file, "gradient", false)};
  return detail::as_file_errors([&]() -> Laplace<S> {
    if (!fields.get<bool>("full"))
      return {std::move(curvature), std::move(mean), std::move(options), std::move(data)};
    JointCurvature<S> joint{.record = curvature.record};
    for (const BlockEstimate<S>& block : curvature.blocks) joint.blocks.push_back(block.block);
    joint.matrix = file.matrix<S>(std::string(detail::kPosteriorPrefix) + "curvature");
    return {std::move(joint), std::move(mean), std::move(options), std::move(data)};
  });
}

/// Writes a posterior to a safetensors file, in place of any that is there; a failure leaves that
/// one as it was. \throws FileError
template <RealScalar S>
void save_posterior(const std::filesystem::path& path, const Laplace<S>& posterior) {
  SafeTensors file;
  add_posterior(file, posterior);
  write_safetensors(path, file);
}

/// Reads one back: bit for bit in the scalar it was written in.
///
///     const auto posterior = kfac::io::load_posterior<float>("posterior.safetensors");
///
/// \throws FileError naming the file, if it is missing, truncated or has none
template <RealScalar S>
Laplace<S> load_posterior(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  return detail::naming_file(path, [&] { return posterior_of<S>(file); });
}
/// The same for a network, whose parameters stay: `set_flat_parameters(model, posterior.mean())`
/// moves them to the mean. \throws also FileError, naming the layer, if it is that of another
template <class Model>
Laplace<typename Model::Scalar> load_posterior(const std::filesystem::path& path, Model& model) {
  using S = typename Model::Scalar;
  Laplace<S> posterior = load_posterior<S>(path);
  detail::naming_file(path, [&] {
    kfac::detail::check_estimate("kfac::io::load_posterior", posterior.curvature(),
                                 parameter_blocks(model));
  });
  return posterior;
}

}  // namespace kfac::io
