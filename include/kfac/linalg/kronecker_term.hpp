#pragma once

#include <span>
#include <string>

#include <kfac/core/errors.hpp>

namespace kfac::linalg {

/// A (x) G as its two square factors: one of the terms of a sum of Kronecker products. On matrices
/// of `outputs x inputs`, (A (x) G) vec V = vec(G V A^T).
template <RealScalar S>
struct KroneckerTerm {
  Matrix<S> a;  ///< A, `inputs x inputs`
  Matrix<S> g;  ///< G, `outputs x outputs`

  Index inputs() const { return a.rows(); }
  Index outputs() const { return g.rows(); }
};

namespace detail {

/// Raises a ShapeError unless there is a term and all have square factors of the same sizes, a
/// ValueError unless they are finite.
template <RealScalar S>
void check_terms(const char* where, std::span<const KroneckerTerm<S>> terms) {
  if (terms.empty())
    raise<ShapeError>(std::string(where) + ": 'terms' is empty, expected at least one");
  const Index inputs = terms[0].inputs();
  const Index outputs = terms[0].outputs();
  if (inputs == 0 || outputs == 0)
    raise<ShapeError>(std::string(where) + ": 'terms' have an empty factor, expected at least 1x1");
  for (const KroneckerTerm<S>& term : terms) {
    kfac::detail::check_shape(where, "terms.a", term.a.rows(), term.a.cols(), inputs, inputs);
    kfac::detail::check_shape(where, "terms.g", term.g.rows(), term.g.cols(), outputs, outputs);
    kfac::detail::check_finite(where, "terms.a", term.a);
    kfac::detail::check_finite(where, "terms.g", term.g);
  }
}

}  // namespace detail
}  // namespace kfac::linalg
