#pragma once

#include <kfac/nn/recurrent.hpp>

namespace kfac {

/// Gates r, z = sigmoid of p + q, n = tanh(p_n + r q_n); h' = (1 - z) n + z h. Kept are the gates
/// and q_n.
struct GruCell {
  static constexpr std::size_t kGates = 3;
  static constexpr std::size_t kStates = 1;  ///< h
  static constexpr std::size_t kKept = 4;
  static constexpr bool kStateBias = true;  ///< since q_n is gated
  static const char* kind() { return "GRU"; }

  template <RealScalar S>
  static void forward(const CellColumns<S>& at) {
    for (const Index sigmoid : {0, 1})
      at.keep(sigmoid) = (at.input(sigmoid) + at.keep(sigmoid)).logistic();
    at.keep(3) = at.keep(2);
    at.keep(2) = (at.input(2) + at.keep(0) * at.keep(3)).tanh();
    at.after(0) = at.keep(2) + at.keep(1) * (at.before(0) - at.keep(2));
  }

  template <RealScalar S>
  static void tangent(const Units<S, kKept>& kept, const Units<S, kStates>& before,
                      const Units<S, kGates>& p, const Units<S, kGates>& q,
                      const Units<S, kStates>& before_tangent, Units<S, kKept>& kept_tangent,
                      Units<S, kStates>& after) {
    const auto [r, z, n, q_n] = kept;
    kept_tangent[0] = r * (S(1) - r) * (p[0] + q[0]);
    kept_tangent[1] = z * (S(1) - z) * (p[1] + q[1]);
    kept_tangent[2] = (S(1) - n * n) * (p[2] + kept_tangent[0] * q_n + r * q[2]);
    kept_tangent[3] = q[2];
    after[0] =
        kept_tangent[1] * (before[0] - n) + z * before_tangent[0] + (S(1) - z) * kept_tangent[2];
  }

  template <class N>
  static void backward(const Units<N, kKept>& kept, const Units<N, kStates>& before,
                       Units<N, kStates>& state, Units<N, kGates>& p, Units<N, kGates>& q) {
    const auto [r, z, n, q_n] = kept;
    const N unit = one<N>();
    p[2] = state[0] * (unit - z) * (unit - n * n);
    p[1] = state[0] * (before[0] - n) * z * (unit - z);
    p[0] = p[2] * q_n * r * (unit - r);
    q[0] = p[0];
    q[1] = p[1];
    q[2] = p[2] * r;
    state[0] = state[0] * z;
  }
};

/// The gated recurrent unit as torch.nn.GRU has it: the reset gate multiplies the product with the
/// state, n = tanh(W_in x + b_in + r (W_hn h + b_hn)), and h_t = (1 - z) n + z h_{t-1}; gates are
/// stacked in the order r, z, n.
/// \source Cho et al. 2014, arXiv 1406.1078, where the reset gate multiplies the state itself
template <RealScalar S>
using GRU = Recurrent<S, GruCell>;

}  // namespace kfac
