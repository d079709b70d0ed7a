#include <functional>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::kfac_options_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)};
}
using Model = decltype(network(std::declval<Rng&>()));

struct Data {
  std::vector<Matrix<double>> x, y;
  explicit Data(Rng& rng) {
    for (int i = 0; i < 12; ++i) {
      x.push_back(random_matrix(3, 6, rng));
      y.push_back(random_matrix(2, 6, rng));
    }
  }
};

Vector<double> trained(Model model, const Data& data, const KfacOptions<double>& options) {
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, options);
  for (std::size_t i = 0; i < data.x.size(); ++i) {
    REQUIRE(optimizer.step(data.x[i], data.y[i]).ok());
    SavedState{optimizer};  // which waits for inverses that threads are at
  }
  return parameters(model);
}

// Each option with what it needs to have an effect, and a switch.
struct Switch {
  const char* name;
  std::function<void(KfacOptions<double>&)> prepare, change;
};

void nothing(KfacOptions<double>&) {}
void adam(KfacOptions<double>& o) {
  o.momentum_type = MomentumType::Adam;
}
void adapted(KfacOptions<double>& o) {
  o.learning_rate = 0.3;
  o.momentum = 0;
  o.inverse_every = 1;
  o.damping_adaptation.every = 2;
  o.kl_clip = 0;
}
void searched(KfacOptions<double>& o) {
  o.adaptive_learning_rate = true;
  o.gamma_search = {.every = 2, .factor = 0.7};
}
void overshooting(KfacOptions<double>& o) {
  o.learning_rate = 4;
  o.kl_clip = 0;
  o.rejection.enabled = true;
}
void decaying(KfacOptions<double>& o) {
  o.weight_decay = 0.1;
}
void spectral(KfacOptions<double>& o) {
  o.inverse_every = 2;
  o.groups = {
      {.contains = layers_of_kind("Linear"), .blocks = block_factory<EkfacBlock<double>>()}};
}
void threaded(KfacOptions<double>& o) {
  o.inverse_every = 3;
  o.asynchronous_inverses = true;
  o.threads = 2;
}
void tracking(KfacOptions<double>& o) {
  spectral(o);
  o.decompose_every = 3;
  o.track_tolerance = 10;
}
void two_level(KfacOptions<double>& o) {
  o.inverse_every = 2;
  o.two_level.space = CoarseSpace::Spectral;
}
void grouped(KfacOptions<double>& o) {
  o.groups = {{.contains = layers_named({"0"})}};
}

const std::vector<Switch> kSwitches{
    {"learning_rate", nothing, [](auto& o) { o.learning_rate = 0.2; }},
    {"momentum", nothing, [](auto& o) { o.momentum = 0.5; }},
    {"momentum_type", nothing, [](auto& o) { o.momentum_type = MomentumType::Nesterov; }},
    {"second_moment_decay", adam, [](auto& o) { o.second_moment_decay = 0.9; }},
    {"epsilon", adam, [](auto& o) { o.epsilon = 1e-2; }},
    {"adaptive_learning_rate", nothing, [](auto& o) { o.adaptive_learning_rate = true; }},
    {"adaptive_momentum", nothing, [](auto& o) { o.adaptive_momentum = true; }},
    {"damping", nothing, [](auto& o) { o.damping = 0.1; }},
    {"pi", nothing, [](auto& o) { o.pi = FactorBalance::None; }},
    {"damping_adaptation.every", adapted, [](auto& o) { o.damping_adaptation.every = 0; }},
    {"damping_adaptation.factor", adapted, [](auto& o) { o.damping_adaptation.factor = 0.5; }},
    {"damping_adaptation.lower_above", adapted,
     [](auto& o) { o.damping_adaptation.lower_above = 100; }},
    {"damping_adaptation.raise_below",
     [](auto& o) {
       adapted(o);
       o.damping_adaptation.lower_above = 2;
     },
     [](auto& o) { o.damping_adaptation.raise_below = 1.5; }},
    {"damping_adaptation.min", adapted, [](auto& o) { o.damping_adaptation.min = 0.5; }},
    {"damping_adaptation.max", adapted, [](auto& o) { o.damping_adaptation.max = 1e-3; }},
    {"gamma_search.every", searched, [](auto& o) { o.gamma_search.every = 0; }},
    {"gamma_search.factor", searched, [](auto& o) { o.gamma_search.factor = 0.9; }},
    {"gamma_search.min", searched, [](auto& o) { o.gamma_search.min = 1; }},
    {"gamma_search.max", searched, [](auto& o) { o.gamma_search.max = 0.11; }},
    {"factor_every", nothing, [](auto& o) { o.factor_every = 3; }},
    {"inverse_every", nothing, [](auto& o) { o.inverse_every = 2; }},
    {"moments_every", spectral, [](auto& o) { o.moments_every = 3; }},
    {"factor_decay", nothing, [](auto& o) { o.factor_decay = 0.3; }},
    {"factor_fraction", nothing, [](auto& o) { o.factor_fraction = 0.5; }},
    {"decompose_every", tracking, [](auto& o) { o.decompose_every = 1; }},
    {"track_tolerance", tracking, [](auto& o) { o.track_tolerance = 0; }},
    {"stagger_inverses", nothing, [](auto& o) { o.stagger_inverses = true; }},
    {"asynchronous_inverses", threaded, [](auto& o) { o.asynchronous_inverses = false; }},
    {"deterministic", threaded, [](auto& o) { o.deterministic = false; }},
    {"burn_in", nothing, [](auto& o) { o.burn_in = 2; }},
    {"kl_clip", nothing, [](auto& o) { o.kl_clip = 1e-4; }},
    {"norm_constraint", nothing, [](auto& o) { o.norm_constraint = 1e-4; }},
    {"gradient_clip", nothing, [](auto& o) { o.gradient_clip = 1e-2; }},
    {"rejection.enabled", overshooting, [](auto& o) { o.rejection.enabled = false; }},
    {"rejection.shrinks", overshooting, [](auto& o) { o.rejection.shrinks = 3; }},
    {"rejection.shrink",
     [](auto& o) {
       overshooting(o);
       o.rejection.shrinks = 3;
     },
     [](auto& o) { o.rejection.shrink = 0.2; }},
    {"rejection.damping_factor",
     [](auto& o) {
       overshooting(o);
       o.damping_adaptation.every = 5;
     },
     [](auto& o) { o.rejection.damping_factor = 4; }},
    {"weight_decay", nothing, [](auto& o) { o.weight_decay = 0.1; }},
    {"decoupled_weight_decay", decaying, [](auto& o) { o.decoupled_weight_decay = true; }},
    {"decays", decaying,
     [](auto& o) { o.decays = [](const auto&, const auto& p) { return p.columns > 1; }; }},
    {"fisher", nothing, [](auto& o) { o.fisher = FisherType::Type2; }},
    {"samples", nothing, [](auto& o) { o.samples = 3; }},
    {"seed", nothing, [](auto& o) { o.seed = 7; }},
    {"two_level.space", two_level, [](auto& o) { o.two_level.space = CoarseSpace::None; }},
    {"two_level.form", two_level, [](auto& o) { o.two_level.form = CoarseForm::Deflated; }},
    {"two_level.vectors", two_level, [](auto& o) { o.two_level.vectors = 2; }},
    {"two_level.iterations", two_level, [](auto& o) { o.two_level.iterations = 5; }},
    {"two_level.decay",
     [](auto& o) {
       two_level(o);
       o.two_level.space = CoarseSpace::Layer;
     },
     [](auto& o) { o.two_level.decay = 0.1; }},
    {"groups.contains", spectral, [](auto& o) { o.groups[0].contains = layers_named({"2"}); }},
    {"groups.precondition", grouped, [](auto& o) { o.groups[0].precondition = false; }},
    {"groups.damping_scale", grouped, [](auto& o) { o.groups[0].damping_scale = 5; }},
    {"groups.learning_rate_scale", grouped, [](auto& o) { o.groups[0].learning_rate_scale = 0.5; }},
    {"groups.learning_rate_scale of Adam",
     [](auto& o) {
       grouped(o);
       adam(o);
     },
     [](auto& o) { o.groups[0].learning_rate_scale = 0.5; }},
    {"groups.blocks", grouped,
     [](auto& o) { o.groups[0].blocks = block_factory<EkfacBlock<double>>(); }}};

}  // namespace

TEST_CASE("D5: every option of the optimizer changes the trajectory") {
  Rng rng(1);
  const Model model = network(rng);
  const Data data(rng);
  for (const auto& [name, prepare, change] : kSwitches) {
    INFO(name);
    // A clip that leaves some steps as they are: one that decides all makes the learning rate moot.
    KfacOptions<double> options{.kl_clip = 1e-2, .fisher = FisherType::MonteCarlo};
    prepare(options);
    const Vector<double> before = trained(model, data, options);
    CHECK((trained(model, data, options).array() == before.array()).all());
    change(options);
    CHECK((trained(model, data, options) - before).norm() > 1e-6);
  }
}

}  // namespace kfac::test::kfac_options_test
