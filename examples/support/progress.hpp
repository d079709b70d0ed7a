#pragma once

#include <memory>

#include <kfac/core/types.hpp>

namespace examples {

/// A progress bar on the standard error stream, drawn only if that is a terminal.
class Progress {
 public:
  explicit Progress(kfac::Index steps);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  void advance(kfac::Index steps = 1);

 private:
  struct Bar;
  std::unique_ptr<Bar> bar_;
};

}  // namespace examples
