#include "support/tuning_cases.hpp"

#include <kfac/core/schedules.hpp>
#include <kfac/curvature/ekfac_block.hpp>

#include "support/table.hpp"

namespace examples {

using kfac::FisherType;
using kfac::Index;
using Kfac = kfac::KfacOptions<float>;

namespace {

/// Damping is left as it is, and rho reported.
kfac::DampingAdaptation<float> only_watched() {
  return {.every = 1, .lower_above = 1e30F, .raise_below = -1e30F};
}

std::string with(const std::string& name, float value) {
  return name + ' ' + significant(static_cast<double>(value), 3);
}

/// Learning rate 1, so that the KL clip decides how long a step is.
Kfac clipped(float damping, float kl_clip = 1e-3F) {
  return {.learning_rate = 1, .damping = damping, .kl_clip = kl_clip};
}

/// The optimizer of Martens and Grosse, with the library's defaults for the rest; steps that do not
/// make the loss smaller are shortened.
Kfac adaptive(float first_damping) {
  return {.adaptive_learning_rate = true,
          .adaptive_momentum = true,
          .damping = first_damping,
          .damping_adaptation = {.every = 5},
          .rejection = {.enabled = true, .shrinks = 5}};
}

/// With a Monte-Carlo Fisher and the periods that are given.
Kfac cheaper(Kfac options, Index factor_every, Index inverse_every) {
  options.fisher = FisherType::MonteCarlo;
  options.factor_every = factor_every;
  options.inverse_every = inverse_every;
  return options;
}

TuningCase tries() {
  TuningCase result{.name = "tries",
                    .title = "Three tries from nothing, batches of 1000",
                    .losses_after = {10, 25, 50, 100},
                    .columns = {held_out_accuracy(), median("learning rate", learning_rate),
                                median("kl_scale", kl_scale), median("rho", rho), shortened_steps(),
                                first("damping from", damping), last("to", damping),
                                milliseconds("ms"), times_gradient()}};
  const auto add = [&](const std::string& name, const AnyOptions& options,
                       bool best_of_its_name = false, bool calibrates = false) {
    result.runs.push_back({.name = name,
                           .options = options,
                           .batch_size = 1000,
                           .calibrates = calibrates,
                           .best_of_its_name = best_of_its_name});
  };
  for (const float rate : {0.02F, 0.05F, 0.1F, 0.2F, 0.3F, 0.5F})
    add("SGD, best of 6", kfac::SgdOptions<float>{.learning_rate = rate, .momentum = 0.9F}, true);
  for (const float rate : {1e-3F, 2e-3F, 5e-3F, 1e-2F, 2e-2F, 4e-2F})
    add("Adam, best of 6", kfac::AdamOptions<float>{.learning_rate = rate}, true);
  add("1. adaptive, damping 1", adaptive(1));
  add("1. adaptive, calibrated", adaptive(1), false, true);
  for (const float value : {0.1F, 0.01F, 0.001F})
    add(with("2. adaptive, damping", value), adaptive(value));
  Kfac trusting = adaptive(1e-3F);
  trusting.rejection = {};
  add("2. without rejection, damping 0.001", trusting);
  for (const float value : {1.0F, 0.1F, 0.01F, 1e-3F, 1e-4F, 1e-5F})
    add(with("2. fixed, damping", value), clipped(value));
  add("3. adaptive 0.01, MonteCarlo, 1, 10", cheaper(adaptive(1e-2F), 1, 10));
  add("3. adaptive 0.01, MonteCarlo, 5, 10", cheaper(adaptive(1e-2F), 5, 10));
  add("3. fixed 0.001, MonteCarlo, 1, 10", cheaper(clipped(1e-3F), 1, 10));
  add("3. fixed 0.001, MonteCarlo, 5, 25", cheaper(clipped(1e-3F), 5, 25));
  return result;
}

TuningCase dampings() {
  TuningCase result{.name = "damping",
                    .title = "Damping too small and too large, without momentum",
                    .losses_after = {5, 20, 50},
                    .columns = {smallest("least kl_scale", kl_scale), median("kl_scale", kl_scale),
                                smallest("least rho", rho), median("rho", rho),
                                largest("longest step", step_norm),
                                median("like gradient", share_of_gradient_descent)}};
  const auto add = [&](const std::string& name, float learning_rate, float kl_clip, float value) {
    result.runs.push_back({.name = with(name + ", damping", value),
                           .options = Kfac{.learning_rate = learning_rate,
                                           .momentum = 0,
                                           .damping = value,
                                           .damping_adaptation = only_watched(),
                                           .kl_clip = kl_clip},
                           .steps = 50,
                           .tolerated_failures = 50});
  };
  for (const float value : {1e-6F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F, 10.0F})
    add("kl_clip 0.01", 1, 1e-2F, value);
  for (const float value : {1e-3F, 1e-2F, 1e-1F, 1.0F})
    add("no clip, learning rate 0.1", 0.1F, 0, value);
  return result;
}

TuningCase not_finite() {
  const Kfac wild{.learning_rate = 30, .damping = 1e-3F, .kl_clip = 0};
  Kfac bounded = wild;
  bounded.kl_clip = 1e-3F;
  Kfac rejecting = wild;
  rejecting.rejection = {.enabled = true, .shrinks = 10};
  Kfac smaller = wild;
  smaller.learning_rate = 0.03F;
  smaller.damping = 0.1F;
  const Kfac singular{.learning_rate = 0.3F, .damping = 1e-12F, .kl_clip = 1e-2F};
  Kfac adapted = singular;
  adapted.damping_adaptation = {.every = 1, .factor = 0.5F};
  Kfac fresh = adapted;
  fresh.inverse_every = 1;
  Kfac forgetful = fresh;
  forgetful.momentum = 0;
  Kfac regular = singular;
  regular.damping = 1e-2F;
  return {.name = "not-finite",
          .title = "What is not finite, and cures",
          .runs = {{.name = "learning rate 30, no clip", .options = wild},
                   {.name = "with kl_clip 0.001", .options = bounded},
                   {.name = "with rejection", .options = rejecting},
                   {.name = "learning rate 0.03, damping 0.1", .options = smaller},
                   {.name = "damping 1e-12", .options = singular, .tolerated_failures = 100},
                   {.name = "the same, adapted", .options = adapted, .tolerated_failures = 100},
                   {.name = "and inverse_every 1", .options = fresh, .tolerated_failures = 100},
                   {.name = "and momentum 0", .options = forgetful, .tolerated_failures = 100},
                   {.name = "damping 0.01", .options = regular}},
          .losses_after = {10, 100},
          .columns = {step_count(), failed_steps(), rejected_steps(),
                      largest("longest step", step_norm), last("damping", damping), status()}};
}

TuningCase hidden_learning_rate() {
  TuningCase result{.name = "kl-clip",
                    .title = "A learning rate that the KL clip hides",
                    .losses_after = {10, 25, 100},
                    .columns = {median("kl_scale", kl_scale), median("step", step_norm), status()}};
  const auto add = [&](const std::string& name, const Kfac& options) {
    result.runs.push_back({.name = name, .options = options});
  };
  for (const float clip : {1e-3F, 0.0F})
    for (const float rate : {0.003F, 0.03F, 0.3F, 3.0F})
      add(with("kl_clip", clip) + with(", learning rate", rate),
          {.learning_rate = rate, .damping = 1e-2F, .kl_clip = clip});
  for (const float clip : {1e-5F, 1e-4F, 1e-2F, 1e-1F})
    add(with("kl_clip", clip) + ", learning rate 1", clipped(1e-2F, clip));
  return result;
}

TuningCase scales() {
  constexpr Index kBatch = 256;
  constexpr float kFactor = kBatch;
  Kfac mean = clipped(1e-2F);
  mean.weight_decay = 1e-4F;
  Kfac rescaled = clipped(1e-2F * kFactor, 1e-3F * kFactor);
  rescaled.weight_decay = 1e-4F * kFactor;
  return {.name = "scale",
          .title = "Mean and sum over batches of 256",
          .runs = {{.name = "mean", .options = mean, .batch_size = kBatch},
                   {.name = "sum, the same options",
                    .options = mean,
                    .batch_size = kBatch,
                    .reduction = kfac::Reduction::Sum},
                   {.name = "sum; damping, kl_clip, weight_decay x 256",
                    .options = rescaled,
                    .batch_size = kBatch,
                    .reduction = kfac::Reduction::Sum}},
          .losses_after = {10, 50, 100},
          .columns = {median("kl_scale", kl_scale), median("step", step_norm)},
          .data = [](const TuningData& data) { return data.first(39 * kBatch); }};
}

TuningCase start() {
  TuningCase result{
      .name = "start",
      .title = "The first steps, Monte-Carlo Fisher",
      .losses_after = {5, 20, 50, 100},
      .columns = {largest("longest step", step_norm), median("step", step_norm), status()}};
  const auto add = [&](const std::string& name, Index batch_size, Kfac options, auto change) {
    options.fisher = FisherType::MonteCarlo;
    change(options);
    result.runs.push_back({.name = name, .options = options, .batch_size = batch_size});
  };
  const Kfac unclipped{.learning_rate = 0.03F, .damping = 1e-2F, .kl_clip = 0};
  add("500, no clip", 500, unclipped, [](Kfac&) {});
  add("500, burn_in 10", 500, unclipped, [](Kfac& options) { options.burn_in = 10; });
  add("500, inverse_every 1", 500, unclipped, [](Kfac& options) { options.inverse_every = 1; });
  add("500, inverse_every 1, from step 20: 10", 500, unclipped, [](Kfac& options) {
    options.inverse_every = kfac::schedules::piecewise(1, {{20, 10}});
  });
  add("500, momentum 0, from step 20: 0.9", 500, unclipped, [](Kfac& options) {
    options.momentum = kfac::schedules::piecewise(0.0F, {{20, 0.9F}});
  });
  add("500, warm-up of 20 steps", 500, unclipped,
      [](Kfac& options) { options.learning_rate = kfac::schedules::linear_warmup(20, 0.03F); });
  add("500, kl_clip 0.001", 500, unclipped, [](Kfac& options) { options.kl_clip = 1e-3F; });
  for (const float decay : {0.0F, 0.5F, 0.9F, 0.95F, 0.99F})
    add(with("50, kl_clip 0.0001, factor_decay", decay), 50, clipped(1e-2F, 1e-4F),
        [&](Kfac& options) { options.factor_decay = decay; });
  add("50, kl_clip 0.0001, burn_in 20", 50, clipped(1e-2F, 1e-4F),
      [](Kfac& options) { options.burn_in = 20; });
  return result;
}

TuningCase seconds() {
  TuningCase result{
      .name = "seconds",
      .title = "Where the time goes: milliseconds a step",
      .losses_after = {50, 100},
      .columns = {milliseconds("all"), times_gradient(), milliseconds_of_gradient(),
                  milliseconds_of_factors(), milliseconds_of_inverses(), long_inverses()}};
  result.runs.push_back(
      {.name = "SGD", .options = kfac::SgdOptions<float>{.learning_rate = 0.1F, .momentum = 0.9F}});
  const auto add = [&](const std::string& name, FisherType fisher, Index factor_every,
                       Index inverse_every, auto change,
                       const kfac::BlockFactory<float>& blocks = {}) {
    Kfac options = clipped(1e-3F);
    options.fisher = fisher;
    options.factor_every = factor_every;
    options.inverse_every = inverse_every;
    change(options);
    result.runs.push_back({.name = name, .options = options, .blocks = blocks});
  };
  const auto nothing = [](Kfac&) {};
  add("Type2, factors 1, inverses 1", FisherType::Type2, 1, 1, nothing);
  add("Type2, 1, 10", FisherType::Type2, 1, 10, nothing);
  add("Type2, 5, 10", FisherType::Type2, 5, 10, nothing);
  add("Type2, 10, 100", FisherType::Type2, 10, 100, nothing);
  add("MonteCarlo, 1, 1", FisherType::MonteCarlo, 1, 1, nothing);
  add("MonteCarlo, 1, 10", FisherType::MonteCarlo, 1, 10, nothing);
  add("factor_fraction 1/4", FisherType::MonteCarlo, 1, 10,
      [](Kfac& options) { options.factor_fraction = 0.25F; });
  add("stagger_inverses", FisherType::MonteCarlo, 1, 10,
      [](Kfac& options) { options.stagger_inverses = true; });
  add("threads 2", FisherType::MonteCarlo, 1, 10, [](Kfac& options) { options.threads = 2; });
  add("threads 2, asynchronous_inverses", FisherType::MonteCarlo, 1, 10, [](Kfac& options) {
    options.threads = 2;
    options.asynchronous_inverses = true;
  });
  add("MonteCarlo, 5, 25", FisherType::MonteCarlo, 5, 25, nothing);
  const auto ekfac = kfac::block_factory<kfac::EkfacBlock<float>>();
  const auto damped = [](Kfac& options) { options.damping = 1e-2F; };
  add("EKFAC, 1, 10", FisherType::MonteCarlo, 1, 10, nothing, ekfac);
  add("EKFAC, 1, 10, damping 0.01", FisherType::MonteCarlo, 1, 10, damped, ekfac);
  add("EKFAC, 5, 50, damping 0.01", FisherType::MonteCarlo, 5, 50, damped, ekfac);
  add(
      "EKFAC, 5, 50, moments_every 5", FisherType::MonteCarlo, 5, 50,
      [&](Kfac& options) {
        damped(options);
        options.moments_every = 5;
      },
      ekfac);
  return result;
}

TuningCase outputs() {
  TuningCase result{.name = "outputs",
                    .title = "100 outputs: which Fisher",
                    .losses_after = {10, 25, 50},
                    .columns = {held_out_accuracy(), milliseconds("ms"), times_gradient(),
                                milliseconds_of_factors()},
                    .data = &TuningData::with_brightness};
  const auto add = [&](const std::string& name, FisherType fisher, Index samples = 1,
                       Index factor_every = 1) {
    Kfac options = clipped(1e-3F);
    options.factor_every = factor_every;
    options.fisher = fisher;
    options.samples = samples;
    result.runs.push_back({.name = name, .options = options, .steps = 50});
  };
  add("Type2", FisherType::Type2);
  add("Type2, every 10 steps", FisherType::Type2, 1, 10);
  add("MonteCarlo", FisherType::MonteCarlo);
  add("MonteCarlo, 5 samples", FisherType::MonteCarlo, 5);
  add("Empirical", FisherType::Empirical);
  add("ForwardOnly", FisherType::ForwardOnly);
  return result;
}

TuningCase generalisation() {
  TuningCase result{
      .name = "generalisation",
      .title = "2000 images to train on: weight decay, damping, early stopping",
      .losses_after = {20, 100},
      .columns = {step_count(), training_loss(), held_out_loss(), held_out_accuracy()},
      .data = [](const TuningData& data) { return data.first(2000); }};
  const auto add = [&](const std::string& name, const AnyOptions& options, Index patience = 0) {
    result.runs.push_back(
        {.name = name, .options = options, .batch_size = 200, .steps = 300, .patience = patience});
  };
  Kfac base = clipped(1e-2F);
  base.fisher = FisherType::MonteCarlo;
  add("nothing", base);
  for (const float decay : {1e-3F, 1e-2F, 3e-2F}) {
    Kfac options = base;
    options.weight_decay = decay;
    add(with("coupled weight decay", decay), options);
  }
  for (const float decay : {1e-3F, 1e-2F, 3e-2F}) {
    Kfac options = base;
    options.weight_decay = decay;
    options.decoupled_weight_decay = true;
    add(with("decoupled weight decay", decay), options);
  }
  for (const float value : {0.1F, 1.0F}) {
    Kfac options = base;
    options.damping = value;
    add(with("damping", value), options);
  }
  add("early stopping", base, 2);
  for (const float rate : {0.05F, 0.1F, 0.2F})
    add(with("SGD, learning rate", rate),
        kfac::SgdOptions<float>{.learning_rate = rate, .momentum = 0.9F});
  return result;
}

TuningCase small_batches() {
  TuningCase result{.name = "small-batches",
                    .title = "Batches of 32: what adapts, and what does not",
                    .losses_after = {20, 100, 300},
                    .columns = {median("learning rate", learning_rate), median("rho", rho),
                                last("damping", damping), median("kl_scale", kl_scale),
                                largest("longest step", step_norm)}};
  const auto add = [&](const std::string& name, Kfac options, Index batch_size = 32) {
    options.fisher = FisherType::MonteCarlo;
    result.runs.push_back(
        {.name = name, .options = options, .batch_size = batch_size, .steps = 300});
  };
  add("adaptive, batches of 1000", adaptive(1), 1000);
  add("adaptive", adaptive(1));
  Kfac trusting = adaptive(1);
  trusting.rejection = {};
  add("adaptive, without rejection", trusting);
  for (const float least : {0.1F, 1.0F}) {
    Kfac options = adaptive(1);
    options.damping_adaptation.min = least;
    add(with("adaptive, damping at least", least), options);
  }
  Kfac only_damping = clipped(1, 1e-4F);
  only_damping.damping_adaptation = {.every = 5};
  add("kl_clip 1e-4, damping adapted", only_damping);
  for (const float clip : {1e-2F, 1e-3F, 1e-4F})
    add(with("damping 0.01, kl_clip", clip), clipped(1e-2F, clip));
  Kfac scheduled = clipped(1e-2F, 1e-3F);
  scheduled.learning_rate = kfac::schedules::cosine(1.0F, 0.01F, 300);
  add("kl_clip 1e-3, learning rate 1 to 0.01", scheduled);
  scheduled = clipped(1e-2F);
  scheduled.kl_clip = kfac::schedules::exponential(1e-3F, 1e-3F, 300);
  add("kl_clip 1e-3 to 1e-6", scheduled);
  return result;
}

TuningCase layers() {
  const auto named = kfac::layers_named({"2"});
  TuningCase result{
      .name = "layers",
      .title = "A layer without curvature",
      .losses_after = {10, 50, 100},
      .columns = {median("step of 0", step_norm_of_layer(0)),
                  median("step of 2", step_norm_of_layer(2)),
                  median("step of 4", step_norm_of_layer(4)), median("kl_scale", kl_scale)},
      .summary_of = "2 plain"};
  const auto add = [&](const std::string& name, Kfac options,
                       const std::vector<kfac::LayerGroup<float>>& groups) {
    options.fisher = FisherType::MonteCarlo;
    options.groups = groups;
    result.runs.push_back({.name = name, .options = options});
  };
  const Kfac unclipped{.learning_rate = 0.03F, .damping = 0.1F, .kl_clip = 0};
  add("all with curvature", unclipped, {});
  add("2 plain", unclipped, {{.contains = named, .precondition = false}});
  for (const float scale : {3.0F, 30.0F})
    add(with("2 plain, learning rate x", scale), unclipped,
        {{.contains = named, .precondition = false, .learning_rate_scale = scale}});
  const Kfac small = clipped(1e-3F);
  add("kl_clip, all with curvature", small, {});
  add("kl_clip, 2 plain", small, {{.contains = named, .precondition = false}});
  for (const float scale : {10.0F, 100.0F})
    add(with("kl_clip, 2 with damping x", scale), small,
        {{.contains = named, .damping_scale = scale}});
  add("kl_clip, 2 frozen", small, {{.contains = named, .learning_rate_scale = 0}});
  return result;
}

}  // namespace

std::vector<TuningCase> tuning_cases() {
  return {tries(),   dampings(), not_finite(),     hidden_learning_rate(), scales(), start(),
          seconds(), outputs(),  generalisation(), small_batches(),        layers()};
}

}  // namespace examples
