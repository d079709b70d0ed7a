#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <kfac/nn/gru.hpp>
#include <kfac/nn/lstm.hpp>
#include <kfac/nn/rnn.hpp>

#include "nn/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::recurrent_test {

using Column = Eigen::ArrayXd;

/// The states after each step, one in each column, by the textbook's formulas.
template <class Layer>
struct Reference {
  Layer& layer;
  Matrix<double> w, u;  // of the input, of the state; the last columns are biases

  explicit Reference(Layer& layer_)
      : layer(layer_),
        w(layer.input_map().augmented_weight()),
        u(layer.states().augmented_weight()) {}

  Column from_input(const Matrix<double>& x, Index t) const {
    Vector<double> result = w.leftCols(x.rows()) * x.col(t);
    if (w.cols() > x.rows()) result += w.col(x.rows());
    return result.array();
  }
  Column from_state(const Column& h) const {
    Vector<double> result = u.leftCols(h.size()) * h.matrix();
    if (u.cols() > h.size()) result += u.col(h.size());
    return result.array();
  }
  static Column sigmoid(const Column& x) { return 1 / (1 + (-x).exp()); }

  Matrix<double> run(const Matrix<double>& x) const {
    const Index m = layer.hidden();
    Matrix<double> states(m, x.cols());
    Column h = Column::Zero(m), c = Column::Zero(m);
    const std::string kind = Layer::kind();
    for (Index t = 0; t < x.cols(); ++t) {
      const Column p = from_input(x, t), q = from_state(h);
      const auto part = [&](const Column& values, Index k) -> Column {
        return values.segment(k * m, m);
      };
      if (kind == "RNN") {
        h = (p + q).tanh();
      } else if (kind == "LSTM") {
        const Column i = sigmoid(part(p + q, 0)), f = sigmoid(part(p + q, 1));
        const Column g = part(p + q, 2).tanh(), o = sigmoid(part(p + q, 3));
        c = f * c + i * g;
        h = o * c.tanh();
      } else {
        const Column r = sigmoid(part(p + q, 0)), z = sigmoid(part(p + q, 1));
        const Column n = (part(p, 2) + r * part(q, 2)).tanh();
        h = (1 - z) * n + z * h;
      }
      states.col(t) = h.matrix();
    }
    return states;
  }
};

/// Calls `body(layer)` with each kind of layer.
template <RealScalar S, class Body>
void for_each_kind(Index inputs, Index hidden, Rng& rng, RecurrentOptions options, Body&& body) {
  body(RNN<S>(inputs, hidden, rng, options));
  body(GRU<S>(inputs, hidden, rng, options));
  body(LSTM<S>(inputs, hidden, rng, options));
}

TEST_CASE("recurrent layers pass the layer battery at any number of steps", "[nn][gradient]") {
  Rng rng(1);
  for (Index steps = 1; steps <= 5; ++steps)
    for (const bool last : {false, true}) {
      const RecurrentOptions options{.bias = steps % 2 == 1, .return_last = last};
      const Index inputs = between(1, 3, rng), hidden = between(1, 3, rng);
      for_each_kind<double>(inputs, hidden, rng, options, [&](const auto& layer) {
        const auto check = require_twice_differentiable(layer, {steps, inputs}, 2, rng);
        REQUIRE(check.kronecker.has_value());
      });
    }
}

TEST_CASE("recurrent layers pass the layer battery with many units", "[nn][gradient]") {
  Rng rng(11);  // units are worked on 16 at a time, and the rest one by one
  for_each_kind<double>(1, 17, rng, {}, [&](const auto& layer) {
    const auto check = testing::check_layer(layer, {2, 1}, 1, rng);
    INFO(check.report());
    REQUIRE(check.passes(1e-6));
  });
}

TEST_CASE("recurrent layers pass the layer battery in float", "[nn][gradient]") {
  Rng rng(2);
  for_each_kind<float>(2, 2, rng, {}, [&](const auto& layer) {
    const auto check = testing::check_layer(layer, {3, 2}, 2, rng);
    INFO(check.report());
    REQUIRE(check.passes(2e-3));
  });
}

TEST_CASE("recurrent layers equal a loop over steps and examples", "[nn][exact]") {
  Rng rng(3);
  for (const bool bias : {false, true})
    for_each_kind<double>(3, 4, rng, {.bias = bias}, [&](auto layer) {
      const Index steps = 6, examples = 3;
      const Matrix<double> x = normal<double>(steps * 3, examples, rng);
      const Reference reference(layer);
      Matrix<double> expected(steps * 4, examples);
      for (Index n = 0; n < examples; ++n)
        expected.col(n) = reference.run(x.col(n).reshaped(3, steps)).reshaped();
      Sequential model{layer};
      REQUIRE(error_of(model.forward(x, {steps, 3}), expected) < 1e-14);
    });
}

TEST_CASE("return_last gives the state after the last step", "[nn][exact]") {
  Rng rng(4);
  for (const bool last : {false, true})
    for_each_kind<double>(2, 3, rng, {.return_last = last}, [&](const auto& layer) {
      REQUIRE(layer.output_shape({4, 2}) == (last ? Shape{3} : Shape{4, 3}));
    });
  Rng one(5), other(5);
  Sequential all{LSTM<double>(2, 3, one)};
  Sequential end{LSTM<double>(2, 3, other, {.return_last = true})};
  const Matrix<double> x = normal<double>(8, 5, rng);
  const Matrix<double> states = all.forward(x, {4, 2});
  REQUIRE(error_of(end.forward(x, {4, 2}), states.bottomRows(3)) == 0);
}

TEST_CASE("steps that are padding leave the state and the gradients as they are", "[nn][exact]") {
  Rng rng(6);
  for (const bool last : {false, true})
    for_each_kind<double>(2, 3, rng, {.return_last = last}, [&](auto layer) {
      const Index steps = 5, examples = 3, outputs = last ? 3 : 3 * steps;
      Matrix<double> x = normal<double>(steps * 2, examples, rng);
      PositionMask mask = PositionMask::Constant(steps, examples, true);
      mask.col(1).tail(2).setConstant(false);
      mask(0, 2) = mask(3, 2) = false;
      const Matrix<double> gradient = normal<double>(outputs, examples, rng);
      Sequential model{layer};
      model.set_mask(&mask);
      const Matrix<double> output = model.forward(x, {steps, 2});
      model.backward(gradient);
      const Vector<double> parameter_gradient = model.gradient();

      Vector<double> expected = Vector<double>::Zero(model.parameter_count());
      Sequential alone{layer};
      for (Index n = 0; n < examples; ++n) {
        // The real steps by themselves; what came out in the padding is the state before it.
        const Index real = mask.col(n).count();
        Matrix<double> part(2, real);
        Matrix<double> part_gradient = Matrix<double>::Zero(3, last ? 1 : real);
        Index k = 0;
        for (Index t = 0; t < steps; ++t) {
          if (mask(t, n)) part.col(k++) = x.col(n).segment(2 * t, 2);
          if (!last && k > 0) part_gradient.col(k - 1) += gradient.col(n).segment(3 * t, 3);
        }
        if (last) part_gradient.col(0) = gradient.col(n);
        const Matrix<double> states = alone.forward(part.reshaped(), {real, 2});
        alone.backward(part_gradient.reshaped());
        expected += alone.gradient();
        REQUIRE(error_of(output.col(n).tail(3), states.reshaped().tail(3)) < 1e-14);
      }
      REQUIRE(error_of(parameter_gradient, expected) < 1e-13);

      // Nothing depends on what the padding holds.
      x.col(1).tail(4).setConstant(1e3);
      REQUIRE(error_of(model.forward(x, {steps, 2}), output) == 0);
      // A mask of another number of positions is not of these steps.
      mask.setConstant(7, examples, false);
      REQUIRE(error_of(model.forward(x, {steps, 2}), output) > 0.1);
    });
}

TEST_CASE("derivatives along directions know of padding", "[nn][gradient]") {
  Rng rng(7);
  for_each_kind<double>(2, 2, rng, {}, [&](const auto& layer) {
    const Shape shape{3, 2}, output_shape{3, 2};
    PositionMask mask = PositionMask::Constant(3, 2, true);
    mask(1, 0) = mask(2, 1) = false;
    const Mode mode{.mask = &mask};
    const Matrix<double> x = normal<double>(6, 2, rng), dx = normal<double>(6, 2, rng);
    const Matrix<double> g = normal<double>(6, 2, rng), dg = normal<double>(6, 2, rng);
    const auto view = [](const Matrix<double>& values, const Shape& of) {
      return ConstBatchView<double>({values.data(), values.rows(), values.cols()}, of);
    };
    const auto writable = [](Matrix<double>& values, const Shape& of) {
      return BatchView<double>{{values.data(), values.rows(), values.cols()}, of};
    };
    const auto pass = [&](double at, Matrix<double>& y, Matrix<double>& grad_x) {
      typename std::decay_t<decltype(layer)>::Scratch scratch;
      const Matrix<double> moved = x + at * dx, cotangent = g + at * dg;
      layer.forward(view(moved, shape), writable(y, output_shape), scratch, mode);
      BatchView<double> into = writable(grad_x, shape);
      layer.backward(view(moved, shape), view(y, output_shape), view(cotangent, output_shape),
                     &into, nullptr, scratch, mode);
    };
    constexpr double kStep = 1e-5;
    Matrix<double> y_up(6, 2), y_down(6, 2), up(6, 2), down(6, 2);
    pass(kStep, y_up, up);
    pass(-kStep, y_down, down);

    typename std::decay_t<decltype(layer)>::Scratch scratch;
    Matrix<double> y(6, 2), y_tangent(6, 2), second(6, 2);
    layer.forward(view(x, shape), writable(y, output_shape), scratch, mode);
    const ConstBatchView<double> along = view(dx, shape);
    layer.tangent(view(x, shape), view(y, output_shape), &along, nullptr,
                  writable(y_tangent, output_shape), scratch);
    REQUIRE(error_of(y_tangent, (y_up - y_down) / (2 * kStep)) < 1e-8);
    BatchView<double> into = writable(second, shape);
    layer.backward_tangent(view(x, shape), view(y, output_shape), view(g, output_shape), &along,
                           nullptr, view(dg, output_shape), &into, nullptr, scratch);
    REQUIRE(error_of(second, (up - down) / (2 * kStep)) < 1e-8);
  });
}

TEST_CASE("recurrent layers have PyTorch's parameters, as two leaves over time", "[nn][exact]") {
  Rng rng(8);
  Sequential model(LSTM<double>(3, 4, rng), GRU<double>(4, 2, rng, {.return_last = true}));
  const auto layers = model.layers();
  REQUIRE(layers.size() == 4);
  const std::vector<std::string> names{"0.ih", "0.hh", "1.ih", "1.hh"};
  const std::vector<std::string> kinds{"Linear", "LSTM", "Linear", "GRU"};
  const std::vector<std::vector<Index>> shapes{{16, 3}, {16, 4}, {6, 4}, {6, 2}};
  const std::vector<bool> biases{true, false, true, true};
  for (std::size_t i = 0; i < 4; ++i) {
    REQUIRE(layers[i].name == names[i]);
    REQUIRE(layers[i].kind == kinds[i]);
    REQUIRE(layers[i].recurrent);
    REQUIRE(layers[i].kronecker.has_value());
    REQUIRE(layers[i].kronecker->bias == biases[i]);
    const auto& info = layers[i].parameter_info;
    REQUIRE(info.size() == (biases[i] ? 2 : 1));
    REQUIRE(info[0].name == "weight");
    REQUIRE(info[0].rows == shapes[i][0]);
    REQUIRE(info[0].columns == shapes[i][1]);
    const double bound = 1 / std::sqrt(i < 2 ? 4.0 : 2.0);
    REQUIRE(layers[i].parameters.cwiseAbs().maxCoeff() <= bound);
    REQUIRE(layers[i].parameters.cwiseAbs().maxCoeff() > 0.7 * bound);
  }
  REQUIRE_FALSE(Sequential(Linear<double>(2, 2, rng)).layers()[0].recurrent);
}

TEST_CASE("recurrent layers say how much scratch memory they take", "[nn][exact]") {
  Rng rng(9);
  const RecurrentStates<double, LstmCell> states(3, rng, false, false);
  RecurrentStates<double, LstmCell>::Scratch scratch;
  const Shape shape{4, 12};
  const Matrix<double> x = normal<double>(48, 2, rng);
  Matrix<double> y(12, 2), grad_x(48, 2);
  const ConstBatchView<double> in({x.data(), 48, 2}, shape);
  BatchView<double> out{{y.data(), 12, 2}, {4, 3}};
  BatchView<double> grad_in{{grad_x.data(), 48, 2}, shape};
  states.forward(in, out, scratch, {});
  states.backward(in, out, out, &grad_in, nullptr, scratch, {});
  Index used = scratch.kept.capacity() + scratch.gradients.capacity();
  for (std::size_t k = 0; k < 2; ++k)
    used += scratch.states[k].capacity() + scratch.state_gradient[k].capacity();
  REQUIRE(states.scratch_size(shape, 2) == used);
}

TEST_CASE("recurrent layers refuse what they cannot take", "[nn][error]") {
  Rng rng(10);
  Sequential model(LSTM<double>(3, 2, rng));
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(3, 1)),
                      "kfac::LSTM: 'input' has shape 3, expected steps x 3 (layer '0')");
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(8, 1), {2, 4}),
                      "kfac::LSTM: 'input' has shape 2x4, expected steps x 3 (layer '0')");
  REQUIRE_THROWS_WITH(GRU<double>(0, 2, rng), "kfac::GRU: 'inputs' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(RNN<double>(2, 0, rng), "kfac::RNN: 'hidden' is 0, expected >= 1");
  REQUIRE_THROWS_WITH((RecurrentStates<double, TanhCell>(2, rng, false, false).output_shape({3})),
                      "kfac::RecurrentStates: 'input' has shape 3, expected steps x 2");
  const PositionMask mask = PositionMask::Constant(2, 3, true);
  model.set_mask(&mask);
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(6, 1), {2, 3}),
                      "kfac::LSTM: 'mask' is 2x3, expected 2x1");
}

}  // namespace kfac::test::recurrent_test
