#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <system_error>
#include <utility>

#if __has_include(<unistd.h>)
#include <fcntl.h>
#include <unistd.h>
#endif

#include <kfac/core/errors.hpp>

namespace kfac::io::detail {

/// Waits until a file's contents, or a folder's entries, are on the disk, where POSIX offers it.
inline std::error_code synchronise([[maybe_unused]] const std::filesystem::path& path) {
  std::error_code error;
#if defined(_POSIX_FSYNC)
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 || ::fsync(descriptor) != 0) error.assign(errno, std::generic_category());
  if (descriptor >= 0) ::close(descriptor);
#endif
  return error;
}

/// Writes a file that takes the place of any that is there when it is complete, and not before:
/// until then it is beside it, under the same name with `.partial` appended. Whatever fails, a
/// crash of the machine included, an earlier file stays as it was.
class FileReplacement {
 public:
  /// `where` names the function in the messages of errors.
  FileReplacement(std::filesystem::path path, const char* where)
      : path_(std::move(path)), partial_(path_), where_(where) {
    partial_ += ".partial";
    stream_.open(partial_, std::ios::binary | std::ios::trunc);
    if (!stream_) fail("cannot be written: '" + partial_.string() + "' cannot be opened");
  }
  ~FileReplacement() {
    if (committed_) return;
    stream_.close();
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
  }
  FileReplacement(const FileReplacement&) = delete;
  FileReplacement& operator=(const FileReplacement&) = delete;

  /// Failures are told by `commit`.
  void write(const void* data, std::size_t bytes) {
    stream_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  }

  /// \throws FileError if anything could not be written, or put into place
  void commit() {
    stream_.close();
    if (!stream_) fail("cannot be written to its end");
    std::error_code error = synchronise(partial_);
    if (error) fail("cannot be written to its end: " + error.message());
    std::filesystem::rename(partial_, path_, error);
    if (error) fail("cannot be written: " + error.message());
    committed_ = true;
    // From here on it is there; not every file system lets its folders be waited for.
    const std::filesystem::path folder = path_.parent_path();
    static_cast<void>(synchronise(folder.empty() ? "." : folder));
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    raise<FileError>(std::string(where_) + ": '" + path_.string() + "' " + problem);
  }

  std::filesystem::path path_, partial_;
  const char* where_;
  std::ofstream stream_;
  bool committed_ = false;
};

}  // namespace kfac::io::detail
