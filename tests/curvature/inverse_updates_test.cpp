#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <kfac/curvature/inverse_updates.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::inverse_updates_test {

namespace {

/// What a block does, and what it did. Its "factors" are a number, its "inverse" the number that
/// was there when it was prepared.
struct Probe {
  Index factors = 0;
  Index in_use = -1;
  double damping = 0;  // of the inverse that was prepared last
  std::vector<Index> prepared;
  std::atomic<bool> held = false;  // the work, until this is false
  std::atomic<bool> fails = false;
  std::atomic<bool> throws = false;
  std::atomic<int> done = 0;  // how often the work was
};

class ProbeBlock : public CurvatureBlock<double> {
 public:
  ProbeBlock(BlockOptions<double> options, Probe& probe)
      : CurvatureBlock<double>("ProbeBlock", std::move(options)), probe_(&probe) {
    commit(1);
  }
  std::unique_ptr<CurvatureBlock<double>> clone() const override {
    return std::unique_ptr<CurvatureBlock<double>>(new ProbeBlock(*this));
  }
  void assign(const CurvatureBlock<double>& other) override {
    *this = static_cast<const ProbeBlock&>(other);
  }
  const char* kind() const override { return "probe"; }
  BlockCost cost() const override { return {}; }
  bool fresh_is_finite() const override { return true; }

 private:
  void do_add_input(const SharedBatch<double>&, const PositionMask*) override {}
  void do_add_output_gradient(const SharedBatch<double>&, const SharedBatch<double>&,
                              double) override {}
  void do_commit(double, Index, double) override {}
  void do_discard() override {}
  bool do_begin_pass(Index) override { return false; }
  void do_prepare_inverse(double damping) override {
    next_ = probe_->factors;
    probe_->damping = damping;
    probe_->prepared.push_back(next_);
  }
  bool do_compute_inverse() override {
    while (probe_->held) std::this_thread::yield();
    ++probe_->done;
    if (probe_->throws) throw std::runtime_error("no memory");
    return !probe_->fails;
  }
  void do_adopt_inverse() override { probe_->in_use = next_; }
  void do_precondition(MatrixRef<double>) override {}
  std::unique_ptr<CurvatureMatrix<double>> do_matrix(double) const override { return nullptr; }
  void do_visit_state(StateVisitor& visitor) override {
    visitor.visit("in_use", probe_->in_use);
    visitor.visit("next", next_);
  }

  Probe* probe_;
  Index next_ = -1;
};

/// Five layers whose factors are the number of the step.
struct Fixture {
  static constexpr std::size_t kLayers = 5;

  Rng rng{1};
  Sequential<Linear<double>, Linear<double>, Linear<double>, Linear<double>, Linear<double>> model{
      Linear<double>(1, 1, rng), Linear<double>(1, 1, rng), Linear<double>(1, 1, rng),
      Linear<double>(1, 1, rng), Linear<double>(1, 1, rng)};
  std::array<Probe, kLayers> probes;
  InverseUpdates<double>::Layers layers;
  std::unique_ptr<ThreadPool> pool;
  InverseUpdates<double> updates;

  /// `threads`: of the pool.
  explicit Fixture(const InverseUpdateOptions& options, Index threads = 0)
      : pool(threads > 0 ? std::make_unique<ThreadPool>(threads) : nullptr),
        updates(std::vector<double>(kLayers, 1e6), options, pool.get()) {
    std::size_t i = 0;
    for (const LayerView<double>& layer : model.layers()) {
      Probe& probe = probes[i++];
      layers.push_back(LayerCurvature<double>::make(
          layer, {}, [&](const auto&, const BlockOptions<double>& block_options) {
            return std::make_unique<ProbeBlock>(block_options, probe);
          }));
    }
  }

  /// Returns the name of the layer that failed.
  std::string update(Index step, Index period, double damping = 0.5) {
    for (Probe& probe : probes) probe.factors = step;
    const ParallelScope parallel(pool.get());
    const LayerCurvature<double>* failed = updates.update(
        layers, step, period, [&](std::size_t i) { return damping * static_cast<double>(1 + i); });
    return failed ? failed->layer().name : "";
  }
  void hold(bool held) {
    for (Probe& probe : probes) probe.held = held;
  }
  void wait_for(int done) {
    for (const Probe& probe : probes)
      while (probe.done < done) std::this_thread::yield();
  }
};

using Steps = std::vector<Index>;

}  // namespace

TEST_CASE("InverseUpdates: each layer's inverse is made once a period, whatever the threads") {
  Fixture all({}, GENERATE(0, 1, 2));
  for (Index step = 0; step < 13; ++step) {
    REQUIRE(all.update(step, 4).empty());
    for (const Probe& probe : all.probes) CHECK(probe.in_use == step / 4 * 4);
  }
  for (std::size_t i = 0; i < Fixture::kLayers; ++i) {
    CHECK(all.probes[i].prepared == Steps{0, 4, 8, 12});
    CHECK(all.probes[i].damping == 0.5 * static_cast<double>(1 + i));
  }
}

TEST_CASE("InverseUpdates: the period may change from step to step") {
  Fixture all({});
  for (Index step = 0; step < 16; ++step) REQUIRE(all.update(step, step < 6 ? 2 : 3).empty());
  CHECK(all.probes[0].prepared == Steps{0, 2, 4, 6, 9, 12, 15});
}

TEST_CASE("InverseUpdates: staggered, a period's inverses are spread evenly over its steps") {
  const Index period = GENERATE(1, 2, 4, 5, 7, 20);
  CAPTURE(period);
  Fixture all({.stagger = true});
  for (Index step = 0; step <= 3 * period; ++step) REQUIRE(all.update(step, period).empty());
  std::vector<Index> at_step(static_cast<std::size_t>(3 * period + 1), 0);
  for (const Probe& probe : all.probes) {
    REQUIRE(probe.prepared.size() == 4);
    CHECK(probe.prepared[0] == 0);
    CHECK(probe.prepared[1] >= 1);
    CHECK(probe.prepared[1] <= period);
    CHECK(probe.prepared[2] == probe.prepared[1] + period);
    CHECK(probe.prepared[3] == probe.prepared[2] + period);
    for (const Index step : probe.prepared) ++at_step[static_cast<std::size_t>(step)];
  }
  const auto [least, most] = std::minmax_element(at_step.begin() + 1, at_step.end());
  CHECK(*most - *least <= 1);
}

TEST_CASE("InverseUpdates: on threads an inverse is in use a period later, whatever their number") {
  const Index threads = GENERATE(0, 1, 2, 3);
  Fixture all({.asynchronous = true}, threads);
  Fixture staggered({.stagger = true, .asynchronous = true}, threads);
  for (Index step = 0; step < 30; ++step) {
    REQUIRE(all.update(step, 4).empty());
    for (const Probe& probe : all.probes)
      CHECK(probe.in_use == std::max<Index>(0, step / 4 - 1) * 4);
    REQUIRE(staggered.update(step, 4).empty());
    for (const Probe& probe : staggered.probes) {
      CHECK(probe.prepared.back() <= step);
      CHECK(probe.in_use ==
            (probe.prepared.size() < 2 ? probe.prepared[0] : probe.prepared.rbegin()[1]));
      CHECK(step - probe.in_use < 2 * 4);
    }
  }
  CHECK(all.probes[3].prepared == Steps{0, 4, 8, 12, 16, 20, 24, 28});
}

TEST_CASE("InverseUpdates: when runs need not repeat, an inverse is in use as soon as it is made") {
  Fixture all({.asynchronous = true, .deterministic = false}, 2);
  REQUIRE(all.update(0, 4).empty());
  all.wait_for(1);
  all.hold(true);
  for (Index step = 1; step < 6; ++step) REQUIRE(all.update(step, 4).empty());
  for (const Probe& probe : all.probes) CHECK(probe.in_use == 0);
  all.hold(false);
  all.wait_for(2);
  // A future is ready a moment after the work: one update may come too early for it.
  Index step = 6;
  const auto in_use = [&](Index version) {
    return std::all_of(all.probes.begin(), all.probes.end(),
                       [&](const Probe& probe) { return probe.in_use == version; });
  };
  while (!in_use(4)) REQUIRE(all.update(step, 4).empty());

  // And never older than those of a run that repeats.
  for (step = 7; step < 40; ++step) {
    REQUIRE(all.update(step, 4).empty());
    for (const Probe& probe : all.probes) {
      CHECK(probe.in_use >= (step / 4 - 1) * 4);
      CHECK(probe.in_use <= step);
      CHECK(probe.in_use % 4 == 0);
    }
  }
}

TEST_CASE("InverseUpdates: a failure names the layer, which keeps its inverse and tries again") {
  SECTION("at once") {
    Fixture all({}, GENERATE(0, 1, 2));
    REQUIRE(all.update(0, 2).empty());
    all.probes[2].fails = true;
    CHECK(all.update(1, 2).empty());
    CHECK(all.update(2, 2) == "2");
    CHECK(all.probes[2].in_use == 0);
    CHECK(all.probes[4].in_use == 2);
    all.probes[2].fails = false;
    CHECK(all.update(2, 2).empty());
    for (const Probe& probe : all.probes) CHECK(probe.in_use == 2);
    CHECK(all.update(3, 2).empty());
    CHECK(all.probes[2].in_use == 2);
    CHECK(all.update(4, 2).empty());
    CHECK(all.probes[2].in_use == 4);
  }
  SECTION("at the first step") {
    Fixture all({.stagger = true, .asynchronous = true}, 1);
    all.probes[1].fails = true;
    CHECK(all.update(0, 2) == "1");
    CHECK_FALSE(all.layers[1]->blocks()[0]->has_inverse());
    all.probes[1].fails = false;
    CHECK(all.update(0, 2).empty());
    CHECK(all.layers[1]->blocks()[0]->has_inverse());
  }
  SECTION("in a worker") {
    Fixture all({.asynchronous = true}, 2);
    REQUIRE(all.update(0, 2).empty());
    all.probes[2].fails = true;
    CHECK(all.update(2, 2).empty());
    CHECK(all.update(3, 2).empty());
    all.updates.wait();
    all.probes[2].fails = false;
    CHECK(all.update(4, 2) == "2");
    CHECK(all.probes[1].in_use == 2);
    CHECK(all.probes[2].in_use == 0);
    CHECK(all.update(4, 2).empty());
    CHECK(all.probes[2].in_use == 0);
    CHECK(all.update(6, 2).empty());
    for (const Probe& probe : all.probes) CHECK(probe.in_use == 4);
  }
  SECTION("in a worker that is asked at every step") {
    Fixture all({.asynchronous = true, .deterministic = false}, 1);
    REQUIRE(all.update(0, 10).empty());
    all.probes[2].fails = true;
    REQUIRE(all.update(10, 10).empty());
    all.updates.wait();
    all.probes[2].fails = false;
    CHECK(all.update(11, 10) == "2");
    CHECK(all.probes[2].in_use == 0);
    CHECK(all.update(11, 10).empty());  // made anew at once, not at step 20
    CHECK(all.probes[2].prepared == Steps{0, 10, 11});
    all.updates.wait();
    CHECK(all.update(12, 10).empty());
    CHECK(all.probes[2].in_use == 11);
    CHECK(all.probes[1].in_use == 10);
  }
  SECTION("what a worker throws") {
    Fixture all({.asynchronous = true}, 2);
    REQUIRE(all.update(0, 2).empty());
    REQUIRE(all.update(2, 2).empty());
    all.updates.wait();
    all.probes[2].throws = true;
    CHECK(all.update(4, 2).empty());
    const bool waited = GENERATE(false, true);
    if (waited) {
      CHECK_THROWS_AS(all.updates.wait(), std::runtime_error);
      CHECK(all.update(6, 2) == "2");
    } else {
      CHECK_THROWS_AS(all.update(6, 2), std::runtime_error);
    }
    CHECK(all.probes[2].in_use == 2);
    all.probes[2].throws = false;
    CHECK(all.update(6, 2).empty());
    CHECK(all.update(8, 2).empty());
    CHECK(all.probes[2].in_use == 6);
  }
}

TEST_CASE("InverseUpdates: without damping no inverse is left to a thread") {
  Fixture all({.asynchronous = true}, 2);
  for (Index step = 0; step < 9; ++step) {
    REQUIRE(all.update(step, 2, 0.0).empty());
    for (const Probe& probe : all.probes) CHECK(probe.in_use == step / 2 * 2);
  }
}

TEST_CASE("InverseUpdates: redamp makes all anew, also those under way, and they stay due") {
  Fixture all({.asynchronous = true}, 2);
  REQUIRE(all.update(0, 4).empty());
  REQUIRE(all.update(4, 4).empty());
  for (Probe& probe : all.probes) probe.factors = 5;
  REQUIRE(all.updates.redamp(all.layers, [](std::size_t) { return 0.125; }) == nullptr);
  for (const Probe& probe : all.probes) {
    CHECK(probe.in_use == 5);
    CHECK(probe.damping == 0.125);
  }
  REQUIRE(all.update(7, 4).empty());
  CHECK(all.probes[0].in_use == 5);
  REQUIRE(all.update(8, 4).empty());
  CHECK(all.probes[0].in_use == 5);  // what step 4 had under way is lost
  REQUIRE(all.update(12, 4).empty());
  CHECK(all.probes[0].in_use == 8);

  all.probes[3].fails = true;
  for (Probe& probe : all.probes) probe.factors = 13;
  const LayerCurvature<double>* failed =
      all.updates.redamp(all.layers, [](std::size_t) { return 0.125; });
  REQUIRE(failed != nullptr);
  CHECK(failed->layer().name == "3");
  CHECK(all.probes[3].in_use == 8);
}

TEST_CASE("InverseUpdates: whoever needs inverses makes those that no thread has begun") {
  Fixture all({.asynchronous = true}, 1);
  REQUIRE(all.update(0, 2).empty());
  all.probes[0].held = true;
  REQUIRE(all.update(2, 2).empty());  // its thread is at the first until that is let go
  std::thread releases([&all] {
    for (std::size_t i = 1; i < Fixture::kLayers; ++i)
      while (all.probes[i].done < 2) std::this_thread::yield();
    all.probes[0].held = false;
  });
  if (GENERATE(false, true))
    all.updates.wait();
  else
    REQUIRE(all.update(4, 2).empty());
  releases.join();
  REQUIRE(all.update(4, 2).empty());
  for (const Probe& probe : all.probes) CHECK(probe.in_use == 2);
}

TEST_CASE("InverseUpdates: whoever destroys it waits for the work under way") {
  auto all = std::make_unique<Fixture>(InverseUpdateOptions{.asynchronous = true}, 2);
  REQUIRE(all->update(0, 2).empty());
  all->hold(true);
  REQUIRE(all->update(2, 2).empty());
  std::thread releases([&probes = all->probes] {
    std::this_thread::yield();
    for (Probe& probe : probes) probe.held = false;
  });
  releases.join();
  all.reset();  // with some of it in the queue still
  SUCCEED();
}

TEST_CASE("InverseUpdates: inverses under way are part of the state") {
  const bool stagger = GENERATE(false, true);
  Fixture original({.stagger = stagger, .asynchronous = true}, 2);
  for (Index step = 0; step < 7; ++step) REQUIRE(original.update(step, 4).empty());
  const SavedState updates(original.updates);
  Fixture resumed({.stagger = stagger, .asynchronous = true}, 3);
  updates.restore(resumed.updates);
  for (std::size_t i = 0; i < Fixture::kLayers; ++i)
    SavedState(*original.layers[i]).restore(*resumed.layers[i]);
  for (Index step = 7; step < 20; ++step) {
    REQUIRE(original.update(step, 4).empty());
    REQUIRE(resumed.update(step, 4).empty());
    for (std::size_t i = 0; i < Fixture::kLayers; ++i)
      CHECK(original.probes[i].in_use == resumed.probes[i].in_use);
  }
}

}  // namespace kfac::test::inverse_updates_test
