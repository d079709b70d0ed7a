#pragma once

#include <nlohmann/json_fwd.hpp>

#include <kfac/nn/dynamic_sequential.hpp>

/// The network of a case. Apart from the runner because every type of layer is compiled for it.
/// \throws kfac::FileError for a layer that the library does not have
kfac::DynamicSequential<double> make_network(const nlohmann::json& layers);
