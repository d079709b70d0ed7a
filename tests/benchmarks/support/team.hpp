#pragma once

#include <optional>

#include <kfac/core/parallel.hpp>

namespace benchmarks {

/// As many threads for what is called on this one while it is alive, this one among them.
class Team {
 public:
  explicit Team(kfac::Index threads) {
    if (threads > 1) pool_.emplace(threads - 1);
    scope_.emplace(pool_ ? &*pool_ : nullptr);
  }

 private:
  std::optional<kfac::ThreadPool> pool_;
  std::optional<kfac::ParallelScope> scope_;
};

}  // namespace benchmarks
