#include "support/tabular.hpp"

#include <charconv>
#include <cmath>
#include <fstream>
#include <vector>

namespace examples {

using kfac::Index;

namespace {

/// Appends a line's numbers. False if it has anything else.
bool append_numbers(const std::string& line, std::vector<double>& numbers) {
  const char* next = line.data();
  const char* const end = line.data() + line.size();
  while (true) {
    double number = 0;
    const auto [after, error] = std::from_chars(next, end, number);
    if (error != std::errc{}) return false;
    numbers.push_back(number);
    if (after == end) return true;
    if (*after != ',') return false;
    next = after + 1;
  }
}

}  // namespace

Eigen::MatrixXd read_numbers(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!file || !std::getline(file, line))
    kfac::raise<kfac::FileError>("'" + path + "' cannot be read");
  std::vector<double> numbers;
  std::size_t columns = 0;
  Index rows = 0;
  while (std::getline(file, line)) {
    const std::size_t before = numbers.size();
    const bool read = append_numbers(line, numbers);
    if (rows == 0) columns = numbers.size();
    if (!read || numbers.size() - before != columns)
      kfac::raise<kfac::FileError>("'" + path + "' has on line " + std::to_string(rows + 2) +
                                   " something else than " + std::to_string(columns) + " numbers");
    ++rows;
  }
  return Eigen::Map<const Eigen::MatrixXd>(numbers.data(), static_cast<Index>(columns), rows);
}

kfac::Dataset<double, kfac::Matrix<double>> diabetes() {
  Eigen::MatrixXd numbers = read_numbers(KFAC_EXAMPLES_DATA "/diabetes.csv");
  for (auto row : numbers.rowwise()) {
    row.array() -= row.mean();
    row /= std::sqrt(row.squaredNorm() / static_cast<double>(row.size()));
  }
  const Index inputs = numbers.rows() - 1;
  return {numbers.topRows(inputs), numbers.bottomRows(1)};
}

kfac::Dataset<double> digits() {
  constexpr double kWhite = 16;
  const Eigen::MatrixXd numbers = read_numbers(KFAC_EXAMPLES_DATA "/digits.csv");
  const Index pixels = numbers.rows() - 1;
  return {numbers.topRows(pixels) / kWhite, numbers.row(pixels).transpose().cast<int>()};
}

}  // namespace examples
