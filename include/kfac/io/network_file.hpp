#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include <kfac/io/architecture.hpp>
#include <kfac/io/checkpoint.hpp>

/// A network in one file, with what it takes to make it again. Needs nlohmann_json and zlib.
namespace kfac::io {
namespace detail {

inline constexpr const char* kArchitecture = "kfac.architecture";  // in the metadata

}  // namespace detail

/// Writes a network, its description and its parameters, to a safetensors file, in place of any
/// that is there:
///
///     kfac::io::save_network("small.safetensors", smaller);
///     auto model = kfac::io::load_network<float>("small.safetensors");
///
/// It is a checkpoint with the one part "model", which has the description (`describe_network`) in
/// its metadata, under `kfac.architecture`.
/// \throws ValueError naming a layer that cannot be described; FileError naming the file, if it
///         cannot be written
template <RealScalar S>
void save_network(const std::filesystem::path& path, DynamicSequential<S>& model) {
  SafeTensors file;
  file.set_metadata(detail::kArchitecture, describe_network(model).dump());
  detail::StateWriter writer(file);
  CheckpointPart("model", model).visit(writer);
  detail::seal_checkpoint(file);
  write_safetensors(path, file);
}

/// The network that `save_network` wrote, of the same scalar.
/// \throws FileError naming the file, as `load_checkpoint`, or if it has no description, one that
/// is
///         not fit to make a network of, or one of another network than its parameters
template <RealScalar S>
DynamicSequential<S> load_network(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  detail::check_checkpoint(file, path.string());
  const auto found = file.metadata().find(detail::kArchitecture);
  const nlohmann::json layers = found == file.metadata().end()
                                    ? nlohmann::json()
                                    : nlohmann::json::parse(found->second, nullptr, false);
  if (!layers.is_array())
    raise<FileError>("kfac::io::load_network: '" + path.string() + "' has no '" +
                     detail::kArchitecture + "' in its metadata, expected one by save_network");
  Rng rng;
  DynamicSequential<S> model = make_network<S>(layers, rng);
  const CheckpointPart part("model", model);
  detail::StateChecker(file, path.string()).check(part);
  detail::StateReader reader(file);
  part.visit(reader);
  return model;
}

}  // namespace kfac::io
