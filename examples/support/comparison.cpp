#include "support/comparison.hpp"

#include "support/table.hpp"

namespace examples {

void Comparison::add_flags(Flags& flags) {
  const auto rate = [](const auto& options) {
    return significant(static_cast<double>(options.learning_rate(0)), 3);
  };
  kfac_numbers = {kfac.damping(0), kfac.momentum(0), kfac.kl_clip(0), kfac.factor_every(0),
                  kfac.inverse_every(0)};
  flags.add("--optimizer", optimizer, "what to train with", {"all", "sgd", "adam", "kfac"});
  flags.add("--learning-rate", learning_rate,
            "of the optimizers that run, instead of the best of each: SGD " + rate(sgd) +
                ", Adam " + rate(adam) + ", K-FAC " + rate(kfac));
  flags.add("--damping", kfac_numbers->damping,
            "K-FAC: added to the curvature before it is inverted");
  flags.add("--momentum", kfac_numbers->momentum, "K-FAC: share of the step before in each step");
  flags.add("--kl-clip", kfac_numbers->kl_clip,
            "K-FAC: bound on the change of the model by one step; 0: none");
  flags.add("--fisher", fisher, "K-FAC: whose gradients make the curvature",
            {"type2", "monte-carlo", "empirical"});
  flags.add("--factor-every", kfac_numbers->factor_every,
            "K-FAC: steps between updates of the factors");
  flags.add("--inverse-every", kfac_numbers->inverse_every, "K-FAC: steps between inverses");
  flags.add("--batch-size", batch_size, "examples in a step");
  flags.add("--epochs", epochs, "passes over the training data");
  flags.add("--evaluate-every", evaluate_every, "steps between evaluations");
  flags.add("--seed", seed, "of the data, the initial weights and the order of the batches");
  flags.add("--csv", csv, "file to write every evaluation to");
  flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
}

namespace {

/// Gives the option the value of its flag, unless the flag is as the option was.
template <class T>
void take(kfac::Schedule<T>& option, T flag) {
  if (flag != option(0)) option = flag;
}

}  // namespace

kfac::SgdOptions<float> Comparison::sgd_options() const {
  kfac::SgdOptions<float> options = sgd;
  if (learning_rate) options.learning_rate = *learning_rate;
  return options;
}

kfac::AdamOptions<float> Comparison::adam_options() const {
  kfac::AdamOptions<float> options = adam;
  if (learning_rate) options.learning_rate = *learning_rate;
  return options;
}

kfac::KfacOptions<float> Comparison::kfac_options() const {
  kfac::KfacOptions<float> options = kfac;
  if (learning_rate) options.learning_rate = *learning_rate;
  if (kfac_numbers) {
    take(options.damping, kfac_numbers->damping);
    take(options.momentum, kfac_numbers->momentum);
    take(options.kl_clip, kfac_numbers->kl_clip);
    take(options.factor_every, kfac_numbers->factor_every);
    take(options.inverse_every, kfac_numbers->inverse_every);
  }
  options.fisher = fisher == "type2"         ? kfac::FisherType::Type2
                   : fisher == "monte-carlo" ? kfac::FisherType::MonteCarlo
                                             : kfac::FisherType::Empirical;
  options.seed = seed;
  return options;
}

}  // namespace examples
