#pragma once

#include <limits>
#include <stdexcept>
#include <string>

#include <kfac/core/types.hpp>

namespace golden {

using Matrix = kfac::Matrix<double>;

/// What the library does not have, as opposed to what it gets wrong.
struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr double kTolerance = 1e-10;
constexpr double kInverseTolerance = 1e-7;  // of inverses and eigenbases

/// The worst comparison so far.
class Comparison {
 public:
  void check(const std::string& array, const Matrix& actual, const Matrix& expected) {
    if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
      record(array + " (shape)", std::numeric_limits<double>::infinity(), kTolerance);
      return;
    }
    const double largest = expected.size() ? expected.cwiseAbs().maxCoeff() : 0;
    double error = actual.size() ? (actual - expected).cwiseAbs().maxCoeff() : 0;
    if (largest > 0) error /= largest;
    if (!actual.allFinite()) error = std::numeric_limits<double>::infinity();
    const bool inverse =
        array.find(".precond.") != std::string::npos || array.find(".ekfac.") != std::string::npos;
    record(array, error, inverse ? kInverseTolerance : kTolerance);
  }

  bool passed() const { return worst_ratio_ <= 1 && count_ > 0; }
  double worst_error() const { return worst_error_; }
  const std::string& worst_array() const { return worst_array_; }
  int count() const { return count_; }

 private:
  void record(const std::string& array, double error, double tolerance) {
    ++count_;
    if (error / tolerance < worst_ratio_) return;
    worst_ratio_ = error / tolerance;
    worst_error_ = error;
    worst_array_ = array;
  }

  double worst_ratio_ = 0;
  double worst_error_ = 0;
  std::string worst_array_;
  int count_ = 0;
};

}  // namespace golden
