#include <array>
#include <string>
#include <vector>

#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/jacobian.hpp>
#include <kfac/curvature/parameter_block.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/nn/jet_network.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"

namespace kfac::test::jet_network_test {

namespace {

using Slots = JetSlots<double>;

/// A user's function that gives its derivatives.
struct Cube {
  static const char* kind() { return "Cube"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.cube();
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = 3 * x.square();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X& x, const Y&, D&& d) {
    d = 6 * x;
  }
  template <class X, class Y, class D>
  static void third_derivative(const X& x, const Y&, D&& d) {
    d = 0 * x + 6;
  }
};

/// First derivatives of every output of a network with respect to its inputs, `inputs x points`,
/// exactly.
template <class Model>
Matrix<double> gradient_of(Model& model, const Matrix<double>& x, Index output) {
  const Matrix<double> outputs = model.forward(x);
  Matrix<double> unit = Matrix<double>::Zero(outputs.rows(), outputs.cols());
  unit.row(output).setOnes();
  return model.input_gradient(unit);
}

/// d^2/dv^2 of an output at every point, by central differences of its exact gradient.
template <class Model>
Vector<double> second_of(Model& model, const Matrix<double>& x, const Vector<double>& v,
                         Index output) {
  constexpr double kStep = 1e-4;
  const auto slope = [&](double step) {
    return Vector<double>(gradient_of(model, (x.colwise() + step * v).eval(), output).transpose() *
                          v);
  };
  return (8 * (slope(kStep) - slope(-kStep)) - (slope(2 * kStep) - slope(-2 * kStep))) /
         (12 * kStep);
}

/// All slots by differences of the plain network.
template <class Model>
Matrix<double> slots_by_differences(Model& model, const Slots& slots, const Matrix<double>& x) {
  const Matrix<double> values = model.forward(x);
  const Index outputs = values.rows();
  Matrix<double> result = Matrix<double>::Zero(slots.count() * outputs, x.cols());
  result.topRows(outputs) = values;
  for (Index k = 0; k < outputs; ++k) {
    const Matrix<double> gradient = gradient_of(model, x, k);
    for (Index i = 0; i < slots.firsts(); ++i) {
      const Vector<double> direction = slots.directions.col(i);
      result.row((1 + i) * outputs + k) = direction.transpose() * gradient;
      const Vector<double> second = second_of(model, x, direction, k);
      for (Index m = 0; m < slots.seconds(); ++m)
        result.row((1 + slots.firsts() + m) * outputs + k) +=
            slots.second(m, i) * second.transpose();
    }
  }
  return result;
}

template <class L>
auto small_network(L activation, Rng& rng) {
  return Sequential<Linear<double>, L, Residual<Linear<double>, L>, Linear<double>>{
      Linear<double>(3, 4, rng), activation,
      Residual<Linear<double>, L>(Linear<double>(4, 4, rng, {.bias = false}), activation),
      Linear<double>(4, 2, rng)};
}

DynamicSequential<double> chosen_network(const AnyLayer<double>& activation, Rng& rng) {
  DynamicSequential<double> inner;
  inner.push_back(Linear<double>(4, 4, rng));
  inner.push_back(activation);
  DynamicSequential<double> model;
  model.push_back(Linear<double>(3, 4, rng));
  model.push_back(activation);
  model.push_back(Residual<DynamicSequential<double>>(inner));
  model.push_back(inner);
  model.push_back(Linear<double>(4, 2, rng, {.bias = false}));
  return model;
}

/// Calls `body(name, model)` with networks of every activation.
template <class Body>
void for_each_network(Rng& rng, Body&& body) {
  body("Sequential", small_network(Tanh<double>{}, rng));
  body("Tanh", chosen_network(Tanh<double>{}, rng));
  body("Sine", chosen_network(Sine<double>{}, rng));
  body("Sigmoid", chosen_network(Sigmoid<double>{}, rng));
  body("Softplus", chosen_network(Softplus<double>{}, rng));
  body("GELU", chosen_network(GELU<double>{}, rng));
  body("Identity", chosen_network(Identity<double>{}, rng));
}

const auto kResidual = [](const auto& x, const auto& u) {
  return std::array{-u.laplacian() + x[0] * u.value() * u.value(1), u.first(1, 1) * u.first(0) - 2};
};

}  // namespace

TEST_CASE("jet_network: value, gradient and sums of second derivatives of random networks") {
  Rng rng(1);
  for_each_network(rng, [&](const std::string& name, auto model) {
    CAPTURE(name);
    const Matrix<double> x = normal<double>(3, 5, rng);
    Slots oblique{normal<double>(3, 4, rng), normal<double>(2, 4, rng)};
    for (const Slots& slots :
         {Slots::gradient(3), Slots::laplacian(3), Slots::second_derivatives(3),
          Slots::weighted_laplacian(Eigen::Vector3d(0, 1, -2)), oblique}) {
      auto jets = jet_network(model, slots);
      REQUIRE(jets.output_shape({3}) == Shape{slots.count(), 2});
      const Matrix<double> found = jets.forward(x);
      const Matrix<double> expected = slots_by_differences(model, slots, x);
      const Index exact = 2 * (1 + slots.firsts());
      CHECK(relative_error(found.topRows(exact), expected.topRows(exact)) < 1e-14);
      CHECK((found - expected).norm() < 1e-10 * (1 + expected.norm()));
    }
  });
}

TEST_CASE("jet_network: polynomials exactly, with an activation of the user's") {
  Rng rng(2);
  Sequential model{Linear<double>(3, 2, rng), Activation<double, Cube>{},
                   Linear<double>(2, 1, rng)};
  const auto layers = model.layers();
  const ConstMatrixMap<double> first(layers[0].parameters.data(), 2, 4);
  const ConstMatrixMap<double> last(layers[2].parameters.data(), 1, 3);
  auto jets = jet_network(model, Slots::laplacian(3));
  const Matrix<double> x = normal<double>(3, 6, rng);
  const Matrix<double> found = jets.forward(x);
  for (Index n = 0; n < x.cols(); ++n) {
    const Vector<double> z = first.leftCols(3) * x.col(n) + first.col(3);
    Vector<double> expected = Vector<double>::Zero(5);
    expected(0) = last(0, 2);
    for (Index k = 0; k < 2; ++k) {
      expected(0) += last(0, k) * z(k) * z(k) * z(k);
      expected.segment(1, 3) += last(0, k) * 3 * z(k) * z(k) * first.row(k).head(3).transpose();
      expected(4) += last(0, k) * 6 * z(k) * first.row(k).head(3).squaredNorm();
    }
    CHECK(relative_error(found.col(n), expected) < 1e-14);
  }
}

TEST_CASE(
    "jet_network: its backward and tangent passes are each other's adjoint and those of "
    "differences") {
  Rng rng(3);
  for_each_network(rng, [&](const std::string& name, auto model) {
    CAPTURE(name);
    const Matrix<double> x = normal<double>(3, 3, rng);
    const auto check = [&](auto& network) {
      const Vector<double> v = normal<double>(model.parameter_count(), 1, rng);
      const Matrix<double> outputs = network.forward(x);
      const Matrix<double> u = normal<double>(outputs.rows(), outputs.cols(), rng);
      const Matrix<double> tangent = network.tangent(v);
      network.backward(u);
      const double left = tangent.cwiseProduct(u).sum();
      CHECK(std::abs(left - network.gradient().dot(v)) < 1e-12 * tangent.norm() * u.norm());
      const Matrix<double> differences =
          derivative_along(model, v, [&] { return Matrix<double>(network.forward(x)); });
      CHECK(relative_error(tangent, differences) < 1e-8);
    };
    auto second = jet_network(model, Slots::second_derivatives(3));
    check(second);
    auto first = jet_network(model, Slots::gradient(3));
    check(first);
    auto residual =
        jet_network(model, Slots::weighted_laplacian(Eigen::Vector3d(1, 0.5, 2)), kResidual);
    check(residual);
  });
}

TEST_CASE("jet_network: a residual's Gauss-Newton matrix is that of its Jacobian") {
  Rng rng(4);
  auto model = small_network(Tanh<double>{}, rng);
  auto residual = jet_network(model, Slots::laplacian(3), kResidual);
  const Matrix<double> x = normal<double>(3, 4, rng);
  Matrix<double> jacobian(8, model.parameter_count());
  for (Index j = 0; j < jacobian.cols(); ++j)
    jacobian.col(j) = derivative_along(model, Vector<double>::Unit(jacobian.cols(), j), [&] {
                        return Matrix<double>(residual.forward(x));
                      }).reshaped();
  const MeanSquaredError<double> loss({.reduction = Reduction::ExampleMean});
  const Matrix<double> found = Ggn(residual, loss, x).dense();
  CHECK(relative_error(found, (jacobian.transpose() * jacobian / 2).eval()) < 1e-8);
  const Jacobian exact(residual, x);
  CHECK(relative_error(found, (exact.dense().transpose() * exact.dense() / 2).eval()) < 1e-13);

  // The values are what the residual makes of the jets.
  auto jets = jet_network(model, Slots::laplacian(3));
  const Matrix<double> u = jets.forward(x);
  const Matrix<double> r = residual.forward(x);
  for (Index n = 0; n < x.cols(); ++n) {
    CHECK(r(0, n) == Approx(-u(8, n) + x(0, n) * u(0, n) * u(1, n)).epsilon(1e-13));
    CHECK(r(1, n) == Approx(u(5, n) * u(2, n) - 2).epsilon(1e-13));
  }
}

TEST_CASE("jet_network: mixed derivatives by directions") {
  Rng rng(5);
  auto model = small_network(Tanh<double>{}, rng);
  // u_xy = (d^2/d(x+y)^2 - d^2/dx^2 - d^2/dy^2) u / 2
  Slots slots{Matrix<double>{{1, 0, 1}, {0, 1, 1}, {0, 0, 0}}, Matrix<double>{{-0.5, -0.5, 0.5}}};
  auto jets = jet_network(model, slots);
  const Matrix<double> x = normal<double>(3, 3, rng);
  constexpr double kStep = 1e-5;
  const auto slope = [&](double step) {
    return Matrix<double>(
        gradient_of(model, (x.colwise() + step * Vector<double>::Unit(3, 1)).eval(), 0).row(0));
  };
  const Matrix<double> expected = (slope(kStep) - slope(-kStep)) / (2 * kStep);
  const Matrix<double> found = jets.forward(x);
  CHECK((found.row(8) - expected).norm() < 1e-9 * expected.norm());
}

TEST_CASE("jet_network: features of the coordinates and the jets of plain functions") {
  Rng rng(6);
  Sequential model{Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 1, rng)};
  const auto features = [](const auto& x) {
    using std::sqrt;
    const auto r = sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
    return std::vector{x[0], x[1], x[2] / (1.0 + r), r};
  };
  const Slots slots = Slots::laplacian(3);
  auto jets = jet_network(model, slots, NoResidual{}, features);
  const Matrix<double> x = normal<double>(3, 4, rng);
  const Matrix<double> found = jets.forward(x);
  const auto at = [&](const Matrix<double>& points) {
    return Matrix<double>(model.forward(feature_values<double>(points, features)));
  };
  CHECK(found.row(0) == at(x).row(0));
  constexpr double kStep = 1e-3;
  Matrix<double> laplacian = Matrix<double>::Zero(1, 4);
  for (Index i = 0; i < 3; ++i) {
    const auto moved = [&](double step) {
      return at((x.colwise() + step * Vector<double>::Unit(3, i)).eval());
    };
    const Matrix<double> slope =
        (8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) /
        (12 * kStep);
    CHECK((found.row(1 + i) - slope).norm() < 1e-9 * (1 + slope.norm()));
    laplacian += (16 * (moved(kStep) + moved(-kStep)) - (moved(2 * kStep) + moved(-2 * kStep)) -
                  30 * at(x)) /
                 (12 * kStep * kStep);
  }
  CHECK((found.row(4) - laplacian).norm() < 1e-7 * (1 + laplacian.norm()));

  // Every elementary function of jets, in one dimension, against its derivatives.
  const Slots line = Slots::laplacian(1);
  const auto check = [&](const auto& f, double slope, double curvature) {
    const Matrix<double> jet = input_jets<double>(line, Matrix<double>::Constant(1, 1, 0.7), f);
    CHECK(jet(1, 0) == Approx(slope).epsilon(1e-13));
    CHECK(jet(2, 0) == Approx(curvature).epsilon(1e-13));
  };
  const double a = 0.7;
  const double t = std::tanh(a);
  check([](const auto& z) { return sqrt(z[0]); }, 0.5 / std::sqrt(a), -0.25 * std::pow(a, -1.5));
  check([](const auto& z) { return exp(2.0 * z[0]); }, 2 * std::exp(2 * a), 4 * std::exp(2 * a));
  check([](const auto& z) { return log(z[0]); }, 1 / a, -1 / (a * a));
  check([](const auto& z) { return sin(z[0]); }, std::cos(a), -std::sin(a));
  check([](const auto& z) { return cos(z[0]); }, -std::sin(a), -std::cos(a));
  check([](const auto& z) { return tanh(z[0]); }, 1 - t * t, -2 * t * (1 - t * t));
  check([](const auto& z) { return pow(z[0], 2.5) - 3.0; }, 2.5 * std::pow(a, 1.5),
        3.75 * std::sqrt(a));
  check([](const auto& z) { return square(z[0]) / (1.0 - z[0]); },
        (2 * a - a * a) / ((1 - a) * (1 - a)), 2 / ((1 - a) * (1 - a) * (1 - a)));
  check(
      [](const auto& z) {
        auto s = -z[0];
        s += 1.0;
        s *= z[0];
        s -= 2.0;
        s /= 2.0;
        return +s;
      },
      0.5 - a, -1.0);
}

TEST_CASE("jet_network: has the parameters, names and hooks of its network's layers") {
  Rng rng(7);
  auto model = small_network(Tanh<double>{}, rng);
  auto jets = jet_network(model, Slots::laplacian(3));
  const auto plain = model.layers();
  const auto layers = jets.layers();
  REQUIRE(layers.size() == plain.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    CHECK(layers[i].name == plain[i].name);
    CHECK(layers[i].kind == plain[i].kind);
    CHECK(layers[i].parameters.data() == plain[i].parameters.data());
    CHECK(layers[i].parameter_info.size() == plain[i].parameter_info.size());
  }
  struct Listener : Observer<double> {
    Matrix<double> input, gradient;
    Index positions = 0;
    void on_input(const std::string&, const SharedBatch<double>& batch) override {
      input = batch.matrix();
      positions = batch.positions();
    }
    void on_output_gradient(const std::string&, const SharedBatch<double>& batch) override {
      gradient = batch.matrix();
    }
  } listener;
  layers[0].hooks->attach(listener);
  const Matrix<double> x = normal<double>(3, 2, rng);
  jets.forward(x);
  jets.backward(normal<double>(10, 2, rng));
  REQUIRE(listener.positions == 5);
  Matrix<double> expected = Matrix<double>::Zero(4, 10);
  for (Index n = 0; n < 2; ++n) {
    expected.block(0, 5 * n, 3, 1) = x.col(n);
    expected(3, 5 * n) = 1;
    expected.block(0, 5 * n + 1, 3, 3).setIdentity();
  }
  CHECK(listener.input == expected);
  const Matrix<double> product = listener.gradient * listener.input.transpose();
  CHECK(relative_error(product.reshaped(), jets.gradient().head(16)) < 1e-14);
}

TEST_CASE("jet_network: what it refuses, by name") {
  Rng rng(8);
  auto model = small_network(Tanh<double>{}, rng);
  auto jets = jet_network(model, Slots::laplacian(3), kResidual);
  CHECK(message_of<ShapeError>([&] {
          jets.forward(Matrix<double>::Ones(2, 4));
        }).starts_with("kfac::JetNetwork: 'input' has shape 2, expected 3 coordinates"));
  CHECK(message_of<OptionError>([&] { Slots::laplacian(0); }) ==
        "kfac::JetSlots: 'inputs' is 0, expected >= 1");
  CHECK(message_of<ShapeError>([&] {
          jet_network(model, Slots{Matrix<double>::Identity(3, 3), Matrix<double>::Ones(1, 2)});
        }) == "kfac::jet_network: 'slots.second' has 2 columns, expected 3");
  jets.forward(Matrix<double>::Ones(3, 2));
  CHECK(message_of<StateError>([&] {
          jets.input_gradient(Matrix<double>::Ones(2, 2));
        }).starts_with("kfac::JetNetwork::backward: a gradient with respect to coordinates"));
  DynamicSequential<double> unsmooth;
  unsmooth.push_back(Linear<double>(3, 4, rng));
  unsmooth.push_back(ReLU<double>{});
  CHECK(message_of<StateError>([&] { jet_network(unsmooth, Slots::laplacian(3)); }) ==
        "kfac::jet_layer: a layer has no rule for derivatives with respect to inputs, expected "
        "Linear, an activation with three derivatives, DynamicSequential or a Residual of that "
        "(layer '1')");
}

TEST_CASE("jet_network: in single precision, and with compile-time sizes") {
  Rng rng(9);
  auto fixed =
      static_sequential<8>(Linear<float, 2, 5>(rng), Tanh<float>{}, Linear<float, 5, 1>(rng));
  auto jets = jet_network(fixed, JetSlots<float>::laplacian(2));
  const Matrix<float> x = normal<float>(2, 3, rng);
  const Matrix<float> found = jets.forward(x);
  CHECK((found.row(0) - fixed.forward(x)).norm() < 1e-6f);
  CHECK(found.allFinite());
}

}  // namespace kfac::test::jet_network_test
