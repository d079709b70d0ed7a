#pragma once

#include <kfac/nn/recurrent.hpp>

namespace kfac {

/// h' = tanh(p + q), where p comes from the input and q from the state.
struct TanhCell {
  static constexpr std::size_t kGates = 1;   ///< rows of units in p and q
  static constexpr std::size_t kStates = 1;  ///< h
  static constexpr std::size_t kKept = 1;    ///< h', for the passes after `forward`
  static constexpr bool kStateBias = false;  ///< whether q has a bias of its own
  static const char* kind() { return "RNN"; }

  template <RealScalar S>
  static void forward(const CellColumns<S>& at) {
    at.keep(0) = (at.input(0) + at.keep(0)).tanh();
    at.after(0) = at.keep(0);
  }

  /// The tangents of what is kept and of the states, of those of p, q and the states before.
  template <RealScalar S>
  static void tangent(const Units<S, kKept>& kept, const Units<S, kStates>&,
                      const Units<S, kGates>& p, const Units<S, kGates>& q,
                      const Units<S, kStates>&, Units<S, kKept>& kept_tangent,
                      Units<S, kStates>& after) {
    kept_tangent[0] = after[0] = (S(1) - kept[0] * kept[0]) * (p[0] + q[0]);
  }

  /// The gradients of p and q of that of the states, which becomes that of the states before, but
  /// for what goes through q.
  template <class N>
  static void backward(const Units<N, kKept>& kept, const Units<N, kStates>&,
                       Units<N, kStates>& state, Units<N, kGates>& p, Units<N, kGates>& q) {
    p[0] = q[0] = state[0] * (one<N>() - kept[0] * kept[0]);
    state[0] = zero<N>();
  }
};

/// Elman's recurrent network, h_t = tanh(W_ih x_t + b + W_hh h_{t-1}), as torch.nn.RNN.
/// \source Elman, Finding structure in time, Cognitive Science 14, 1990
template <RealScalar S>
using RNN = Recurrent<S, TanhCell>;

}  // namespace kfac
