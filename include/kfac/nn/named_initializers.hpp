#pragma once

#include <array>
#include <string>

#include <kfac/nn/orthogonal_initializers.hpp>

namespace kfac {

/// The names of initialisers, as PyTorch's.
inline constexpr std::array<const char*, 7> kInitializerNames{
    "zeros",          "xavier_uniform", "xavier_normal",   "kaiming_uniform",
    "kaiming_normal", "orthogonal",     "delta_orthogonal"};

/// Draws the weights of a layer or network anew, by the name of an initialiser with its default
/// options: what a file or a command line says.
/// \throws OptionError, naming all of them, for another name
template <Layer L>
void initialize(L& target, const std::string& name, Rng& rng,
                const InitializeOptions& options = {}) {
  if (name == "zeros") return initialize(target, Constant{}, rng, options);
  if (name == "xavier_uniform") return initialize(target, XavierUniform{}, rng, options);
  if (name == "xavier_normal") return initialize(target, XavierNormal{}, rng, options);
  if (name == "kaiming_uniform") return initialize(target, KaimingUniform{}, rng, options);
  if (name == "kaiming_normal") return initialize(target, KaimingNormal{}, rng, options);
  if (name == "orthogonal") return initialize(target, Orthogonal{}, rng, options);
  if (name == "delta_orthogonal") return initialize(target, DeltaOrthogonal{}, rng, options);
  std::string all;
  for (const char* known : kInitializerNames) all += (all.empty() ? "" : ", ") + std::string(known);
  raise<OptionError>("kfac::initialize: 'name' is '" + name + "', expected one of " + all);
}

}  // namespace kfac
