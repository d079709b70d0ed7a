#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <vector>

#include <kfac/io/checkpoint.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::checkpoint_test {

using io::CheckpointPart;
using io::ElementType;
using io::load_checkpoint;
using io::read_safetensors;
using io::SafeTensors;
using io::save_checkpoint;
using io::write_safetensors;

namespace {

/// A bit of everything an optimizer may have.
struct Toy {
  Index steps = 0;
  double damping = 1;
  bool ready = false;
  Vector<float> velocity = Vector<float>::Zero(3);
  Matrix<double> factor = Matrix<double>::Zero(2, 3);
  Matrix<double> inverse;  // empty, or 2x2
  Vector<double> nothing;
  Rng rng;

  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps);
    visitor.visit("damping", damping);
    visitor.visit("ready", ready);
    visitor.visit("velocity", velocity);
    visitor.visit("factor", factor);
    visitor.visit_optional("inverse", inverse, 2, 2);
    visitor.visit("nothing", nothing);
    visitor.under("inner.", [&] { visitor.visit("rng", rng); });
  }
};

Toy toy(std::uint64_t seed) {
  Rng rng(seed);
  Toy result;
  result.steps = std::numeric_limits<Index>::max() - static_cast<Index>(seed);
  result.damping = rng.normal();
  result.ready = seed % 2 == 1;
  rng.fill_normal(result.velocity);
  rng.fill_normal(result.factor);
  result.factor(1, 0) = std::numeric_limits<double>::denorm_min();
  result.factor(0, 2) = -std::numeric_limits<double>::infinity();
  result.rng = Rng(rng());
  return result;
}

template <class S>
auto network(std::uint64_t seed, Index width = 4) {
  Rng rng(seed);
  const Linear<S> first(3, width, rng);
  const Dropout<S> a(0.5, rng), b(0.3, rng);
  return Sequential(first, a, Residual(Linear<S>(width, width, rng, {.bias = false}), b));
}

/// Loads `parts` and says what the FileError was after the name of the file.
std::string failure(const std::filesystem::path& path, const std::vector<CheckpointPart>& parts) {
  const std::string start = "kfac::io::load_checkpoint: '" + path.string() + "' ";
  const std::string message = message_of<FileError>([&] { load_checkpoint(path, parts); });
  return message.starts_with(start) ? message.substr(start.size()) : message;
}

/// A file without tensors that says it is a checkpoint.
SafeTensors empty_checkpoint(const std::string& version, bool with_checksum) {
  SafeTensors file;
  file.set_metadata("kfac.checkpoint", version);
  file.set_metadata("kfac.version", "7.8.9");
  if (with_checksum) file.set_metadata("kfac.crc32", io::detail::checkpoint_checksum(file));
  return file;
}

}  // namespace

TEST_CASE("checkpoint: objects take on what others saved, bit for bit", "[io]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run.safetensors";
  Toy first = toy(1), second = toy(2);
  second.inverse = (Matrix<double>(2, 2) << 1, 2, 3, 4).finished();
  Rng rng(3);
  int epoch = 7;
  float loss = 0.25F;
  Matrix<float> matrix = (Matrix<float>(1, 2) << 5, 6).finished();
  save_checkpoint(path, {{"first", first},
                         {"second", second},
                         {"rng", rng},
                         {"epoch", epoch},
                         {"loss", loss},
                         {"matrix", matrix}});

  Toy first_again = toy(4), second_again = toy(5);
  first_again.inverse.setOnes(2, 2);
  Rng rng_again(6);
  int epoch_again = 0;
  float loss_again = 0;
  Matrix<float> matrix_again(1, 2);
  load_checkpoint(path, {{"first", first_again},
                         {"second", second_again},
                         {"rng", rng_again},
                         {"epoch", epoch_again},
                         {"loss", loss_again},
                         {"matrix", matrix_again}});
  CHECK(SavedState(first_again) == SavedState(first));
  CHECK(SavedState(second_again) == SavedState(second));
  CHECK(first_again.inverse.size() == 0);
  CHECK(second_again.inverse == second.inverse);
  CHECK(rng_again.state() == rng.state());
  CHECK(epoch_again == 7);
  CHECK(loss_again == 0.25F);
  CHECK(matrix_again == matrix);

  // Some parts alone, and the same bytes from the same state.
  Toy third;
  load_checkpoint(path, {{"second", third}});
  CHECK(SavedState(third) == SavedState(second));
  save_checkpoint(folder / "a", {{"toy", third}});
  save_checkpoint(folder / "b", {{"toy", second}});
  CHECK(read_bytes(folder / "a") == read_bytes(folder / "b"));
}

TEST_CASE("checkpoint: numbers that are not numbers keep their bits", "[io]") {
  const TemporaryFolder folder;
  Vector<double> values(3), again(3);
  values << std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::quiet_NaN(),
      -0.0;
  save_checkpoint(folder / "a", {{"values", values}});
  load_checkpoint(folder / "a", {{"values", again}});
  save_checkpoint(folder / "b", {{"values", again}});
  CHECK(read_bytes(folder / "a") == read_bytes(folder / "b"));
  CHECK(std::signbit(again(2)));
}

TEST_CASE("checkpoint: the file has names, types and shapes for other readers", "[io]") {
  const TemporaryFolder folder;
  auto model = network<float>(1);
  Toy optimizer = toy(2);
  Index epoch = 3;
  save_checkpoint(folder / "run", {{"model", model}, {"optimizer", optimizer}, {"epoch", epoch}});
  const SafeTensors file = read_safetensors(folder / "run");
  CHECK(file.names() ==
        std::vector<std::string>{"epoch", "model/0.bias", "model/0.weight", "model/1.rng",
                                 "model/2.0.weight", "model/2.1.rng", "optimizer/damping",
                                 "optimizer/factor", "optimizer/inner.rng", "optimizer/nothing",
                                 "optimizer/ready", "optimizer/steps", "optimizer/velocity"});
  using Shape = std::vector<Index>;
  CHECK(file.element_type("model/0.weight") == ElementType::F32);
  CHECK(file.shape("model/0.weight") == Shape{4, 3});
  CHECK(file.shape("model/0.bias") == Shape{4});
  CHECK(file.matrix<float>("model/0.weight") ==
        ConstMatrixMap<float>(model.layers().front().parameters.data(), 4, 3));
  CHECK(file.element_type("model/1.rng") == ElementType::I64);
  CHECK(file.shape("model/1.rng") == Shape{4});
  CHECK(file.integers("epoch") == std::vector<std::int64_t>{3});
  CHECK(file.shape("epoch").empty());
  CHECK(file.scalar<double>("optimizer/damping") == optimizer.damping);
  CHECK(file.shape("optimizer/damping").empty());
  CHECK(file.matrix<double>("optimizer/factor") == optimizer.factor);
  CHECK(file.metadata().at("kfac.checkpoint") == "1");
  CHECK(file.metadata().at("kfac.version") == std::to_string(KFAC_VERSION_MAJOR) + '.' +
                                                  std::to_string(KFAC_VERSION_MINOR) + '.' +
                                                  std::to_string(KFAC_VERSION_PATCH));
  CHECK(file.metadata().at("kfac.crc32").size() == 8);
}

TEST_CASE("checkpoint: a resumed network draws the masks of the one that was saved", "[io]") {
  const TemporaryFolder folder;
  Rng rng(1);
  Matrix<double> x(3, 20);
  rng.fill_normal(x);
  auto model = network<double>(2);
  for (int step = 0; step < 4; ++step) {
    CAPTURE(step);
    save_checkpoint(folder / "model", {{"model", model}});
    auto resumed = network<double>(3);
    resumed.forward(x);
    load_checkpoint(folder / "model", {{"model", resumed}});
    for (int pass = 0; pass <= step; ++pass) CHECK(resumed.forward(x) == model.forward(x));
  }
}

TEST_CASE("checkpoint: a file cut off or changed anywhere is refused, and nothing is changed",
          "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run";
  Toy saved = toy(1);
  save_checkpoint(path, {{"toy", saved}});
  const std::string whole = read_bytes(path);

  Toy object = toy(2);
  object.inverse.setOnes(2, 2);
  const SavedState before(object);
  // A thousand loads and more: counted, as Catch would take longer than they do.
  int accepted = 0, changed = 0;
  const auto attempt = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    try {
      load_checkpoint(path, {{"toy", object}});
      ++accepted;
    } catch (const FileError&) {
    }
    changed += SavedState(object) == before ? 0 : 1;
  };
  for (std::size_t size = 0; size < whole.size(); ++size) attempt(whole.substr(0, size));
  attempt(whole + '\0');
  for (std::size_t position = 0; position < whole.size(); ++position)
    for (const int mask : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}) {
      std::string flipped = whole;
      flipped[position] = static_cast<char>(static_cast<unsigned char>(flipped[position]) ^ mask);
      attempt(flipped);
    }
  CHECK(accepted == 0);
  CHECK(changed == 0);

  write_bytes(path, whole);
  load_checkpoint(path, {{"toy", object}});
  CHECK(SavedState(object) == SavedState(saved));
}

TEST_CASE("checkpoint: a file that does not fit the objects is refused, and nothing is changed",
          "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run";
  auto model = network<double>(1);
  Toy optimizer = toy(2);
  Rng rng(3);
  save_checkpoint(path, {{"model", model}, {"optimizer", optimizer}, {"rng", rng}});

  auto same = network<double>(4);
  const SavedState before(same);

  auto wide = network<double>(5, 6);
  CHECK(failure(path, {{"model", wide}}) ==
        "has 'model/0.weight' as F64 [4, 3], expected F64 [6, 3]");
  auto single = network<float>(5);
  CHECK(failure(path, {{"model", single}}) ==
        "has 'model/0.weight' as F64 [4, 3], expected F32 [4, 3]");
  Sequential shallow(Linear<double>(3, 4, rng));
  CHECK(failure(path, {{"model", same}, {"model2", shallow}}) ==
        "has the parts 'model', 'optimizer', 'rng', expected 'model2' among them");
  CHECK(failure(path, {{"optimizer", optimizer}, {"model", shallow}}) ==
        "has 'model/1.rng', expected nothing more of 'model'");
  Sequential deep(network<double>(5), Linear<double>(4, 4, rng));
  CHECK(failure(path, {{"model", deep}}) == "has no 'model/0.0.weight', expected F64 [4, 3]");
  CHECK(failure(path, {{"model", same}, {"optimizer", wide}}) ==
        "has no 'optimizer/0.weight', expected F64 [6, 3]");
  CHECK(failure(path, {{"model", same}, {"rng", optimizer}}) ==
        "has no 'rng/steps', expected I64 []");
  double number = 1;
  CHECK(failure(path, {{"model", same}, {"rng", number}}) ==
        "has 'rng' as I64 [4], expected F64 []");
  Matrix<double> column(3, 1);
  save_checkpoint(folder / "column", {{"column", column}});
  Vector<double> vector(3);
  CHECK(failure(folder / "column", {{"column", vector}}) ==
        "has 'column' as F64 [3, 1], expected F64 [3]");

  CHECK(SavedState(same) == before);
  CHECK(failure(path, {{"model", same}, {"rng", rng}}) == "nothing was thrown");
  CHECK(SavedState(same) == SavedState(model));
}

TEST_CASE("checkpoint: what is none, or of another version, or changed, is refused",
          "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run";
  Rng rng(1);
  CHECK(failure(path, {{"rng", rng}}) == "kfac::io::read_safetensors: '" + path.string() +
                                             "' cannot be opened: No such file or directory");
  write_safetensors(path, {});
  CHECK(failure(path, {{"rng", rng}}) ==
        "has no 'kfac.checkpoint' in its metadata, expected a checkpoint");
  write_safetensors(path, empty_checkpoint("1", false));
  CHECK(failure(path, {{"rng", rng}}) ==
        "has no 'kfac.crc32' in its metadata, expected a checkpoint");
  write_safetensors(path, empty_checkpoint("2", true));
  CHECK(failure(path, {{"rng", rng}}) ==
        "has version 2 of the format (written by kfac 7.8.9), expected version 1");
  write_safetensors(path, empty_checkpoint("1", true));
  CHECK(failure(path, {{"rng", rng}}) == "has the parts none, expected 'rng' among them");
  CHECK(failure(path, {}) == "nothing was thrown");

  SafeTensors changed = empty_checkpoint("1", true);
  const std::string checksum = changed.metadata().at("kfac.crc32");
  changed.add_scalar("x", 1.0);
  write_safetensors(path, changed);
  CHECK(failure(path, {{"rng", rng}}) ==
        "has contents with the CRC-32 " + io::detail::checkpoint_checksum(changed) + ", expected " +
            checksum + ": it was changed after it was written");
  CHECK(rng.state() == Rng(1).state());
}

TEST_CASE("checkpoint: the names of the parts are checked", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run";
  Rng rng(1);
  const auto saving = [&](const std::vector<CheckpointPart>& parts) {
    return message_of<ValueError>([&] { save_checkpoint(path, parts); });
  };
  const std::string start = "kfac::io::save_checkpoint: 'parts' has the name ";
  CHECK(saving({{"", rng}}) == start + "'', expected one that is not empty and has no '/'");
  CHECK(saving({{"a/b", rng}}) == start + "'a/b', expected one that is not empty and has no '/'");
  CHECK(saving({{"a", rng}, {"a", rng}}) == start + "'a' twice, expected it once");
  CHECK(saving({{"\xff", rng}}) != "nothing was thrown");
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK(message_of<ValueError>([&] {
          load_checkpoint(path, {{"a", rng}, {"a", rng}});
        }) == "kfac::io::load_checkpoint: 'parts' has the name 'a' twice, expected it once");
}

TEST_CASE("checkpoint: a failure to write leaves an earlier one as it was", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "run";
  const std::filesystem::path partial = folder / "run.partial";
  Toy old = toy(1), young = toy(2);
  save_checkpoint(path, {{"toy", old}});
  CHECK_FALSE(std::filesystem::exists(partial));
  const std::string before = read_bytes(path);
  const auto saving = [&](const std::filesystem::path& to) {
    return message_of<FileError>([&] { save_checkpoint(to, {{"toy", young}}); });
  };

  // A disk that is full, where there is such a device.
  std::error_code error;
  std::filesystem::create_symlink("/dev/full", partial, error);
  if (!error && std::filesystem::exists("/dev/full")) {
    CHECK(saving(path) ==
          "kfac::io::write_safetensors: '" + path.string() + "' cannot be written to its end");
    CHECK_FALSE(std::filesystem::exists(std::filesystem::symlink_status(partial)));
    CHECK(read_bytes(path) == before);
  }
  std::filesystem::remove(partial);

  const std::filesystem::path nowhere = folder.path() / "no such folder" / "run";
  CHECK(saving(nowhere) == "kfac::io::write_safetensors: '" + nowhere.string() +
                               "' cannot be written: '" + nowhere.string() +
                               ".partial' cannot be opened");
  std::filesystem::create_directory(folder / "taken");
  CHECK(saving(folder / "taken") == "kfac::io::write_safetensors: '" + (folder / "taken").string() +
                                        "' cannot be written: Is a directory");
  CHECK_FALSE(std::filesystem::exists(folder / "taken.partial"));
  CHECK(read_bytes(path) == before);

  CHECK(saving(path) == "nothing was thrown");
  CHECK_FALSE(std::filesystem::exists(partial));
  load_checkpoint(path, {{"toy", old}});
  CHECK(SavedState(old) == SavedState(young));
}

}  // namespace kfac::test::checkpoint_test
