#pragma once

#include <array>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

#if !defined(__cpp_exceptions)
#include <cstdlib>
#endif

#include <kfac/core/types.hpp>

/// Exceptions are for callers' mistakes, checked in every build type. A message reads
/// `kfac::Linear::forward: 'input' has 3 features, expected 2 (layer '0')`: function, argument in
/// quotes, what came, what was expected, which object. Numbers that go wrong inside a step are a
/// status in its report instead (`StepStatus`). `docs/errors.md` lists every one.
namespace kfac {

/// A matrix, vector or batch has the wrong size, or is empty.
class ShapeError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// An argument's numbers are unusable: not finite, or a label out of range.
class ValueError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A field of an options aggregate is outside its documented range.
class OptionError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// Calls came in the wrong order, such as a step before any backward pass.
class StateError : public std::logic_error {
  using std::logic_error::logic_error;
};

/// A factor is singular and no damping was asked for.
class SingularError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What was asked for would take more memory than the caller allowed.
class MemoryError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A file is missing, truncated or not of the format it should be.
class FileError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws `Error(message)`; without exceptions prints the message and aborts.
template <class Error>
[[noreturn]] void raise(const std::string& message) {
#if defined(__cpp_exceptions)
  throw Error(message);
#else
  std::fputs((message + '\n').c_str(), stderr);
  std::abort();
#endif
}

namespace detail {

/// A number as messages show it: "0.5", "-1e-09", "nan".
template <class Value>
std::string text(Value value) {
  if constexpr (std::is_integral_v<Value>) {
    return std::to_string(value);
  } else {
    std::array<char, 32> digits{};
    std::snprintf(digits.data(), digits.size(), "%g", static_cast<double>(value));
    return digits.data();
  }
}

/// Raises an OptionError unless `ok`: `where: 'field' is value, expected range`.
template <class Value>
void check_option(bool ok, const char* where, const char* field, Value value,
                  const char* expected) {
  if (ok) return;
  raise<OptionError>(std::string(where) + ": '" + field + "' is " + text(value) + ", expected " +
                     expected);
}

/// Raises a ShapeError unless the sizes agree.
inline void check_size(const char* where, const char* argument, Index actual, Index expected,
                       const char* meaning) {
  if (actual == expected) return;
  raise<ShapeError>(std::string(where) + ": '" + argument + "' has " + std::to_string(actual) +
                    ' ' + meaning + ", expected " + std::to_string(expected));
}

inline void check_shape(const char* where, const char* argument, Index rows, Index columns,
                        Index expected_rows, Index expected_columns) {
  if (rows == expected_rows && columns == expected_columns) return;
  raise<ShapeError>(std::string(where) + ": '" + argument + "' is " + std::to_string(rows) + 'x' +
                    std::to_string(columns) + ", expected " + std::to_string(expected_rows) + 'x' +
                    std::to_string(expected_columns));
}

/// Raises a ValueError naming the first entry of `values` that is NaN or infinite.
template <class Derived>
void check_finite(const char* where, const char* argument,
                  const Eigen::MatrixBase<Derived>& values) {
  if (values.allFinite()) return;
  for (Index column = 0; column < values.cols(); ++column)
    for (Index row = 0; row < values.rows(); ++row) {
      const auto value = values(row, column);
      if (std::isfinite(value)) continue;
      raise<ValueError>(std::string(where) + ": '" + argument + "' is " + text(value) + " at (" +
                        std::to_string(row) + ", " + std::to_string(column) +
                        "), expected finite numbers");
    }
}

/// Runs `body`; a ShapeError or ValueError from within is raised again, naming `layer`.
template <class Body>
decltype(auto) naming_layer(const std::string& layer, Body&& body) {
#if defined(__cpp_exceptions)
  try {
    return body();
  } catch (const ShapeError& error) {
    throw ShapeError(error.what() + (" (layer '" + layer + "')"));
  } catch (const ValueError& error) {
    throw ValueError(error.what() + (" (layer '" + layer + "')"));
  }
#else
  static_cast<void>(layer);
  return body();
#endif
}

}  // namespace detail
}  // namespace kfac
