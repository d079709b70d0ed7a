#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <kfac/io/checkpointing.hpp>
#include <kfac/optim/fit.hpp>

#include "io/files.hpp"
#include "optim/scripted_training.hpp"
#include "support/catch.hpp"

namespace kfac::test::checkpointing_test {

namespace {

using io::Checkpointing;
using io::CheckpointingOptions;
using Path = std::filesystem::path;

std::set<std::string> files_in(const Path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

/// Trains for so many steps, in epochs of three, and returns the steps after which `save` was
/// called. The files hold the number of the step.
std::vector<Index> saved_steps(const Path& path, const CheckpointingOptions& options, Index steps,
                               std::vector<double> losses = {1.0}) {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer(std::move(losses));
  std::vector<Index> saved;
  Checkpointing checkpoints(path, options, [&](const Path& to) {
    saved.push_back(stream.steps());
    std::ofstream(to) << stream.steps();
  });
  fit(optimizer, stream, {.steps = steps}, checkpoints);
  CHECK(checkpoints.saved_step() == (saved.empty() ? 0 : saved.back()));
  CHECK(checkpoints.saved_path().empty() == saved.empty());
  if (!saved.empty()) CHECK(read_bytes(checkpoints.saved_path()) == std::to_string(saved.back()));
  return saved;
}

}  // namespace

TEST_CASE("Checkpointing: saves every so many steps, at the ends of epochs, and at the end",
          "[io]") {
  const TemporaryFolder folder;
  const Path path = folder / "run.safetensors";
  using Steps = std::vector<Index>;
  CHECK(saved_steps(path, {}, 7) == Steps{7});
  CHECK(saved_steps(path, {.every = 3}, 7) == Steps{3, 6, 7});
  CHECK(saved_steps(path, {.every = 3}, 6) == Steps{3, 6});  // the last one once
  CHECK(saved_steps(path, {.every = 3, .at_end = false}, 7) == Steps{3, 6});
  CHECK(saved_steps(path, {.at_epoch_end = true}, 7) == Steps{3, 6, 7});
  CHECK(saved_steps(path, {.every = 2, .at_epoch_end = true}, 6) == Steps{2, 3, 4, 6});
  CHECK(saved_steps(path, {.at_end = false}, 7).empty());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(saved_steps(path, {.every = 3}, 7, {1, 1, 1, 1, nan}) == Steps{3, 5});
  CHECK(files_in(folder.path()) == std::set<std::string>{"run.safetensors"});
}

TEST_CASE("Checkpointing: without a step there is nothing to save", "[io]") {
  int saved = 0;
  Checkpointing checkpoints("none", {}, [&](const Path&) { ++saved; });
  checkpoints.finish();
  CHECK(saved == 0);
}

TEST_CASE("Checkpointing: keep_last numbers the files and removes the oldest", "[io]") {
  const TemporaryFolder folder;
  using Names = std::set<std::string>;
  SECTION("some") {
    saved_steps(folder / "run.safetensors", {.every = 2, .keep_last = 3}, 11);
    CHECK(files_in(folder.path()) ==
          Names{"run-8.safetensors", "run-10.safetensors", "run-11.safetensors"});
  }
  SECTION("all") {
    saved_steps(folder / "run", {.every = 2, .keep_last = 0}, 5);
    CHECK(files_in(folder.path()) == Names{"run-2", "run-4", "run-5"});
  }
}

TEST_CASE("Checkpointing: when saving fails, the earlier checkpoints stay", "[io][error]") {
  const TemporaryFolder folder;
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer;
  Checkpointing checkpoints(folder / "run.safetensors", {.every = 1, .keep_last = 2},
                            [&](const Path& to) {
                              if (stream.steps() == 3) throw std::runtime_error("disk full");
                              std::ofstream(to) << stream.steps();
                            });
  CHECK_THROWS_WITH(fit(optimizer, stream, {.steps = 5}, checkpoints), "disk full");
  CHECK(files_in(folder.path()) == std::set<std::string>{"run-1.safetensors", "run-2.safetensors"});
  CHECK(checkpoints.saved_step() == 2);
}

TEST_CASE("Checkpointing: options out of range are named", "[io][error]") {
  const auto with = [](const CheckpointingOptions& options) {
    Checkpointing("run", options, [](const Path&) {});
  };
  CHECK_THROWS_WITH(with({.every = -1}), "kfac::io::Checkpointing: 'every' is -1, expected >= 0");
  CHECK_THROWS_WITH(with({.keep_last = -1}),
                    "kfac::io::Checkpointing: 'keep_last' is -1, expected >= 0");
  CHECK_THROWS_AS(with({.every = -1}), OptionError);
}

}  // namespace kfac::test::checkpointing_test
