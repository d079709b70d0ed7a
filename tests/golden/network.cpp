#include "network.hpp"

#include <nlohmann/json.hpp>

#include <kfac/io/architecture.hpp>

kfac::DynamicSequential<double> make_network(const nlohmann::json& layers) {
  kfac::Rng rng(0);
  return kfac::io::make_network<double>(layers, rng);
}
