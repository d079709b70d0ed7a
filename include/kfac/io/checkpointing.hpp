#pragma once

#include <deque>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <kfac/core/errors.hpp>
#include <kfac/optim/callbacks.hpp>

namespace kfac::io {

struct CheckpointingOptions {
  Index every = 0;            ///< steps between checkpoints; >= 0, 0: not by steps
  bool at_epoch_end = false;  ///< one after each epoch too
  bool at_end = true;         ///< one when training ends, for whatever reason
  /// How many of its checkpoints are kept; >= 0. With 1 there is one file, which is replaced; else
  /// the step's number goes into each file's name ("run-400.safetensors"), and the oldest is
  /// removed once there are more. 0: all are kept.
  Index keep_last = 1;

  void validate() const {
    static constexpr const char* kWhere = "kfac::io::Checkpointing";
    kfac::detail::check_option(every >= 0, kWhere, "every", every, ">= 0");
    kfac::detail::check_option(keep_last >= 0, kWhere, "keep_last", keep_last, ">= 0");
  }
};

/// A callback for `fit` that calls `save(path)` every so many steps. What a checkpoint is made of
/// is that function's to say, and that it is written whole or not at all.
///
///     kfac::io::Checkpointing checkpoints("run.safetensors", {.every = 100},
///                                         [&](const std::filesystem::path& path) {
///       kfac::io::save_checkpoint(path, model, optimizer, stream);
///     });
///     kfac::fit(optimizer, stream, {.epochs = 5}, checkpoints);
///
/// It goes last among the callbacks where theirs are saved too. No step is saved twice.
template <class Save>
class Checkpointing {
 public:
  /// \throws OptionError
  Checkpointing(std::filesystem::path path, CheckpointingOptions options, Save save)
      : path_(std::move(path)), options_((options.validate(), options)), save_(std::move(save)) {}

  /// \throws what `save` throws, the earlier checkpoints being as they were
  template <RealScalar S>
  void operator()(const TrainingEvent<S>& event) {
    step_ = event.step;
    if ((options_.every > 0 && event.step % options_.every == 0) ||
        (options_.at_epoch_end && event.epoch_ended))
      save();
  }
  void finish() {
    if (options_.at_end && step_ != saved_step_) save();
  }

  /// The step that was saved last; 0 before the first.
  Index saved_step() const { return saved_step_; }
  /// Where; empty before the first.
  const std::filesystem::path& saved_path() const { return saved_path_; }

 private:
  void save() {
    const std::filesystem::path path = path_of(step_);
    save_(path);
    saved_step_ = step_;
    saved_path_ = path;
    if (options_.keep_last <= 1) return;
    kept_.push_back(path);
    while (static_cast<Index>(kept_.size()) > options_.keep_last) {
      std::error_code ignored;  // someone else may have removed it
      std::filesystem::remove(kept_.front(), ignored);
      kept_.pop_front();
    }
  }

  std::filesystem::path path_of(Index step) const {
    if (options_.keep_last == 1) return path_;
    std::filesystem::path name = path_.stem();
    name += '-' + std::to_string(step);
    name += path_.extension();
    return path_.parent_path() / name;
  }

  std::filesystem::path path_;
  CheckpointingOptions options_;
  Save save_;
  Index step_ = 0;
  Index saved_step_ = 0;
  std::filesystem::path saved_path_;
  std::deque<std::filesystem::path> kept_;
};

}  // namespace kfac::io
