#include <string>
#include <utility>
#include <vector>

#include <kfac/data/batch_stream.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::batch_stream_test {

namespace {

/// Example n is the number n, with label n.
Dataset<double> numbered(Index examples) {
  Dataset<double> data{Matrix<double>(1, examples), Labels(examples)};
  for (Index n = 0; n < examples; ++n) {
    data.inputs(0, n) = static_cast<double>(n);
    data.targets(n) = static_cast<int>(n);
  }
  return data;
}

using Stream = BatchStream<double, Labels>;

std::vector<int> labels_of_next(Stream& stream) {
  const auto [x, y] = stream.next();
  REQUIRE(x.row(0).transpose() == y.cast<double>());
  return {y.begin(), y.end()};
}

}  // namespace

TEST_CASE("BatchStream: its epochs are passes of batches with the same generator", "[data]") {
  const auto data = numbered(10);
  const Index batch_size = GENERATE(1, 3, 5, 10, 12);
  BatchStream stream(data, batch_size, Rng(3));
  Rng rng(3);
  for (Index epoch = 0; epoch < 4; ++epoch) {
    Index step = 0;
    auto pass = batches(data, batch_size, rng);
    for (const auto& [x, y] : pass) {
      CHECK(labels_of_next(stream) == std::vector<int>(y.begin(), y.end()));
      CHECK(stream.epoch() == epoch);
      CHECK(stream.step_in_epoch() == ++step);
      CHECK(stream.steps() == epoch * pass.size() + step);
      CHECK(stream.epoch_ended() == (step == pass.size()));
    }
    CHECK(stream.batches_per_epoch() == pass.size());
  }
}

TEST_CASE("BatchStream: before the first batch it is at the beginning", "[data]") {
  const auto data = numbered(10);
  const BatchStream stream(data, 4, Rng(3));
  CHECK(stream.epoch() == 0);
  CHECK(stream.step_in_epoch() == 0);
  CHECK(stream.steps() == 0);
  CHECK_FALSE(stream.epoch_ended());
  CHECK(stream.batches_per_epoch() == 3);
}

TEST_CASE("BatchStream: drop_last leaves out the batch that is smaller, another each epoch",
          "[data]") {
  const auto data = numbered(10);
  BatchStream stream(data, 4, Rng(3), {.drop_last = true});
  CHECK(stream.batches_per_epoch() == 2);
  std::vector<bool> seen(10, false);
  for (Index step = 1; step <= 20; ++step) {
    const std::vector<int> labels = labels_of_next(stream);
    CHECK(labels.size() == 4);
    CHECK(stream.epoch() == (step - 1) / 2);
    for (const int label : labels) seen[static_cast<std::size_t>(label)] = true;
  }
  CHECK(seen == std::vector<bool>(10, true));

  BatchStream whole(data, 5, Rng(3), {.drop_last = true});
  CHECK(whole.batches_per_epoch() == 2);
  BatchStream all(data, 10, Rng(3), {.drop_last = true});
  CHECK(labels_of_next(all).size() == 10);
}

TEST_CASE("BatchStream: one that takes on a state goes on as the other would have", "[data]") {
  const auto data = numbered(10);
  const bool drop_last = GENERATE(false, true);
  for (Index saved_at = 0; saved_at < 9; ++saved_at) {
    INFO("after " << saved_at << " batches");
    BatchStream stream(data, 4, Rng(3), {.drop_last = drop_last});
    for (Index i = 0; i < saved_at; ++i) stream.next();
    const SavedState state(stream);
    const Index steps = stream.steps();
    std::vector<std::vector<int>> expected;
    for (int i = 0; i < 8; ++i) expected.push_back(labels_of_next(stream));
    const SavedState later(stream);

    const auto check = [&](Stream resumed) {
      state.restore(resumed);
      CHECK(SavedState(resumed) == state);
      CHECK(resumed.steps() == steps);
      for (const auto& labels : expected) CHECK(labels_of_next(resumed) == labels);
      CHECK(SavedState(resumed) == later);
    };
    check(BatchStream(data, 4, Rng(99), {.drop_last = drop_last}));  // a new one
    check(stream);                                                   // one that went on
  }
}

TEST_CASE("BatchStream: a state of no batch of these data is the end of an epoch", "[data]") {
  const auto many = numbered(100), few = numbered(10);
  BatchStream long_one(many, 4, Rng(3));
  for (int i = 0; i < 20; ++i) long_one.next();
  BatchStream short_one(few, 4, Rng(3));
  SavedState(long_one).restore(short_one);
  CHECK(short_one.epoch_ended());
  CHECK(labels_of_next(short_one).size() == 4);
  CHECK(short_one.epoch() == 1);
}

TEST_CASE("BatchStream: all batches share one memory, and matrix targets follow their examples",
          "[data]") {
  Rng rng(5);
  const Matrix<double> values = normal<double>(3, 11, rng);
  const Dataset<double, Matrix<double>> data{values, -2 * values};
  BatchStream stream(data, 4, Rng(3));
  const double* memory = stream.next().inputs.data();
  for (int i = 0; i < 7; ++i) {
    const auto [x, y] = stream.next();
    CHECK(x.data() == memory);
    CHECK(y == -2 * x);
  }
}

TEST_CASE("BatchStream: misuse is named", "[data][error]") {
  const auto data = numbered(4);
  CHECK_THROWS_WITH(BatchStream(data, 0, Rng(3)),
                    "kfac::BatchStream: 'batch_size' is 0, expected >= 1");
  CHECK_THROWS_WITH(BatchStream(data, 5, Rng(3), {.drop_last = true}),
                    "kfac::BatchStream: 'batch_size' is 5, expected at most the number of examples "
                    "with drop_last");
  CHECK_THROWS_AS(BatchStream(data, 0, Rng(3)), OptionError);
  const auto empty = numbered(0);
  CHECK_THROWS_WITH(BatchStream(empty, 2, Rng(3)), "kfac::BatchStream: 'data' has no examples");
  CHECK_THROWS_AS(BatchStream(empty, 2, Rng(3)), ShapeError);
}

template <class Data>
concept Streamable = requires(Data&& data) {
  Stream(std::forward<Data>(data), 4, Rng(3));
};
static_assert(Streamable<const Dataset<double>&>);
static_assert(!Streamable<Dataset<double>>, "a temporary dataset would dangle");

}  // namespace kfac::test::batch_stream_test
