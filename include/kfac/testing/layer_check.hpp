#pragma once

#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace kfac::testing {

/// What `check_layer` measured: relative errors, infinite where something is not finite. In double
/// a correct layer has all of them below 1e-7, the error of central differences.
struct LayerCheck {
  double input_gradient = 0;      ///< backward's, against central differences
  double parameter_gradient = 0;  ///< likewise
  double input_tangent = 0;       ///< along a random direction, against central differences
  double parameter_tangent = 0;   ///< likewise
  double adjointness = 0;         ///< between u . (J v) by tangent and (J^T u) . v by backward
  double null_requests = 0;       ///< of results while others are not asked for, or tangents zero
  double repeatability = 0;       ///< between forward passes with new and with used scratch
  double memory_use = 0;  ///< of results where memory is shared as `memory_use()` says it may be
  std::optional<double> kronecker;  ///< of the gradient as rebuilt from the announcements, if any
  std::optional<double> backward_tangent;  ///< against central differences of backward, if any

  bool passes(double tolerance) const {
    return std::ranges::all_of(fields(),
                               [&](const Field& field) { return field.error <= tolerance; });
  }

  /// One line per error.
  std::string report() const {
    std::ostringstream text;
    for (const Field& field : fields()) text << field.name << ": " << field.error << '\n';
    if (!kronecker) text << "kronecker: nothing is announced\n";
    if (!backward_tangent) text << "backward tangent: there is none\n";
    return text.str();
  }

 private:
  struct Field {
    const char* name;
    double error;
  };
  std::vector<Field> fields() const {
    std::vector<Field> result{
        {"input gradient", input_gradient}, {"parameter gradient", parameter_gradient},
        {"input tangent", input_tangent},   {"parameter tangent", parameter_tangent},
        {"adjointness", adjointness},       {"null requests", null_requests},
        {"repeatability", repeatability},   {"memory use", memory_use}};
    if (kronecker) result.push_back({"kronecker", *kronecker});
    if (backward_tangent) result.push_back({"backward tangent", *backward_tangent});
    return result;
  }
};

}  // namespace kfac::testing
