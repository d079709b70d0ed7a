#include "support/table.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <sstream>

namespace examples {

namespace {

constexpr std::size_t kBetweenColumns = 2;
constexpr std::size_t kBetweenGroups = 4;

std::string formatted(double value, int digits, bool is_fixed) {
  if (std::isnan(value)) return "";
  std::ostringstream text;
  if (is_fixed) text << std::fixed;
  text << std::setprecision(digits) << value;
  return text.str();
}

}  // namespace

void Table::add_columns(const std::string& heading, const std::vector<std::string>& names) {
  groups_.push_back({heading, names.size()});
  rows_.front().insert(rows_.front().end(), names.begin(), names.end());
}

void Table::add_row(const std::vector<std::string>& cells) {
  rows_.push_back(cells);
}

std::size_t Table::width(std::size_t column) const {
  std::size_t widest = 0;
  for (const auto& row : rows_) widest = std::max(widest, row[column].size());
  return widest;
}

std::ostream& operator<<(std::ostream& out, const Table& table) {
  const auto cell = [&out](const std::string& text, std::size_t width) {
    out << std::setw(static_cast<int>(width)) << text;
  };

  const bool has_headings = std::any_of(table.groups_.begin(), table.groups_.end(),
                                        [](const auto& group) { return !group.heading.empty(); });
  if (has_headings) {
    std::size_t column = 0;
    for (const auto& group : table.groups_) {
      std::size_t width = kBetweenColumns * (group.columns - 1);
      for (std::size_t i = 0; i < group.columns; ++i) width += table.width(column++);
      cell("", kBetweenGroups);
      cell(group.heading, width);
    }
    out << '\n';
  }
  for (const auto& row : table.rows_) {
    std::size_t column = 0;
    for (const auto& group : table.groups_)
      for (std::size_t i = 0; i < group.columns; ++i, ++column) {
        cell("", i == 0 ? kBetweenGroups : kBetweenColumns);
        cell(row[column], table.width(column));
      }
    out << '\n';
  }
  return out;
}

std::string fixed(double value, int digits) {
  constexpr double kHuge = 1e5;
  return formatted(value, digits, std::abs(value) < kHuge);
}
std::string significant(double value, int digits) {
  return formatted(value, digits, false);
}

}  // namespace examples
