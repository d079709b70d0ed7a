#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/io/file_replacement.hpp>
#include <kfac/io/named_tensors.hpp>

/// The safetensors format: named arrays in one file, exchanged with NumPy, PyTorch and others.
/// Needs nlohmann_json.
namespace kfac::io {

namespace detail {

/// Reads one file. Nothing is allocated for its data before the header has been checked against the
/// file's length.
class SafeTensorsReader {
 public:
  explicit SafeTensorsReader(const std::filesystem::path& path) : path_(path.string()) {
    std::error_code error;
    file_bytes_ = std::filesystem::file_size(path, error);
    if (error) fail("cannot be opened: " + error.message());
    stream_.open(path, std::ios::binary);
    if (!stream_) fail("cannot be opened");
  }

  SafeTensors read() {
    const nlohmann::json header = read_header();
    SafeTensors result;
    result.origin_ = path_;
    std::vector<Entry> entries;
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__")
        result.metadata_ = metadata(value);
      else
        entries.push_back(entry(name, value));
    }
    check_layout(entries);
    for (Entry& entry : entries) {
      entry.tensor.bytes.resize(entry.end - entry.begin);
      read_bytes(entry.tensor.bytes.data(), entry.tensor.bytes.size());
      result.tensors_.emplace(std::move(entry.name), std::move(entry.tensor));
    }
    return result;
  }

 private:
  struct Entry {
    std::string name;
    SafeTensors::Tensor tensor;
    std::uint64_t begin, end;  // within the data, which follows the header
  };

  [[noreturn]] void fail(const std::string& problem) const {
    raise<FileError>("kfac::io::read_safetensors: '" + path_ + "' " + problem);
  }

  [[noreturn]] void fail(const std::string& name, const std::string& problem) const {
    fail("has tensor '" + name + "' with " + problem);
  }

  void read_bytes(void* destination, std::size_t count) {
    stream_.read(static_cast<char*>(destination), static_cast<std::streamsize>(count));
    if (!stream_) fail("cannot be read to its end");
  }

  nlohmann::json read_header() {
    constexpr std::uint64_t kLengthBytes = 8;
    constexpr std::uint64_t kLongest = 100'000'000;  // as in the reference implementation
    if (file_bytes_ < kLengthBytes)
      fail("has " + std::to_string(file_bytes_) + " bytes, expected at least 8");
    std::uint64_t length = 0;
    read_bytes(&length, sizeof length);
    const std::uint64_t longest = std::min(kLongest, file_bytes_ - kLengthBytes);
    if (length > longest)
      fail("announces a header of " + std::to_string(length) + " bytes, expected at most " +
           std::to_string(longest));
    data_bytes_ = file_bytes_ - kLengthBytes - length;

    std::string text(length, '\0');
    read_bytes(text.data(), text.size());
    // JSON would silently keep the last of two values under one key. What lies deeper than any part
    // of a proper header is dropped, lest a hostile one exhaust the stack later.
    constexpr std::size_t kDeepest = 8;
    std::array<std::set<std::string>, kDeepest> keys;  // of the object open at each depth
    std::optional<std::string> duplicate;
    using nlohmann::json;
    const json::parser_callback_t inspect = [&](int signed_depth, json::parse_event_t event,
                                                json& parsed) {
      const auto depth = static_cast<std::size_t>(signed_depth);
      if (depth >= kDeepest) return false;
      if (event == json::parse_event_t::object_start) keys[depth].clear();
      if (event == json::parse_event_t::key) {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys[depth - 1].insert(key).second) duplicate = key;
      }
      return true;
    };
    json header = json::parse(text, inspect, false);
    // The parser would take a null for the end of the text.
    if (!header.is_object() || text.find('\0') != std::string::npos)
      fail("has a header that is not a JSON object (" + std::to_string(length) +
           " bytes), expected tensors by name");
    if (duplicate) fail("has the key '" + *duplicate + "' twice in its header, expected it once");
    return header;
  }

  std::map<std::string, std::string> metadata(const nlohmann::json& value) const {
    std::map<std::string, std::string> result;
    if (!value.is_object())
      fail("has '__metadata__' " + json_text(value) + ", expected an object of strings");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string())
        fail("has '__metadata__' with " + json_text(text) + " at '" + key + "', expected a string");
      result.emplace(key, text.get_ref<const std::string&>());
    }
    return result;
  }

  /// One tensor as the header describes it, its bytes still to be read.
  Entry entry(const std::string& name, const nlohmann::json& value) const {
    if (!value.is_object())
      fail(name, "header " + json_text(value) +
                     ", expected an object with 'dtype', 'shape' and 'data_offsets'");
    const auto field = [&](const char* key) -> const nlohmann::json& {
      const auto found = value.find(key);
      if (found == value.end()) fail(name, "no '" + std::string(key) + "', expected one");
      return *found;
    };
    const auto is_size = [](const nlohmann::json& number) {
      return number.is_number_unsigned() && std::in_range<Index>(number.get<std::uint64_t>());
    };

    const nlohmann::json& dtype = field("dtype");
    const auto known =
        std::find_if(kElementTypes.begin(), kElementTypes.end(), [&](const ElementTypeInfo& info) {
          return dtype.is_string() && dtype.get_ref<const std::string&>() == info.name;
        });
    if (known == kElementTypes.end()) {
      std::string expected;
      for (const ElementTypeInfo& info : kElementTypes)
        expected += (expected.empty() ? "" : ", ") + std::string(info.name);
      fail(name, "dtype " + json_text(dtype) + ", expected one of " + expected);
    }

    const nlohmann::json& shape = field("shape");
    const nlohmann::json& offsets = field("data_offsets");
    if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_size))
      fail(name, "shape " + json_text(shape) + ", expected a list of integers of at least 0");
    const bool two_sizes = offsets.is_array() && offsets.size() == 2 &&
                           std::all_of(offsets.begin(), offsets.end(), is_size);
    const std::uint64_t begin = two_sizes ? offsets[0].get<std::uint64_t>() : 1;
    const std::uint64_t end = two_sizes ? offsets[1].get<std::uint64_t>() : 0;
    if (begin > end) fail(name, "data_offsets " + json_text(offsets) + ", expected [begin, end]");

    const auto type = static_cast<ElementType>(known - kElementTypes.begin());
    Entry result{name, {type, shape.get<std::vector<Index>>(), {}}, begin, end};
    const std::optional<std::size_t> count = element_count(result.tensor.shape, known->bytes);
    if (!count)
      fail(name, "shape " + json_text(shape) + ", expected at most " +
                     std::to_string(std::numeric_limits<Index>::max()) + " bytes");
    if (end - begin != *count * known->bytes)
      fail(name, "data_offsets " + json_text(offsets) + ", expected " +
                     std::to_string(*count * known->bytes) + " bytes for shape " +
                     json_text(shape) + " of " + std::string(known->name));
    return result;
  }

  /// Sorts by position; the tensors must cover the data without gap or overlap.
  void check_layout(std::vector<Entry>& entries) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& left, const Entry& right) {
      return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
    });
    std::uint64_t covered = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != covered)
        fail(entry.name, "data from byte " + std::to_string(entry.begin) + ", expected from " +
                             std::to_string(covered) + ", where the one before ends");
      covered = entry.end;
    }
    if (covered != data_bytes_)
      fail("has " + std::to_string(data_bytes_) + " bytes of data, expected " +
           std::to_string(covered) + " for the tensors in its header");
  }

  std::string path_;
  std::ifstream stream_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t data_bytes_ = 0;
};

}  // namespace detail

/// Reads a whole safetensors file into memory.
///
/// Element types are BOOL, U8, I8, U16, I16, U32, I32, I64, F16, BF16, F32 and F64.
/// \throws FileError  naming the file, and the tensor where there is one, if the file cannot be
///         read, its header is not what the format asks for, an element type is another, a name
///         comes twice, or the tensors do not cover the data exactly.
inline SafeTensors read_safetensors(const std::filesystem::path& path) {
  return detail::SafeTensorsReader(path).read();
}

/// Writes a safetensors file, in place of any that is there. The same tensors give the same bytes.
///
/// The file is written beside `path` under the same name with `.partial` appended, and renamed when
/// it is complete and on the disk: a failure, or a crash of the machine, leaves an earlier file as
/// it was.
/// \throws FileError  naming the file, if it cannot be written.
inline void write_safetensors(const std::filesystem::path& path, const SafeTensors& tensors) {
  // Larger elements first keep every tensor aligned to its elements for readers that map the file.
  using Tensor = SafeTensors::Tensor;
  std::vector<std::pair<std::string_view, const Tensor*>> order;
  for (const auto& [name, tensor] : tensors.tensors_) order.emplace_back(name, &tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto& left, const auto& right) {
    return detail::element_bytes(left.second->type) > detail::element_bytes(right.second->type);
  });

  nlohmann::json header = nlohmann::json::object();
  if (!tensors.metadata_.empty()) header["__metadata__"] = tensors.metadata_;
  std::size_t offset = 0;
  for (const auto& [name, tensor] : order) {
    const std::size_t end = offset + tensor->bytes.size();
    header[std::string(name)] = {{"dtype", detail::element_name(tensor->type)},
                                 {"shape", tensor->shape},
                                 {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();

  detail::FileReplacement file(path, "kfac::io::write_safetensors");
  file.write(&length, sizeof length);
  file.write(text.data(), text.size());
  for (const auto& [name, tensor] : order) file.write(tensor->bytes.data(), tensor->bytes.size());
  file.commit();
}

}  // namespace kfac::io
