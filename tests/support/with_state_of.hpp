#pragma once

#include "support/saved_state.hpp"

namespace kfac::test {

/// `to` with the state of `from`, which `visit(object, visitor)` visits, for objects whose
/// `visit_state` wants more than the visitor.
template <class T, class Visit>
T with_state_of(T& from, T to, Visit&& visit) {
  struct Visited {
    T& object;
    Visit& visit;
    void visit_state(StateVisitor& visitor) { visit(object, visitor); }
  };
  Visited source{from, visit};
  Visited target{to, visit};
  SavedState(source).restore(target);
  return to;
}

}  // namespace kfac::test
