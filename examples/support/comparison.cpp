#include "support/comparison.hpp"

#include "support/table.hpp"

namespace examples {

void Comparison::add_flags(Flags& flags) {
  const auto rate = [](float value) { return significant(static_cast<double>(value), 3); };
  flags.add("--optimizer", optimizer, "what to train with", {"all", "sgd", "adam", "kfac"});
  flags.add("--learning-rate", learning_rate,
            "of the optimizers that run, instead of the best of each: SGD " +
                rate(sgd.learning_rate) + ", Adam " + rate(adam.learning_rate) + ", K-FAC " +
                rate(kfac.learning_rate));
  flags.add("--damping", kfac.damping, "K-FAC: added to the curvature before it is inverted");
  flags.add("--momentum", kfac.momentum, "K-FAC: share of the step before in each step");
  flags.add("--kl-clip", kfac.kl_clip,
            "K-FAC: bound on the change of the model by one step; 0: none");
  flags.add("--fisher", fisher, "K-FAC: whose gradients make the curvature",
            {"type2", "monte-carlo", "empirical"});
  flags.add("--factor-every", kfac.factor_every, "K-FAC: steps between updates of the factors");
  flags.add("--inverse-every", kfac.inverse_every, "K-FAC: steps between inverses");
  flags.add("--batch-size", batch_size, "examples in a step");
  flags.add("--epochs", epochs, "passes over the training data");
  flags.add("--evaluate-every", evaluate_every, "steps between evaluations");
  flags.add("--seed", seed, "of the data, the initial weights and the order of the batches");
  flags.add("--csv", csv, "file to write every evaluation to");
  flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
}

kfac::SgdOptions<float> Comparison::sgd_options() const {
  kfac::SgdOptions<float> options = sgd;
  options.learning_rate = learning_rate.value_or(options.learning_rate);
  return options;
}

kfac::AdamOptions<float> Comparison::adam_options() const {
  kfac::AdamOptions<float> options = adam;
  options.learning_rate = learning_rate.value_or(options.learning_rate);
  return options;
}

kfac::KfacOptions<float> Comparison::kfac_options() const {
  kfac::KfacOptions<float> options = kfac;
  options.learning_rate = learning_rate.value_or(options.learning_rate);
  options.fisher = fisher == "type2"         ? kfac::FisherType::Type2
                   : fisher == "monte-carlo" ? kfac::FisherType::MonteCarlo
                                             : kfac::FisherType::Empirical;
  options.seed = seed;
  return options;
}

}  // namespace examples
