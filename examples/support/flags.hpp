#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <kfac/core/types.hpp>

namespace examples {

/// Command-line flags and their `--help`. The variables given to `add` hold the defaults and are
/// written by `parse`. (A wall in front of the CLI library, which is slow to compile.)
class Flags {
 public:
  explicit Flags(const std::string& description);
  Flags(const Flags&) = delete;
  Flags& operator=(const Flags&) = delete;
  ~Flags();

  /// A whole number of at least `least`.
  void add(const std::string& name, kfac::Index& value, const std::string& help,
           kfac::Index least = 1);
  void add(const std::string& name, std::uint64_t& value, const std::string& help);
  void add(const std::string& name, float& value, const std::string& help);
  void add(const std::string& name, std::optional<float>& value, const std::string& help);
  /// Numbers above 0, separated by commas: at least one.
  void add(const std::string& name, std::vector<double>& values, const std::string& help);
  void add(const std::string& name, std::string& value, const std::string& help);
  /// One of `choices`.
  void add(const std::string& name, std::string& value, const std::string& help,
           const std::vector<std::string>& choices);

  /// Returns the exit code if the program is to end: after `--help`, or a mistake that it printed.
  std::optional<int> parse(int argc, char** argv);

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

/// The value that the command line gives a flag, for defaults of others that depend on it.
std::optional<std::string> peek(int argc, char** argv, const std::string& name);

}  // namespace examples
