/// SGD with Nesterov's momentum, Adam and K-FAC train a deep autoencoder on Fashion-MNIST, from the
/// same initial weights.

#include <exception>
#include <iostream>
#include <string>

#include "support/autoencoder_study.hpp"

namespace {

using examples::AutoencoderStudy;

/// Batches of 512, and 75 seconds of training.
AutoencoderStudy w3() {
  AutoencoderStudy study;
  study.batch_size = 512;
  study.damping = 0.1F;
  study.steps = 100000;
  study.first_order_steps = 0;
  study.seconds = 75;
  study.evaluate_every = 25;
  study.report_steps = {10, 25, 50, 100, 200, 400, 600};
  return study;
}

}  // namespace

int main(int argc, char** argv) {
  std::string preset = examples::peek(argc, argv, "--preset").value_or("large-batch");
  std::string folder = "/usr/share/datasets/fashion-mnist";
  AutoencoderStudy study = preset == "w3" ? w3() : AutoencoderStudy{};

  examples::Flags flags(
      "SGD with Nesterov's momentum, Adam and K-FAC train a deep autoencoder on Fashion-MNIST, "
      "from the same initial weights. The loss is the sigmoid cross-entropy in nats an image, on "
      "training images.");
  flags.add("--preset", preset, "which decides the defaults below", {"large-batch", "w3"});
  flags.add("--data", folder, "folder with the four files of the data set");
  study.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    const auto runs = study.run(folder);
    std::cout << "Training loss in nats an image\n";
    study.print_losses(std::cout, runs);
    std::cout << "\nUpdates and seconds to a loss\n";
    study.print_targets(std::cout, runs);
    if (!study.csv.empty()) examples::write_csv(study.csv, runs);
    if (!study.plot.empty()) examples::draw(study.plot, examples::loss_panels(runs), 2);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
