#pragma once

#include <kfac/nn/recurrent.hpp>

namespace kfac {

/// Gates i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of p + q; c' = f c + i g, h' = o tanh(c').
/// Kept are the gates and tanh(c').
struct LstmCell {
  static constexpr std::size_t kGates = 4;
  static constexpr std::size_t kStates = 2;  ///< h, c
  static constexpr std::size_t kKept = 5;
  static constexpr bool kStateBias = false;
  static const char* kind() { return "LSTM"; }

  template <RealScalar S>
  static void forward(const CellColumns<S>& at) {
    for (const Index sigmoid : {0, 1, 3})
      at.keep(sigmoid) = (at.input(sigmoid) + at.keep(sigmoid)).logistic();
    at.keep(2) = (at.input(2) + at.keep(2)).tanh();
    at.after(1) = at.keep(1) * at.before(1) + at.keep(0) * at.keep(2);
    at.keep(4) = at.after(1).tanh();
    at.after(0) = at.keep(3) * at.keep(4);
  }

  template <RealScalar S>
  static void tangent(const Units<S, kKept>& kept, const Units<S, kStates>& before,
                      const Units<S, kGates>& p, const Units<S, kGates>& q,
                      const Units<S, kStates>& before_tangent, Units<S, kKept>& kept_tangent,
                      Units<S, kStates>& after) {
    const auto [i, f, g, o, tanh_c] = kept;
    kept_tangent[0] = i * (S(1) - i) * (p[0] + q[0]);
    kept_tangent[1] = f * (S(1) - f) * (p[1] + q[1]);
    kept_tangent[2] = (S(1) - g * g) * (p[2] + q[2]);
    kept_tangent[3] = o * (S(1) - o) * (p[3] + q[3]);
    after[1] = kept_tangent[1] * before[1] + f * before_tangent[1] + kept_tangent[0] * g +
               i * kept_tangent[2];
    kept_tangent[4] = (S(1) - tanh_c * tanh_c) * after[1];
    after[0] = kept_tangent[3] * tanh_c + o * kept_tangent[4];
  }

  template <class N>
  static void backward(const Units<N, kKept>& kept, const Units<N, kStates>& before,
                       Units<N, kStates>& state, Units<N, kGates>& p, Units<N, kGates>& q) {
    const auto [i, f, g, o, tanh_c] = kept;
    const N unit = one<N>();
    const N c = state[1] + state[0] * o * (unit - tanh_c * tanh_c);
    q[0] = c * g * i * (unit - i);
    q[1] = c * before[1] * f * (unit - f);
    q[2] = c * i * (unit - g * g);
    q[3] = state[0] * tanh_c * o * (unit - o);
    p = q;
    state[0] = zero<N>();
    state[1] = c * f;
  }
};

/// Long short-term memory with a forget gate, as torch.nn.LSTM, whose gates are stacked in the
/// order i, f, g, o: c_t = f c_{t-1} + i g, h_t = o tanh(c_t).
/// \source Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers, Schmidhuber and Cummins,
///         Learning to forget, 2000
template <RealScalar S>
using LSTM = Recurrent<S, LstmCell>;

}  // namespace kfac
