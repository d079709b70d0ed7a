#include "support/csv.hpp"

#include <cstddef>

#include <kfac/core/errors.hpp>

namespace examples {

CsvFile::CsvFile(const std::string& path) : path_(path), file_(path) {
  if (!file_) kfac::raise<kfac::FileError>("'" + path_ + "' cannot be opened for writing");
}

void CsvFile::write_row(const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) file_ << (i == 0 ? "" : ",") << cells[i];
  file_ << '\n';
}

void CsvFile::close() {
  file_.close();
  if (!file_) kfac::raise<kfac::FileError>("'" + path_ + "' could not be written to the end");
}

}  // namespace examples
