#include "workloads/workload.hpp"

namespace benchmarks {

const std::vector<std::string>& workload_names() {
  static const std::vector<std::string> kNames{"W1", "W2", "W3", "W4"};
  return kNames;
}

std::unique_ptr<Workload> make_workload(const std::string& name) {
  if (name == "W1") return small_mlp();
  if (name == "W2") return large_mlp();
  if (name == "W3") return autoencoder();
  return convolutional();
}

}  // namespace benchmarks
