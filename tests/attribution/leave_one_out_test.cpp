#include <Eigen/Cholesky>

#include <kfac/attribution/influence.hpp>
#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/data/subset.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"

// What influence predicts, against training again without an example.

namespace kfac::test::leave_one_out_test {

namespace {

using Strategy = InfluenceStrategy;

/// The outputs themselves.
const auto prediction = [](const auto&, const auto&, MatrixRef<double> into) { into.setOnes(); };

/// All numbers but one.
std::vector<Index> all_but(Index left_out, Index count) {
  std::vector<Index> result;
  for (Index i = 0; i < count; ++i)
    if (i != left_out) result.push_back(i);
  return result;
}

double correlation(const Vector<double>& a, const Vector<double>& b) {
  const Vector<double> x = a.array() - a.mean();
  const Vector<double> y = b.array() - b.mean();
  return x.dot(y) / (x.norm() * y.norm());
}

/// Linear regression of 5 features and a bias, minimizing 1/N sum (f - y)^2 + penalty/2 |w|^2.
struct Ridge {
  static constexpr double kPenalty = 0.07;
  Rng rng{1};
  Index examples = 25;
  Dataset<double, Matrix<double>> data, queries;
  Sequential<Linear<double>> model{Linear<double>(5, 1, rng)};
  MeanSquaredError<double> loss;

  Ridge() {
    data.inputs = random_matrix(5, examples, rng);
    data.inputs.row(1) = 3 * data.inputs.row(0) + 0.1 * data.inputs.row(1);
    data.targets = data.inputs.colwise().sum() + random_matrix(1, examples, rng);
    queries = {random_matrix(5, 4, rng), random_matrix(1, 4, rng)};
    set_flat_parameters(model, fit(-1));
  }

  static Matrix<double> augmented(const Matrix<double>& inputs) {
    Matrix<double> result = Matrix<double>::Ones(inputs.rows() + 1, inputs.cols());
    result.topRows(inputs.rows()) = inputs;
    return result;
  }
  Matrix<double> hessian() const {
    const Matrix<double> x = augmented(data.inputs);
    return 2.0 / static_cast<double>(examples) * x * x.transpose() +
           kPenalty * Matrix<double>::Identity(6, 6);
  }
  /// The optimum without one example, still divided by N; with all for -1.
  Vector<double> fit(Index left_out) const {
    const Matrix<double> x = augmented(data.inputs);
    const double scale = 2.0 / static_cast<double>(examples);
    Matrix<double> h = hessian();
    Vector<double> b = scale * x * data.targets.transpose();
    if (left_out >= 0) {
      h -= scale * x.col(left_out) * x.col(left_out).transpose();
      b -= scale * x.col(left_out) * data.targets(0, left_out);
    }
    return h.ldlt().solve(b);
  }
};

/// Softmax regression, minimizing the mean cross-entropy + penalty/2 |w|^2 by Newton's method.
struct Logistic {
  static constexpr double kPenalty = 0.05;
  Rng rng{2};
  Index examples = 80;
  Dataset<double> data, queries;
  Sequential<Linear<double>> model{Linear<double>(3, 3, rng)};
  SoftmaxCrossEntropy<double> loss;

  Logistic() {
    data = draw(examples);
    queries = draw(5);
    for (int round = 0; round < 8; ++round) fit(data, 1.0);
  }
  Dataset<double> draw(Index count) {
    Dataset<double> result{random_matrix(3, count, rng), random_labels(3, count, rng)};
    for (Index n = 0; n < count; ++n) result.inputs(result.targets(n), n) += 1.5;
    return result;
  }
  /// `weight`: of the mean loss.
  void fit(const Dataset<double>& from, double weight) {
    for (int step = 0; step < 4; ++step) {
      Matrix<double> h = weight * Ggn(model, loss, from.inputs).dense();
      h.diagonal().array() += kPenalty;
      model.backward(loss.gradient(model.forward(from.inputs), from.targets));
      const Vector<double> parameters = flat_parameters(model);
      const Vector<double> gradient = weight * model.gradient() + kPenalty * parameters;
      set_flat_parameters(model, parameters - h.ldlt().solve(gradient));
    }
  }
  Vector<double> query_losses() {
    return -LogProbability{}.values(model.forward(queries.inputs), queries.targets);
  }
};

}  // namespace

TEST_CASE("Influence: in linear regression, leaving one out has its closed form") {
  Ridge ridge;
  const auto training = slices(ridge.data, 10);
  const auto n = static_cast<double>(ridge.examples);
  const Matrix<double> x = Ridge::augmented(ridge.data.inputs);
  const Matrix<double> of_queries = Ridge::augmented(ridge.queries.inputs);
  const Vector<double> theta = flat_parameters(ridge.model);
  const Vector<double> residuals = (theta.transpose() * x - ridge.data.targets).transpose();
  for (const Strategy strategy : {Strategy::Kfac, Strategy::Ekfac, Strategy::Full}) {
    const CurvatureStructure structure =
        strategy == Strategy::Full ? CurvatureStructure::Full : CurvatureStructure::Ekfac;
    const auto curvature =
        estimate_curvature(ridge.model, ridge.loss, training, {.structure = structure});
    Influence influence(ridge.model, ridge.loss, curvature,
                        {.strategy = strategy, .relative_damping = 0, .damping = Ridge::kPenalty});
    const Matrix<double> tau = influence.pairwise(slices(ridge.queries, 4), training, prediction);
    const Vector<double> own = influence.self(training, prediction);
    for (Index i = 0; i < ridge.examples; ++i) {
      // tau(i, i) / N = h_i r_i, with the leverage h_i.
      const double leverage = own(i) / (n * residuals(i));
      CHECK(leverage ==
            Approx(2 / n * x.col(i).dot(ridge.hessian().ldlt().solve(x.col(i)))).epsilon(1e-8));
      const Vector<double> change = ridge.fit(i) - theta;
      const Vector<double> predicted =
          2 / n * residuals(i) * ridge.hessian().ldlt().solve(x.col(i));
      CHECK(relative_error(Vector<double>(predicted / (1 - leverage)), change) < 1e-8);
      // Influence leaves 1 / (1 - h_i) out, and is exact with it.
      const Vector<double> by_influence = tau.col(i) / n;
      CHECK(relative_error(by_influence, Vector<double>(of_queries.transpose() * predicted)) <
            1e-8);
      CHECK(relative_error(Vector<double>(by_influence / (1 - leverage)),
                           Vector<double>(of_queries.transpose() * change)) < 1e-8);
      CHECK(relative_error(by_influence, Vector<double>(of_queries.transpose() * change)) > 1e-3);
    }
    // Without the penalty in the curvature it is another number.
    Influence undamped(ridge.model, ridge.loss, curvature,
                       {.strategy = strategy, .relative_damping = 0, .damping = 1e-12});
    CHECK(relative_error(undamped.pairwise(slices(ridge.queries, 4), training, prediction), tau) >
          1e-2);
  }
}

TEST_CASE("Influence: positive scores are of examples whose removal raises the query's loss") {
  Logistic logistic;
  const auto training = slices(logistic.data, 16);
  const auto queries = slices(logistic.queries, 5);
  const auto curvature = estimate_curvature(logistic.model, logistic.loss, training,
                                            {.structure = CurvatureStructure::Full});
  const InfluenceOptions options{
      .strategy = Strategy::Full, .relative_damping = 0, .damping = Logistic::kPenalty};
  const auto n = static_cast<double>(logistic.examples);
  const Matrix<double> predicted =
      Influence(logistic.model, logistic.loss, curvature, options).pairwise(queries, training) / n;
  const Matrix<double> of_margins = Influence(logistic.model, logistic.loss, curvature, options)
                                        .pairwise(queries, training, Margin{}) /
                                    n;
  const Matrix<double> of_logarithms = Influence(logistic.model, logistic.loss, curvature, options)
                                           .pairwise(queries, training, LogProbability{}) /
                                       n;
  CHECK(relative_error(of_logarithms, Matrix<double>(-predicted)) < 1e-12);
  const Matrix<double> inner_products =
      Influence(logistic.model, logistic.loss, curvature, {.strategy = Strategy::Identity})
          .pairwise(queries, training);

  const auto margins = [&] {
    return Margin{}.values(logistic.model.forward(logistic.queries.inputs),
                           logistic.queries.targets);
  };
  const Vector<double> before = logistic.query_losses();
  const Vector<double> margins_before = margins();
  Matrix<double> retrained(5, logistic.examples);
  Matrix<double> retrained_margins(5, logistic.examples);
  for (Index i = 0; i < logistic.examples; ++i) {
    logistic.fit(subset(logistic.data, all_but(i, logistic.examples)), (n - 1) / n);
    retrained.col(i) = logistic.query_losses() - before;
    retrained_margins.col(i) = margins() - margins_before;
  }
  Index right_signs = 0, large = 0;
  for (Index q = 0; q < 5; ++q) {
    CHECK(correlation(predicted.row(q), retrained.row(q)) > 0.98);
    CHECK(correlation(of_margins.row(q), retrained_margins.row(q)) > 0.98);
    CHECK(correlation(inner_products.row(q), retrained.row(q)) <
          correlation(predicted.row(q), retrained.row(q)));
    for (Index i = 0; i < logistic.examples; ++i) {
      if (std::abs(retrained(q, i)) < 3e-4) continue;
      ++large;
      right_signs += (predicted(q, i) > 0) == (retrained(q, i) > 0) ? 1 : 0;
    }
  }
  CHECK(large > 100);
  CHECK(right_signs == large);
  CHECK(relative_error(predicted, retrained) < 0.15);  // to first order
}

TEST_CASE("Influence: K-FAC and EKFAC have one scale where weights are shared") {
  // A deep linear network on tokens, with an output for each token: both are exact. A factor with
  // the number of tokens in it would be seen against an absolute damping.
  Rng rng(3);
  Sequential model{Linear<double>(2, 3, rng), Linear<double>(3, 2, rng)};
  const MeanSquaredError<double> loss;
  const Shape shape{4, 2};
  const Dataset<double, Matrix<double>> data{random_matrix(8, 6, rng), random_matrix(8, 6, rng)};
  const auto training = slices(data, 6, shape);
  const auto scores = [&](Strategy strategy, CurvatureStructure structure) {
    const auto curvature = estimate_curvature(model, loss, training, {.structure = structure});
    return Influence(model, loss, curvature,
                     {.strategy = strategy, .relative_damping = 0, .damping = 0.3})
        .pairwise(training, training);
  };
  const Matrix<double> exact = scores(Strategy::Full, CurvatureStructure::Full);
  CHECK(relative_error(scores(Strategy::Kfac, CurvatureStructure::Kronecker), exact) < 1e-10);
  CHECK(relative_error(scores(Strategy::Ekfac, CurvatureStructure::Ekfac), exact) < 1e-10);
  CHECK(relative_error(scores(Strategy::Diagonal, CurvatureStructure::Diagonal), exact) > 1e-2);
}

}  // namespace kfac::test::leave_one_out_test
