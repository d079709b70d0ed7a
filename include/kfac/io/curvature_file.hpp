#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/io/safetensors.hpp>
#include <kfac/version.hpp>

/// Curvature in safetensors files: factors, eigenbases, diagonals. Needs nlohmann_json.
/// `docs/curvature_files.md` has the layout.
namespace kfac::io {
namespace detail {

// Entries of the metadata.
inline constexpr const char* kCurvatureFormat = "kfac.curvature";
inline constexpr const char* kCurvatureRecord = "kfac.curvature.record";
inline constexpr const char* kCurvatureBlocks = "kfac.curvature.blocks";
inline constexpr const char* kCurvatureVec = "kfac.curvature.vec";
/// Counts the changes of the layout.
inline constexpr const char* kCurvatureVersion = "1";

/// The values of an enumeration and the words that stand for them in files.
template <class Enum, std::size_t Count>
using Words = std::array<std::pair<Enum, const char*>, Count>;

inline constexpr Words<CurvatureStructure, 4> kStructures{
    {{CurvatureStructure::Diagonal, "diagonal"},
     {CurvatureStructure::Kronecker, "kronecker"},
     {CurvatureStructure::Ekfac, "ekfac"},
     {CurvatureStructure::Full, "full"}}};
inline constexpr Words<FisherType, 5> kFisherTypes{
    {{FisherType::Type2, "type-2"},
     {FisherType::MonteCarlo, "monte-carlo"},
     {FisherType::Empirical, "empirical"},
     {FisherType::CurvaturePropagation, "curvature-propagation"},
     {FisherType::ForwardOnly, "forward-only"}}};
inline constexpr Words<WeightSharing, 2> kSharings{
    {{WeightSharing::Expand, "expand"}, {WeightSharing::Reduce, "reduce"}}};

template <class Enum, std::size_t Count>
std::string word_of(const Words<Enum, Count>& words, Enum value) {
  for (const auto& [known, word] : words)
    if (known == value) return word;
  return "";
}

/// A piece of the metadata, as JSON whose fields have to be there and of the right type.
class CurvatureFields {
 public:
  CurvatureFields(const nlohmann::json& json, std::string what)
      : json_(json), what_(std::move(what)) {}

  template <class Value>
  Value get(const char* field) const {
    const auto found = json_.is_object() ? json_.find(field) : json_.end();
    if (!json_.is_object() || found == json_.end()) fail(field, "is missing");
    bool fits = found->is_number();
    if constexpr (std::is_same_v<Value, std::string>) fits = found->is_string();
    if constexpr (std::is_same_v<Value, bool>)
      fits = found->is_boolean();
    else if constexpr (std::is_integral_v<Value>)
      fits = found->is_number_integer();
    if (!fits) fail(field, "is " + json_text(*found));
    return found->template get<Value>();
  }
  template <class Enum, std::size_t Count>
  Enum word(const char* field, const Words<Enum, Count>& words) const {
    const auto text = get<std::string>(field);
    std::string expected;
    for (const auto& [value, word] : words) {
      if (text == word) return value;
      expected += (expected.empty() ? "'" : ", '") + std::string(word) + '\'';
    }
    fail(field, "is '" + text + "', expected one of " + expected);
  }
  [[noreturn]] void fail(const char* field, const std::string& problem) const {
    raise<FileError>("kfac::io::curvature_of: '" + std::string(field) + "' of " + what_ + ' ' +
                     problem);
  }

 private:
  const nlohmann::json& json_;
  std::string what_;
};

inline nlohmann::json to_json(const CurvatureRecord& record) {
  return {{"structure", word_of(kStructures, record.structure)},
          {"fisher", word_of(kFisherTypes, record.fisher)},
          {"samples", record.samples},
          {"seed", record.seed},
          {"sharing", word_of(kSharings, record.sharing)},
          {"examples", record.examples},
          {"loss_scale", record.loss_scale},
          {"averages", record.averages},
          {"moment_examples", record.moment_examples}};
}
inline CurvatureRecord record_of(const nlohmann::json& json) {
  const CurvatureFields fields(json, kCurvatureRecord);
  return {.structure = fields.word("structure", kStructures),
          .fisher = fields.word("fisher", kFisherTypes),
          .samples = fields.get<Index>("samples"),
          .seed = fields.get<std::uint64_t>("seed"),
          .sharing = fields.word("sharing", kSharings),
          .examples = fields.get<Index>("examples"),
          .loss_scale = fields.get<double>("loss_scale"),
          .averages = fields.get<bool>("averages"),
          .moment_examples = fields.get<Index>("moment_examples")};
}

inline nlohmann::json to_json(const ParameterBlock& block) {
  return {{"layer", block.layer},     {"kind", block.kind},         {"group", block.group},
          {"groups", block.groups},   {"factored", block.factored}, {"inputs", block.inputs},
          {"outputs", block.outputs}, {"bias", block.bias},         {"offset", block.offset}};
}
inline ParameterBlock block_of(const nlohmann::json& json) {
  const CurvatureFields fields(json, kCurvatureBlocks);
  return {.layer = fields.get<std::string>("layer"),
          .kind = fields.get<std::string>("kind"),
          .group = fields.get<Index>("group"),
          .groups = fields.get<Index>("groups"),
          .factored = fields.get<bool>("factored"),
          .inputs = fields.get<Index>("inputs"),
          .outputs = fields.get<Index>("outputs"),
          .bias = fields.get<bool>("bias"),
          .offset = fields.get<Index>("offset")};
}

/// Where a block's tensors are.
inline std::string curvature_prefix(const ParameterBlock& block) {
  return "curvature/" + block.name() + '/';
}

/// One tensor of a block, of the size it must have; empty if it is not there.
template <RealScalar S>
Matrix<S> curvature_matrix(const SafeTensors& file, const std::string& name, Index rows,
                           Index columns) {
  if (!file.contains(name)) return {};
  Matrix<S> matrix = file.matrix<S>(name);
  if (matrix.rows() != rows || matrix.cols() != columns)
    raise<FileError>("kfac::io::curvature_of: '" + name + "' is " + std::to_string(matrix.rows()) +
                     'x' + std::to_string(matrix.cols()) + ", expected " + std::to_string(rows) +
                     'x' + std::to_string(columns));
  if (!matrix.allFinite())
    raise<FileError>("kfac::io::curvature_of: '" + name +
                     "' is not finite, expected finite numbers");
  return matrix;
}

template <RealScalar S>
linalg::SymmetricEigen<S> basis_of(const SafeTensors& file, const std::string& prefix, Index size) {
  const std::string name = prefix + "vectors";
  linalg::SymmetricEigen<S> basis;
  basis.vectors = curvature_matrix<S>(file, name, size, size);
  basis.values = file.vector<S>(prefix + "values");
  if (basis.vectors.size() == 0 || basis.values.size() != size || !basis.values.allFinite())
    raise<FileError>("kfac::io::curvature_of: '" + prefix +
                     "' has no basis, expected finite vectors and values of size " +
                     std::to_string(size));
  return basis;
}

/// Runs `body`; a FileError or ShapeError from within is raised again as a FileError, naming the
/// file.
template <class Body>
decltype(auto) naming_file(const std::filesystem::path& path, Body&& body) {
#if defined(__cpp_exceptions)
  try {
    return body();
  } catch (const FileError& error) {
    throw FileError(error.what() + (" (file '" + path.string() + "')"));
  } catch (const ShapeError& error) {
    throw FileError(error.what() + (" (file '" + path.string() + "')"));
  }
#else
  static_cast<void>(path);
  return body();
#endif
}

inline nlohmann::json parsed_entry(const SafeTensors& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end())
    raise<FileError>("kfac::io::curvature_of: '" + std::string(key) +
                     "' is missing from the metadata, expected a file of curvature");
  nlohmann::json json = nlohmann::json::parse(found->second, nullptr, false);
  if (json.is_discarded())
    raise<FileError>("kfac::io::curvature_of: '" + std::string(key) +
                     "' in the metadata is not JSON");
  return json;
}

}  // namespace detail

/// Adds an estimate to what is about to be written: one tensor for each part there is, under
/// "curvature/<block>/", and what it is of in the metadata.
/// \throws ValueError if there is one already
template <RealScalar S>
void add_curvature(SafeTensors& file, const CurvatureEstimate<S>& estimate) {
  nlohmann::json blocks = nlohmann::json::array();
  for (const BlockEstimate<S>& part : estimate.blocks) {
    nlohmann::json block = detail::to_json(part.block);
    block["moments"] = part.has_moments;
    blocks.push_back(std::move(block));
    const std::string prefix = detail::curvature_prefix(part.block);
    const auto add = [&](const char* name, const Matrix<S>& matrix) {
      if (matrix.size() > 0) file.add_matrix(prefix + name, matrix);
    };
    add("a", part.factors.a);
    add("g", part.factors.g);
    add("diagonal", part.diagonal);
    add("full", part.full);
    if (part.eigen.empty()) continue;
    add("eigenvalues", part.eigen.grid());
    add("a_basis/vectors", part.eigen.input_basis().vectors);
    add("g_basis/vectors", part.eigen.output_basis().vectors);
    file.add_vector(prefix + "a_basis/values", part.eigen.input_basis().values);
    file.add_vector(prefix + "g_basis/values", part.eigen.output_basis().values);
  }
  file.set_metadata(detail::kCurvatureFormat, detail::kCurvatureVersion);
  file.set_metadata("kfac.version", std::to_string(kVersion.major) + '.' +
                                        std::to_string(kVersion.minor) + '.' +
                                        std::to_string(kVersion.patch));
  file.set_metadata(detail::kCurvatureVec, "columns");
  file.set_metadata(detail::kCurvatureRecord, detail::to_json(estimate.record).dump());
  file.set_metadata(detail::kCurvatureBlocks, blocks.dump());
}

/// The estimate in a file that was read, in the scalar asked for.
/// \throws FileError, saying what, if there is none, or it is not whole
template <RealScalar S>
CurvatureEstimate<S> curvature_of(const SafeTensors& file) {
  const auto format = file.metadata().find(detail::kCurvatureFormat);
  if (format == file.metadata().end())
    raise<FileError>(
        "kfac::io::curvature_of: 'kfac.curvature' is missing from the metadata, "
        "expected a file of curvature");
  if (format->second != detail::kCurvatureVersion)
    raise<FileError>("kfac::io::curvature_of: 'kfac.curvature' is version " + format->second +
                     ", expected " + detail::kCurvatureVersion);
  CurvatureEstimate<S> estimate;
  estimate.record = detail::record_of(detail::parsed_entry(file, detail::kCurvatureRecord));
  Index offset = 0;
  for (const nlohmann::json& json : detail::parsed_entry(file, detail::kCurvatureBlocks)) {
    BlockEstimate<S> part{.block = detail::block_of(json)};
    const ParameterBlock& block = part.block;
    const detail::CurvatureFields fields(json, detail::kCurvatureBlocks);
    if (block.inputs < 1 || block.outputs < 1) fields.fail("inputs", "or 'outputs' is below 1");
    if (block.offset != offset)
      fields.fail("offset",
                  "is " + std::to_string(block.offset) + ", expected " + std::to_string(offset));
    offset += block.size();
    part.has_moments = fields.get<bool>("moments");
    const std::string prefix = detail::curvature_prefix(block);
    const auto get = [&](const char* name, Index rows, Index columns) {
      return detail::curvature_matrix<S>(file, prefix + name, rows, columns);
    };
    part.factors.a = get("a", block.columns(), block.columns());
    part.factors.g = get("g", block.outputs, block.outputs);
    if ((part.factors.a.size() > 0) != (part.factors.g.size() > 0))
      raise<FileError>("kfac::io::curvature_of: '" + prefix + "' has one factor, expected both");
    part.diagonal = get("diagonal", block.outputs, block.columns());
    part.full = get("full", block.size(), block.size());
    const Matrix<S> grid = get("eigenvalues", block.outputs, block.columns());
    if (grid.size() > 0) {
      if (grid.minCoeff() < 0)
        raise<FileError>("kfac::io::curvature_of: '" + prefix +
                         "eigenvalues' has a negative one, expected eigenvalues >= 0");
      part.eigen.assign(detail::basis_of<S>(file, prefix + "a_basis/", block.columns()),
                        detail::basis_of<S>(file, prefix + "g_basis/", block.outputs), grid);
    }
    estimate.blocks.push_back(std::move(part));
  }
  return estimate;
}

/// Writes an estimate to a safetensors file, in place of any that is there; a failure leaves that
/// one as it was. \throws FileError
template <RealScalar S>
void save_curvature(const std::filesystem::path& path, const CurvatureEstimate<S>& estimate) {
  SafeTensors file;
  add_curvature(file, estimate);
  write_safetensors(path, file);
}

/// Reads one back: bit for bit in the scalar it was written in, rounded or widened in another.
///
///     const auto curvature = kfac::io::load_curvature<float>("curvature.safetensors");
///
/// \throws FileError naming the file, if it is missing, truncated or has none
template <RealScalar S>
CurvatureEstimate<S> load_curvature(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  return detail::naming_file(path, [&] { return curvature_of<S>(file); });
}
/// The same for a network. \throws also FileError, naming the layer, if it is that of another
template <class Model>
CurvatureEstimate<typename Model::Scalar> load_curvature(const std::filesystem::path& path,
                                                         Model& model) {
  using S = typename Model::Scalar;
  CurvatureEstimate<S> estimate = load_curvature<S>(path);
  detail::naming_file(path, [&] {
    kfac::detail::check_estimate("kfac::io::load_curvature", estimate, parameter_blocks(model));
  });
  return estimate;
}

}  // namespace kfac::io
