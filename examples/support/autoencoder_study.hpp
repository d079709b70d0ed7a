#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "support/autoencoder_network.hpp"
#include "support/flags.hpp"
#include "support/history.hpp"

namespace examples {

/// How the optimizers are compared on the autoencoder. The fields hold the defaults until the flags
/// are parsed.
struct AutoencoderStudy {
  std::string optimizer = "all";  ///< or "sgd", "adam" or "kfac"
  std::string initialization = "glorot";
  std::string inputs = "pixels";  ///< or "standardised"
  float sgd_learning_rate = 2e-3F;
  float sgd_momentum = 0.97F;  ///< Nesterov's
  float adam_learning_rate = 1e-3F;
  // The rest is K-FAC's.
  float learning_rate = 1;
  float momentum = 0.9F;
  std::string adaptive = "yes";  ///< or "no"; with "yes" the damping is only the first
  float damping = 0.3F;
  float kl_clip = 1;
  float factor_decay = 0.95F;
  kfac::Index factor_every = 2;
  kfac::Index inverse_every = 5;
  /// Or "curvature-propagation" or "empirical". (All vectors of the 784 outputs take too long.)
  std::string fisher = "monte-carlo";

  kfac::Index batch_size = 1000;
  kfac::Index first_order_batch_size = 0;  ///< of SGD and Adam; 0: the same
  kfac::Index steps = 150;
  kfac::Index first_order_steps = 2200;  ///< of SGD and Adam; 0: the same
  float seconds = 0;                     ///< of training, of each optimizer; 0: as the steps take
  std::optional<float> until = {};       ///< the loss at which an optimizer is done
  kfac::Index evaluate_every = 10;
  kfac::Index evaluation_examples = 10000;
  /// Steps after which there is an evaluation too, for the table of losses.
  std::vector<double> report_steps = {10, 25, 50, 100, 150, 500, 1000, 2000};
  /// Losses for the table of what it took to reach them.
  std::vector<double> targets = {300, 280, 260, 240, 230, 225, 220, 217.5, 215, 212.5, 210};
  std::uint64_t seed = 0;

  std::string csv = {};   ///< file to write every record to; empty for none
  std::string plot = {};  ///< file to draw; empty for none

  void add_flags(Flags& flags);

  /// Trains copies of one network with each chosen optimizer, on batches of the same order.
  /// \throws kfac::FileError if a file of the data set is missing from `folder` or is not intact
  std::vector<History> run(const std::string& folder) const;

  /// The loss after each of the reported steps.
  void print_losses(std::ostream& out, const std::vector<History>& runs) const;
  /// Updates and seconds to each of the targets, as of the first evaluation that was no larger.
  void print_targets(std::ostream& out, const std::vector<History>& runs) const;
};

/// Loss against updates and against seconds.
std::vector<Panel> loss_panels(const std::vector<History>& runs);

}  // namespace examples
