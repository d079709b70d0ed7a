#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <vector>

namespace examples {

/// A table of text with right-aligned columns, some of which share a heading.
class Table {
 public:
  /// Further columns on the right, under one heading (which may be empty).
  void add_columns(const std::string& heading, const std::vector<std::string>& names);
  /// \pre as many cells as columns
  void add_row(const std::vector<std::string>& cells);

  friend std::ostream& operator<<(std::ostream& out, const Table& table);

 private:
  struct Group {
    std::string heading;
    std::size_t columns;
  };
  std::size_t width(std::size_t column) const;

  std::vector<Group> groups_;
  std::vector<std::vector<std::string>> rows_{1};  ///< the first holds the columns' names
};

/// With `digits` after the point, unless it is huge; the empty string for NaN.
std::string fixed(double value, int digits);
/// With `digits` significant digits, in scientific notation where that is shorter.
std::string significant(double value, int digits);

}  // namespace examples
