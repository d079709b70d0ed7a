#include <limits>
#include <string>

#include <kfac/curvature/fisher_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/hessian.hpp>
#include <kfac/linalg/linear_operator.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

// What all exact operators have in common: blocks of vectors, data sets, layers, errors.

namespace kfac::test::exact_operator_test {

namespace {

using Model = DynamicSequential<double>;

Model network(Rng& rng) {
  return Model({Linear<double>(3, 4, rng), Tanh<double>{},
                Residual(Linear<double>(4, 4, rng), GELU<double>{}), Linear<double>(4, 3, rng),
                Linear<double>(3, 2, rng)});
}

template <class LossType>
struct Problem {
  using Targets = typename LossType::Targets;

  Problem(const LossType& loss_, Index count, Rng& rng)
      : model(network(rng)),
        loss(loss_),
        data{normal<double>(3, count, rng), targets_for(loss, 2, count, rng)} {}

  std::vector<Slice<double, Targets>> unequal() const {
    std::vector<Slice<double, Targets>> result;
    Index first = 0;
    for (const Index count : {Index(1), Index(5), data.examples() - 6}) {
      result.emplace_back(ConstMatrixMap<double>(data.inputs.col(first).data(), 3, count),
                          kfac::detail::targets_of(data.targets, data.examples(), first, count),
                          Shape{3});
      first += count;
    }
    return result;
  }

  Model model;
  LossType loss;
  Dataset<double, Targets> data;
};

/// Calls `body(operator)` with each exact operator on all the data.
template <class LossType, class Body>
void for_each_operator(const Problem<LossType>& p, Body&& body) {
  body(Ggn(p.model, p.loss, p.data.inputs));
  body(Hessian(p.model, p.loss, p.data.inputs, p.data.targets));
  body(EmpiricalFisher(p.model, p.loss, p.data.inputs, p.data.targets));
  body(MonteCarloFisher(p.model, p.loss, p.data.inputs,
                        std::vector{p.data.targets, p.data.targets}));
}

}  // namespace

TEST_CASE("Exact operators: on slices of any size they are those of all the data at once") {
  Rng rng(1);
  for_each_loss([&](const auto& loss) {
    const Problem p(loss, 9, rng);
    const auto check = [&](const auto& sliced, const auto& whole) {
      const Matrix<double> v = normal<double>(whole.rows(), 2, rng);
      const Matrix<double> expected = whole * v;
      CHECK(relative_error(sliced * v, expected) < 1e-13);
      CHECK(relative_error(sliced * v.col(1), expected.col(1)) < 1e-13);
      CHECK(relative_error(sliced.outputs(), whole.outputs()) < 1e-14);
      CHECK(relative_error(sliced * v, expected) < 1e-13);
    };
    const Matrix<double>& x = p.data.inputs;
    const auto& y = p.data.targets;
    const std::vector samples{targets_for(loss, 2, 9, rng), targets_for(loss, 2, 9, rng)};
    for (const auto& parts : {p.unequal(), slices(p.data, 4), slices(p.data, 100)}) {
      check(Ggn(p.model, loss, parts), Ggn(p.model, loss, x));
      check(Hessian(p.model, loss, parts), Hessian(p.model, loss, x, y));
      check(EmpiricalFisher(p.model, loss, parts), EmpiricalFisher(p.model, loss, x, y));
      check(MonteCarloFisher(p.model, loss, parts, samples),
            MonteCarloFisher(p.model, loss, x, samples));
    }
  });
}

TEST_CASE("Exact operators: slices may have a label for each token") {
  Rng rng(6);
  const Model model({Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)});
  const SoftmaxCrossEntropy<double> loss({.classes = 2});
  const SoftmaxCrossEntropy<double> of_tokens;
  const Matrix<double> x = normal<double>(6, 5, rng);  // two tokens of three features
  const Labels y = targets_for(loss, 2, 10, rng);
  const Matrix<double> x1 = x.leftCols(2);
  const Matrix<double> x2 = x.rightCols(3);
  const Labels y1 = y.head(4);
  const Labels y2 = y.tail(6);
  const std::vector parts{Slice(x1, y1, {2, 3}), Slice(x2, y2, {2, 3})};
  const Matrix<double> tokens = x.reshaped(3, 10);
  CHECK(relative_error(Ggn(model, loss, parts).dense(), Ggn(model, of_tokens, tokens).dense()) <
        1e-13);
  CHECK(relative_error(Hessian(model, loss, parts).dense(),
                       Hessian(model, of_tokens, tokens, y).dense()) < 1e-13);
  // All of an example's labels are one sample: the tokens' gradients are added before the product.
  const std::vector<Labels> samples{y, targets_for(loss, 2, 10, rng)};
  CHECK(relative_error(MonteCarloFisher(model, loss, parts, samples).dense(),
                       MonteCarloFisher(model, loss, x, samples, {2, 3}).dense()) < 1e-13);
  CHECK(relative_error(MonteCarloFisher(model, loss, x, std::vector{y}, {2, 3}).dense(),
                       EmpiricalFisher(model, loss, x, y, {2, 3}).dense()) < 1e-15);
}

TEST_CASE("Exact operators: a block of vectors gives what its columns do, as do all interfaces") {
  Rng rng(2);
  const Problem p(SoftmaxCrossEntropy<double>{}, 7, rng);
  for_each_operator(p, [&](const auto& op) {
    using Op = std::remove_cvref_t<decltype(op)>;
    static_assert(linalg::BlockLinearOperator<const Op>);
    CHECK(op.cols() == op.rows());
    const Matrix<double> v = normal<double>(op.rows(), 3, rng);
    const Matrix<double> products = op * v;
    const Matrix<double> dense = op.dense();
    CHECK(relative_error(products, dense * v) < 1e-12);
    CHECK(relative_error(dense, dense.transpose()) < 1e-12);
    for (Index j = 0; j < 3; ++j) {
      const Vector<double> column = op * v.col(j);
      CHECK(column == products.col(j));
      Vector<double> written(op.rows());
      op.perform_op(v.col(j).data(), written.data());
      CHECK(written == column);
    }
    CHECK(op * (2 * v - v) == products);
  });
}

TEST_CASE("Exact operators: a layer's block is that diagonal block of the dense matrix") {
  Rng rng(3);
  const Problem p(SoftmaxCrossEntropy<double>{}, 7, rng);
  for_each_operator(p, [&](const auto& op) {
    const Matrix<double> full = op.dense();
    const std::vector<Index> sizes = p.model.layer_sizes();
    REQUIRE(sizes == std::vector<Index>{16, 0, 20, 0, 15, 8});
    Index offset = 0;
    for (Index layer = 0; layer < 6; ++layer) {
      const Index size = sizes[static_cast<std::size_t>(layer)];
      if (size == 0) continue;
      const auto block = op.block(layer);
      CHECK(block.rows() == size);
      CHECK(block.offset() == offset);
      const Matrix<double> expected = full.block(offset, offset, size, size);
      CHECK(relative_error(block.dense(), expected) < 1e-13);
      const Vector<double> v = normal<double>(size, 1, rng);
      CHECK(relative_error(block * v, expected * v) < 1e-13);
      offset += size;
    }
  });
}

TEST_CASE("Exact operators: what does not fit is named, and leaves them as they were") {
  Rng rng(4);
  const Problem p(SoftmaxCrossEntropy<double>{}, 7, rng);
  for_each_operator(p, [&](const auto& op) {
    const std::string name = std::remove_cvref_t<decltype(op)>::kName;
    const Vector<double> v = normal<double>(op.rows(), 1, rng);
    const Vector<double> product = op * v;
    CHECK_THROWS_AS(op * v.head(3), ShapeError);
    CHECK_THROWS_WITH(op * v.head(3), name + ": 'v' has 3 rows, expected 59");
    for (const Index layer : {-1, 1, 6}) {
      CHECK_THROWS_AS(op.block(layer), ValueError);
      CHECK_THROWS_WITH(op.block(layer), name + "::block: 'layer' is " + std::to_string(layer) +
                                             ", expected a layer with parameters, of 6 layers");
    }
    CHECK_THROWS_WITH(op.block(0) * v, "kfac::LayerOperator: 'v' has 59 rows, expected 16");
    CHECK(op * v == product);
  });
}

TEST_CASE("Exact operators: slices that do not fit are named") {
  Rng rng(5);
  const Problem p(MeanSquaredError<double>{}, 7, rng);
  const Matrix<double>& x = p.data.inputs;
  const Matrix<double>& y = p.data.targets;
  using Slices = std::vector<Slice<double, Matrix<double>>>;
  const auto hessian = [&](const Slices& parts) { return Hessian(p.model, p.loss, parts); };
  CHECK_THROWS_WITH(hessian({}), "kfac::Hessian: 'slices' is empty, expected at least one");
  CHECK_THROWS_WITH(hessian({{x, y}, {x, y, {2}}}),
                    "kfac::Hessian: 'slices' has 3 rows, expected 2");
  const Matrix<double> none(3, 0);
  CHECK_THROWS_WITH(hessian({{none, y}}),
                    "kfac::Hessian: 'slices' has 0 examples in one, expected at least 1");
  Matrix<double> broken = x;
  broken(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(hessian({{broken, y}}), ValueError);
  const Matrix<double> narrow = x.topRows(2);
  CHECK_THROWS_AS(hessian({{x, y}, {narrow, y}}), ShapeError);
  const Matrix<double> few = y.leftCols(6);
  CHECK_THROWS_AS(hessian({{x, few}}), ShapeError);
  CHECK_NOTHROW(hessian({{x, y}, {x, y}}));

  Rng same(6);
  const Model flexible({Tanh<double>{}});
  CHECK_THROWS_WITH(Ggn(flexible, p.loss, Slices{{x, y}, {narrow, y}}),
                    "kfac::Ggn: 'slices' has 2 outputs in one, expected 3");
}

}  // namespace kfac::test::exact_operator_test
