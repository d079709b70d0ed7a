#pragma once

#include <fstream>
#include <string>
#include <vector>

namespace examples {

/// A file of comma-separated values.
class CsvFile {
 public:
  /// \throws kfac::FileError if the file cannot be written
  explicit CsvFile(const std::string& path);

  void write_row(const std::vector<std::string>& cells);
  /// \throws kfac::FileError if anything could not be written
  void close();

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace examples
