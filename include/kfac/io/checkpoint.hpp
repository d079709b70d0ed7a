#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <zlib.h>

#include <kfac/core/state.hpp>
#include <kfac/io/safetensors.hpp>
#include <kfac/version.hpp>

/// Checkpoints: the state of a run in one safetensors file. Needs nlohmann_json and zlib.
namespace kfac::io {

/// One part of a run and the name it has in a checkpoint. Refers to the object, which is anything
/// that has a `visit_state` (see StateVisitor), an Rng, a number, or a matrix or vector of the size
/// it has.
class CheckpointPart {
 public:
  template <class Object>
    requires(!std::is_const_v<Object>)
  CheckpointPart(std::string name, Object& object)
      : name_(std::move(name)), visit_([&object](const std::string& as, StateVisitor& visitor) {
          if constexpr (requires { object.visit_state(visitor); })
            visitor.in(as, object);
          else
            visitor.visit(as, object);
        }) {}

  const std::string& name() const { return name_; }
  void visit(StateVisitor& visitor) const { visit_(name_, visitor); }

  /// Whether the tensor called `tensor` belongs to this part.
  bool owns(const std::string& tensor) const {
    return tensor == name_ || tensor.starts_with(name_ + '/');
  }

 private:
  std::string name_;
  std::function<void(const std::string&, StateVisitor&)> visit_;
};

namespace detail {

// Entries of a checkpoint's metadata.
inline constexpr const char* kCheckpointFormat = "kfac.checkpoint";
inline constexpr const char* kCheckpointWriter = "kfac.version";
inline constexpr const char* kCheckpointChecksum = "kfac.crc32";
/// Counts the changes of the format that an older or newer reader would not notice.
inline constexpr const char* kCheckpointVersion = "1";

/// The CRC-32 of all a checkpoint holds, this entry apart, in hexadecimal.
inline std::string checkpoint_checksum(const SafeTensors& file) {
  uLong crc = 0;
  const auto add = [&crc](const void* data, std::size_t bytes) {
    if (bytes > 0) crc = crc32_z(crc, static_cast<const Bytef*>(data), bytes);
  };
  // With the null at its end, so that it matters where one text ends and the next begins.
  const auto add_text = [&add](const std::string& text) { add(text.c_str(), text.size() + 1); };
  for (const auto& [key, value] : file.metadata()) {
    if (key == kCheckpointChecksum) continue;
    add_text(key);
    add_text(value);
  }
  for (const std::string& name : file.names()) {
    add_text(name);
    add_text(element_name(file.element_type(name)));
    add_text(shape_text(file.shape(name)));
    add(file.bytes(name).data(), file.bytes(name).size());
  }
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%08lx", crc);
  return digits.data();
}

/// Such as "'model', 'rng'".
inline std::string quoted_list(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + '\'';
  return text.empty() ? "none" : text;
}

inline void check_part_names(const char* where, const std::vector<CheckpointPart>& parts) {
  std::set<std::string> names;
  for (const CheckpointPart& part : parts) {
    const std::string& name = part.name();
    if (name.empty() || name.find('/') != std::string::npos)
      raise<ValueError>(std::string(where) + ": 'parts' has the name '" + name +
                        "', expected one that is not empty and has no '/'");
    if (!names.insert(name).second)
      raise<ValueError>(std::string(where) + ": 'parts' has the name '" + name +
                        "' twice, expected it once");
  }
}

/// Adds what it visits to the tensors of a file.
class StateWriter final : public StateVisitor {
 public:
  explicit StateWriter(SafeTensors& file) : file_(file) {}

 private:
  bool overwrites() const override { return false; }
  bool present(const std::string&, bool now) override { return now; }
  void integers(const std::string& path, std::int64_t* data, Axes axes) override {
    if (axes.size() == 0)
      file_.add_scalar(path, *data);
    else
      file_.add_integers(path, {data, static_cast<std::size_t>(*axes.begin())});
  }
  void reals(const std::string& path, float* data, Axes axes) override { add(path, data, axes); }
  void reals(const std::string& path, double* data, Axes axes) override { add(path, data, axes); }

  template <RealScalar S>
  void add(const std::string& path, const S* data, Axes axes) {
    if (axes.size() == 0)
      file_.add_scalar(path, *data);
    else if (axes.size() == 1)
      file_.add_vector(path, ConstVectorMap<S>(data, axes.begin()[0]));
    else
      file_.add_matrix(path, ConstMatrixMap<S>(data, axes.begin()[0], axes.begin()[1]));
  }

  SafeTensors& file_;
};

/// Checks that a file has what it visits, of that type and shape, and nothing else.
class StateChecker final : public StateVisitor {
 public:
  StateChecker(const SafeTensors& file, std::string origin)
      : file_(file), origin_(std::move(origin)) {}

  void check(const CheckpointPart& part) {
    part_ = &part;
    part.visit(*this);
    for (const std::string& name : file_.names())
      if (part.owns(name) && !visited_.contains(name))
        fail("has '" + name + "', expected nothing more of '" + part.name() + '\'');
  }

 private:
  bool overwrites() const override { return false; }
  bool present(const std::string& path, bool) override { return file_.contains(path); }
  void integers(const std::string& path, std::int64_t*, Axes axes) override {
    check(path, ElementType::I64, axes);
  }
  void reals(const std::string& path, float*, Axes axes) override {
    check(path, ElementType::F32, axes);
  }
  void reals(const std::string& path, double*, Axes axes) override {
    check(path, ElementType::F64, axes);
  }

  void check(const std::string& path, ElementType type, const std::vector<Index>& shape) {
    const std::string expected = ", expected " + element_name(type) + ' ' + shape_text(shape);
    if (!file_.contains(path)) {
      check_part_is_there();
      fail("has no '" + path + '\'' + expected);
    }
    const ElementType actual = file_.element_type(path);
    if (actual != type || file_.shape(path) != shape)
      fail("has '" + path + "' as " + element_name(actual) + ' ' + shape_text(file_.shape(path)) +
           expected);
    visited_.insert(path);
  }

  void check_part_is_there() const {
    std::set<std::string> parts;
    for (const std::string& name : file_.names()) parts.insert(name.substr(0, name.find('/')));
    if (!parts.contains(part_->name()))
      fail("has the parts " + quoted_list(parts) + ", expected '" + part_->name() + "' among them");
  }

  [[noreturn]] void fail(const std::string& problem) const {
    raise<FileError>("kfac::io::load_checkpoint: '" + origin_ + "' " + problem);
  }

  const SafeTensors& file_;
  std::string origin_;
  const CheckpointPart* part_ = nullptr;
  std::set<std::string> visited_;
};

/// Gives what it visits the state in a file that a StateChecker has found to fit.
class StateReader final : public StateVisitor {
 public:
  explicit StateReader(const SafeTensors& file) : file_(file) {}

 private:
  bool overwrites() const override { return true; }
  bool present(const std::string& path, bool) override { return file_.contains(path); }
  void integers(const std::string& path, std::int64_t* data, Axes axes) override {
    take(path, data, axes);
  }
  void reals(const std::string& path, float* data, Axes axes) override { take(path, data, axes); }
  void reals(const std::string& path, double* data, Axes axes) override { take(path, data, axes); }

  template <class Number>
  void take(const std::string& path, Number* data, Axes axes) {
    const Index rows = axes.size() > 0 ? axes.begin()[0] : 1;
    const Index columns = axes.size() > 1 ? axes.begin()[1] : 1;
    const std::byte* next = file_.bytes(path).data();
    for (Index row = 0; row < rows; ++row)
      for (Index column = 0; column < columns; ++column, next += sizeof(Number))
        std::memcpy(data + column * rows + row, next, sizeof(Number));
  }

  const SafeTensors& file_;
};

/// Marks a file as a checkpoint of the contents it has.
inline void seal_checkpoint(SafeTensors& file) {
  file.set_metadata(kCheckpointFormat, kCheckpointVersion);
  file.set_metadata(kCheckpointWriter, std::to_string(kVersion.major) + '.' +
                                           std::to_string(kVersion.minor) + '.' +
                                           std::to_string(kVersion.patch));
  file.set_metadata(kCheckpointChecksum, checkpoint_checksum(file));
}

/// That the file is a checkpoint of the format this library reads, and as it was written.
inline void check_checkpoint(const SafeTensors& file, const std::string& origin) {
  const auto fail = [&origin](const std::string& problem) {
    raise<FileError>("kfac::io::load_checkpoint: '" + origin + "' " + problem);
  };
  const auto entry = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
      fail("has no '" + std::string(key) + "' in its metadata, expected a checkpoint");
    return found->second;
  };
  const std::string version = entry(kCheckpointFormat);
  if (version != kCheckpointVersion)
    fail("has version " + version + " of the format (written by kfac " + entry(kCheckpointWriter) +
         "), expected version " + kCheckpointVersion);
  const std::string checksum = entry(kCheckpointChecksum);
  const std::string actual = checkpoint_checksum(file);
  if (actual != checksum)
    fail("has contents with the CRC-32 " + actual + ", expected " + checksum +
         ": it was changed after it was written");
}

}  // namespace detail

/// Writes the state of a run, all of it or some, to a safetensors file, in place of any that is
/// there; a failure leaves that one as it was.
///
///     kfac::io::save_checkpoint("run.safetensors",
///                               {{"model", model}, {"optimizer", optimizer}, {"rng", rng}});
///     ...
///     kfac::io::load_checkpoint("run.safetensors",
///                               {{"model", model}, {"optimizer", optimizer}, {"rng", rng}});
///
/// A run whose parts are made again in the same way and then loaded goes on bit for bit as the one
/// that was saved. Options are no state: learning rates and the like are those of the new objects.
///
/// Python's safetensors reads the file: a network's parameters are tensors as of PyTorch under
/// "model/0.weight" and so on, numbers are tensors without axes, integers I64. The metadata has the
/// version of the format (`kfac.checkpoint`), that of the library (`kfac.version`), and a checksum
/// of all there is (`kfac.crc32`).
/// \throws FileError naming the file, if it cannot be written; ValueError if a part's name is
/// empty,
///         has a '/', is not UTF-8 or comes twice
inline void save_checkpoint(const std::filesystem::path& path,
                            const std::vector<CheckpointPart>& parts) {
  detail::check_part_names("kfac::io::save_checkpoint", parts);
  SafeTensors file;
  detail::StateWriter writer(file);
  for (const CheckpointPart& part : parts) part.visit(writer);
  detail::seal_checkpoint(file);
  write_safetensors(path, file);
}

/// Gives the parts the state they have in the file that `save_checkpoint` wrote. Parts of the file
/// that are not asked for are passed over: to evaluate a model, its own part is enough.
/// \throws FileError naming the file, and the tensor where there is one, if the file cannot be
///         read, is truncated or changed, is no checkpoint or one of another version, or if a part
///         is missing in it, lacks a tensor, has one too many, or has one of another type or shape;
///         ValueError if a part's name is empty, has a '/' or comes twice. Nothing is changed then.
inline void load_checkpoint(const std::filesystem::path& path,
                            const std::vector<CheckpointPart>& parts) {
  detail::check_part_names("kfac::io::load_checkpoint", parts);
  const SafeTensors file = read_safetensors(path);
  detail::check_checkpoint(file, path.string());
  detail::StateChecker checker(file, path.string());
  for (const CheckpointPart& part : parts) checker.check(part);
  detail::StateReader reader(file);
  for (const CheckpointPart& part : parts) part.visit(reader);
}

}  // namespace kfac::io
