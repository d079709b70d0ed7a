#include <array>

#include <Eigen/Eigenvalues>

#include <kfac/merging/penalized_gradient.hpp>
#include <kfac/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/merge_models.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::laplace_penalty_test {

namespace {

using Penalty = LaplacePenalty<double>;
using Structure = CurvatureStructure;

constexpr std::array kCompressions{PenaltyCompression::KeepAll, PenaltyCompression::FactorSum,
                                   PenaltyCompression::Nearest};

/// A network that goes through three tasks.
struct Course {
  Candidates tasks;
  AnyModel model;

  explicit Course(std::uint64_t seed, Structure structure = Structure::Kronecker) {
    Rng rng(seed);
    add_random(tasks, 3, structure, rng);
    model = tasks.networks.back();
  }
  /// Through the first of them.
  void take(Penalty& penalty, std::size_t count = 3) const {
    for (std::size_t t = 0; t < count; ++t)
      penalty.add_task(tasks.estimates[t], tasks.models[t].parameters);
  }
};

template <class Body>
void for_each_course(Structure structure, Body&& body) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    INFO("seed " << seed);
    Course course(seed, structure);
    body(course);
  }
}

/// Of a sum of criteria.
Matrix<double> dense_of(const Estimates& estimate, std::size_t i) {
  const BlockEstimate<double>& block = estimate.blocks[i];
  const double scale = 1 / estimate.record.loss_scale;
  if (!block.has_factors())
    return scale * Matrix<double>(Vector<double>(block.diagonal.reshaped()).asDiagonal());
  return scale * linalg::kronecker_product<double>(block.factors.a, block.factors.g);
}

/// The nearest Kronecker product, from the whole matrix: the largest singular pair of what has
/// vec(G) vec(A)^T where the matrix has A (x) G.
Matrix<double> nearest(const Matrix<double>& sum, Index inputs, Index outputs) {
  Matrix<double> rearranged(outputs * outputs, inputs * inputs);
  for (Index j = 0; j < inputs; ++j)
    for (Index i = 0; i < inputs; ++i)
      rearranged.col(j * inputs + i) =
          sum.block(i * outputs, j * outputs, outputs, outputs).reshaped();
  const Matrix<double> gram = rearranged * rearranged.transpose();
  const Eigen::SelfAdjointEigenSolver<Matrix<double>> eigen(gram);
  const Vector<double> u = eigen.eigenvectors().col(gram.cols() - 1);
  const Matrix<double> product = u * (u.transpose() * rearranged);
  Matrix<double> result(sum.rows(), sum.cols());
  for (Index j = 0; j < inputs; ++j)
    for (Index i = 0; i < inputs; ++i)
      result.block(i * outputs, j * outputs, outputs, outputs) =
          product.col(j * inputs + i).reshaped(outputs, outputs);
  return result;
}

/// The curvature of all tasks in a block, as each compression is defined.
Matrix<double> dense_sum(const Course& course, std::size_t i, PenaltyCompression compression) {
  const ParameterBlock& block = course.tasks.models[0].blocks[i];
  Matrix<double> sum = Matrix<double>::Zero(block.size(), block.size());
  Matrix<double> a = Matrix<double>::Zero(block.columns(), block.columns());
  Matrix<double> g = Matrix<double>::Zero(block.outputs, block.outputs);
  double examples = 0;
  for (std::size_t t = 0; t < course.tasks.estimates.size(); ++t) {
    const Estimates& estimate = course.tasks.estimates[t];
    sum += dense_of(estimate, i);
    if (!estimate.blocks[i].has_factors()) continue;
    if (compression == PenaltyCompression::Nearest && t > 0)
      sum = nearest(sum, block.columns(), block.outputs);
    const auto own = static_cast<double>(estimate.record.examples);
    a += own * estimate.blocks[i].factors.a;
    g += estimate.blocks[i].factors.g / estimate.record.loss_scale;
    examples += own;
  }
  const bool factored = course.tasks.estimates[0].blocks[i].has_factors();
  if (compression == PenaltyCompression::FactorSum && factored)
    return linalg::kronecker_product<double>(a / examples, g);
  return sum;
}

Matrix<double> dense_sum(const Course& course, PenaltyCompression compression) {
  const Index size = course.tasks.models[0].parameters.size();
  Matrix<double> result = Matrix<double>::Zero(size, size);
  for (std::size_t i = 0; i < course.tasks.models[0].blocks.size(); ++i) {
    const ParameterBlock& block = course.tasks.models[0].blocks[i];
    result.block(block.offset, block.offset, block.size(), block.size()) =
        dense_sum(course, i, compression);
  }
  return result;
}

double quadratic(const Matrix<double>& f, const Vector<double>& v) {
  return v.dot(f * v) / 2;
}

}  // namespace

TEST_CASE("LaplacePenalty: value and gradient are those of the dense quadratic") {
  for (const Structure structure : {Structure::Kronecker, Structure::Diagonal})
    for_each_course(structure, [&](Course& course) {
      for (const PenaltyCompression compression : kCompressions) {
        INFO("compression " << static_cast<int>(compression));
        Penalty penalty(course.model, {.strength = 3,
                                       .prior_precision = 0.2,
                                       .compression = compression,
                                       .loss_scale = 0.05});
        course.take(penalty);
        CHECK(penalty.tasks() == 3);
        Matrix<double> f = 3 * dense_sum(course, compression);
        f.diagonal().array() += 0.2;
        f *= 0.05;
        Rng rng(5);
        const Vector<double> parameters = random_matrix(f.rows(), 1, rng);
        const Vector<double> away = parameters - course.tasks.models.back().parameters;
        CHECK(penalty.value(parameters) == Approx(quadratic(f, away)).epsilon(1e-9));
        CHECK(relative_error(penalty.gradient(parameters), Vector<double>(f * away)) < 1e-9);
        CHECK(relative_error(penalty.product(away), Vector<double>(f * away)) < 1e-9);

        // At the network's own parameters, in addition to the gradient there is.
        set_flat_parameters(course.model, parameters);
        course.model.gradient().setConstant(7);
        CHECK(penalty.add_gradient() == penalty.value(parameters));
        CHECK(relative_error(Vector<double>(course.model.gradient().array() - 7),
                             Vector<double>(f * away)) < 1e-9);
        CHECK(penalty.value() == penalty.value(parameters));
      }
    });
}

TEST_CASE("LaplacePenalty: the gradient is that of the value, by differences") {
  for_each_course(Structure::Kronecker, [](Course& course) {
    Penalty penalty(course.model, {.strength = 2, .prior_precision = 0.1});
    course.take(penalty);
    Rng rng(6);
    const Vector<double> at = random_matrix(course.model.parameter_count(), 1, rng);
    const Vector<double> direction = random_matrix(at.size(), 1, rng);
    constexpr double kStep = 1e-3;  // of a quadratic, central differences are exact
    const double slope =
        (penalty.value(at + kStep * direction) - penalty.value(at - kStep * direction)) /
        (2 * kStep);
    CHECK(slope == Approx(penalty.gradient(at).dot(direction)).epsilon(1e-8));
  });
}

TEST_CASE("LaplacePenalty: the nearest product is never farther from the sum than summed factors") {
  for_each_course(Structure::Kronecker, [](Course& course) {
    const Matrix<double> exact = dense_sum(course, PenaltyCompression::KeepAll);
    const auto error = [&](PenaltyCompression compression, std::size_t i, std::size_t tasks) {
      Penalty penalty(course.model, {.compression = compression, .loss_scale = 1});
      course.take(penalty, tasks);
      const ParameterBlock& block = penalty.blocks()[i];
      const PenaltyBlock<double>& own = penalty.state().quadratics[0].blocks[i];
      Matrix<double> sum = Matrix<double>::Zero(block.size(), block.size());
      for (std::size_t t = 0; t < tasks; ++t) sum += dense_of(course.tasks.estimates[t], i);
      return (linalg::kronecker_product<double>(own.terms[0].a, own.terms[0].g) - sum).norm() /
             sum.norm();
    };
    for (std::size_t i = 0; i < course.tasks.models[0].blocks.size(); ++i) {
      if (!course.tasks.models[0].blocks[i].factored) continue;
      CHECK(error(PenaltyCompression::Nearest, i, 2) <=
            error(PenaltyCompression::FactorSum, i, 2) + 1e-12);
    }
  });
}

TEST_CASE("LaplacePenalty: each task may keep its own centre") {
  for (const Structure structure : {Structure::Kronecker, Structure::Diagonal})
    for_each_course(structure, [](Course& course) {
      Penalty penalty(course.model, {.strength = 3,
                                     .prior_precision = 0.2,
                                     .centre = PenaltyCentre::EachTask,
                                     .loss_scale = 1});
      course.take(penalty);
      Rng rng(7);
      const Vector<double> parameters = random_matrix(course.model.parameter_count(), 1, rng);
      Vector<double> gradient = 0.2 * parameters;
      double value = 0.1 * parameters.squaredNorm();
      for (std::size_t t = 0; t < 3; ++t) {
        const Vector<double> away = parameters - course.tasks.models[t].parameters;
        for (std::size_t i = 0; i < penalty.blocks().size(); ++i) {
          const ParameterBlock& block = penalty.blocks()[i];
          const Matrix<double> f = 3 * dense_of(course.tasks.estimates[t], i);
          const Vector<double> own = away.segment(block.offset, block.size());
          value += quadratic(f, own);
          gradient.segment(block.offset, block.size()) += f * own;
        }
      }
      CHECK(penalty.value(parameters) == Approx(value).epsilon(1e-10));
      CHECK(relative_error(penalty.gradient(parameters), gradient) < 1e-10);
    });
}

TEST_CASE("LaplacePenalty: strength, decay and scale of the loss do as they say") {
  Course course(3);
  Rng rng(8);
  const Vector<double> at = random_matrix(course.model.parameter_count(), 1, rng);
  for (const PenaltyCompression compression : kCompressions) {
    Penalty penalty(course.model, {.compression = compression, .loss_scale = 1});
    course.take(penalty);
    const double value = penalty.value(at);
    penalty.set_strength(4);
    CHECK(penalty.value(at) == Approx(4 * value));
    penalty.set_loss_scale(0.01);
    CHECK(penalty.value(at) == Approx(0.04 * value));
    penalty.set_strength(0);
    CHECK(penalty.value(at) == 0);
    CHECK(penalty.product(at).isZero(0));

    // By default the scale is that of the latest task.
    Penalty latest(course.model, {.compression = compression});
    course.take(latest);
    CHECK(latest.value(at) ==
          Approx(value * course.tasks.estimates.back().record.loss_scale).epsilon(1e-12));

    // With a decay of 0 there is only the last task.
    Penalty forgetful(course.model, {.compression = compression, .decay = 0, .loss_scale = 1});
    course.take(forgetful);
    Penalty last(course.model, {.compression = compression, .loss_scale = 1});
    last.add_task(course.tasks.estimates.back(), course.tasks.models.back().parameters);
    CHECK(forgetful.value(at) == Approx(last.value(at)).epsilon(1e-12));
  }
  Penalty decaying(course.model,
                   {.compression = PenaltyCompression::KeepAll, .decay = 0.5, .loss_scale = 1});
  course.take(decaying, 2);
  Penalty first(course.model, {.loss_scale = 1}), second(course.model, {.loss_scale = 1});
  first.add_task(course.tasks.estimates[0], at);
  second.add_task(course.tasks.estimates[1], at);
  CHECK(relative_error(decaying.product(at),
                       Vector<double>(0.5 * first.product(at) + second.product(at))) < 1e-12);
}

TEST_CASE("LaplacePenalty: before the first task there is the prior") {
  Course course(4);
  Penalty penalty(course.model, {.prior_precision = 0.3, .loss_scale = 0.1});
  Rng rng(9);
  const Vector<double> at = random_matrix(course.model.parameter_count(), 1, rng);
  CHECK(penalty.value(at) == Approx(0.015 * at.squaredNorm()));
  CHECK(relative_error(penalty.gradient(at), Vector<double>(0.03 * at)) < 1e-14);
  CHECK(message_of<StateError>([&] { Penalty(course.model, {.prior_precision = 0.3}).value(); }) ==
        "kfac::LaplacePenalty: there is a prior but no loss scale, expected 'loss_scale' in "
        "the options before the first task");
  CHECK(Penalty(course.model).value(at) == 0);
}

TEST_CASE("LaplacePenalty: linear models that learn one task after another learn all of them") {
  // Their losses are quadratic and their curvature exact, so nothing at all is forgotten.
  Rng rng(10);
  AnyModel model;
  append_linear(model, {3, 2}, rng, true);
  const MeanSquaredError<double> loss({.reduction = Reduction::Sum});
  Matrix<double> all_x(3, 0), all_y(2, 0);
  Penalty penalty(model, {.compression = PenaltyCompression::Nearest});
  for (Index t = 0; t < 3; ++t) {
    const Matrix<double> x = random_matrix(3, 20, rng);
    const Matrix<double> y = random_matrix(2, 20, rng);
    all_x.conservativeResize(Eigen::NoChange, all_x.cols() + 20);
    all_y.conservativeResize(Eigen::NoChange, all_y.cols() + 20);
    all_x.rightCols(20) = x;
    all_y.rightCols(20) = y;
    Sgd sgd(model, {.learning_rate = 0.004});
    for (int step = 0; step < 4000; ++step)
      sgd.step(penalized_gradient(model, loss, penalty, x, y));
    const std::vector<Slice<double, Matrix<double>>> data{{x, y}};
    penalty.add_task(estimate_curvature(model, loss, data));
  }
  Matrix<double> augmented = Matrix<double>::Ones(4, all_x.cols());
  augmented.topRows(3) = all_x;
  const Matrix<double> gram = augmented * augmented.transpose();
  const Matrix<double> joint = gram.ldlt().solve(augmented * all_y.transpose()).transpose();
  CHECK(relative_error(flat_parameters(model), Vector<double>(joint.reshaped())) < 1e-8);
}

TEST_CASE("LaplacePenalty: a state that was saved is taken on, bit for bit") {
  for (const Structure structure : {Structure::Kronecker, Structure::Diagonal})
    for (const PenaltyCompression compression : kCompressions) {
      Course course(5, structure);
      Penalty penalty(course.model, {.compression = compression});
      course.take(penalty);
      Penalty other(course.model, {.compression = compression});
      if (compression == PenaltyCompression::KeepAll) {
        for (int t = 0; t < 3; ++t)
          other.add_task(course.tasks.estimates[0], course.tasks.models[0].parameters);
      }
      const SavedState saved(penalty);
      saved.restore(other);
      Rng rng(11);
      const Vector<double> at = random_matrix(course.model.parameter_count(), 1, rng);
      CHECK(other.gradient(at) == penalty.gradient(at));
      CHECK(other.tasks() == 3);
      // It goes on alike.
      penalty.add_task(course.tasks.estimates[0], at);
      other.add_task(course.tasks.estimates[0], at);
      CHECK(other.product(at) == penalty.product(at));
    }
}

TEST_CASE("LaplacePenalty: only where all is kept does memory grow with the tasks") {
  for (const Structure structure : {Structure::Kronecker, Structure::Diagonal})
    for_each_course(structure, [&](Course& course) {
      const auto bytes = [&](const PenaltyOptions& options, std::size_t tasks) {
        Penalty penalty(course.model, options);
        course.take(penalty, tasks);
        CHECK(penalty.memory().total() == penalty_memory<double>(penalty.blocks(), structure,
                                                                 static_cast<Index>(tasks), options)
                                              .total());
        return penalty.memory().total();
      };
      CHECK(bytes({}, 3) == bytes({}, 1));
      const PenaltyOptions factor_sum{.compression = PenaltyCompression::FactorSum};
      CHECK(bytes(factor_sum, 3) == bytes(factor_sum, 1));
      const PenaltyOptions all{.compression = PenaltyCompression::KeepAll};
      if (structure == Structure::Kronecker)
        CHECK(bytes(all, 3) - bytes(all, 2) == bytes(all, 2) - bytes(all, 1));
      CHECK((bytes(all, 3) > bytes(all, 1)) == (structure == Structure::Kronecker));
      const PenaltyOptions each{.centre = PenaltyCentre::EachTask};
      CHECK(bytes(each, 3) > bytes(each, 2));
    });
}

TEST_CASE("LaplacePenalty: bad input is named, and changes nothing") {
  Course course(0);  // of all kinds of blocks
  Penalty penalty(course.model);
  course.take(penalty, 1);
  const SavedState before(penalty);
  const Vector<double>& at = course.tasks.models[0].parameters;
  const std::string add = "kfac::LaplacePenalty::add_task: ";
  const auto with = [&](auto&& change) {
    Estimates changed = course.tasks.estimates[0];
    change(changed);
    return changed;
  };
  const std::string name = penalty.blocks()[0].name();
  CHECK(message_of<ShapeError>([&] {
          penalty.add_task(with([](Estimates& e) { e.blocks.pop_back(); }));
        }).find(add + "'estimate' has ") == 0);
  CHECK(message_of<ShapeError>([&] {
          penalty.add_task(course.tasks.estimates[0], at.head(3));
        }).find(add + "'parameters' has 3 entries, expected ") == 0);
  CHECK(message_of<StateError>([&] {
          penalty.add_task(with([](Estimates& e) {
            e.blocks[0].factors = {};
            e.blocks[0].diagonal.resize(0, 0);
          }));
        }) == add + "'estimate' has neither factors nor a diagonal, expected one of them (layer '" +
                  name + "')");
  CHECK(message_of<ValueError>([&] {
          penalty.add_task(with([](Estimates& e) { e.blocks[0].factors.a(0, 0) = std::nan(""); }));
        }) ==
        add + "'estimate.a' is nan at (0, 0), expected finite numbers (layer '" + name + "')");
  CHECK(message_of<ValueError>([&] {
          penalty.add_task(with([](Estimates& e) { e.record.examples = 0; }));
        }).find(add + "'estimate' has 0 examples and the loss_scale ") == 0);
  CHECK(message_of<ShapeError>([&] {
          penalty.value(at.head(2));
        }).find("kfac::LaplacePenalty::value: 'parameters' has 2 entries, expected ") == 0);
  CHECK(message_of<ShapeError>([&] { penalty.set_state({}); }) ==
        "kfac::LaplacePenalty::set_state: 'quadratics' has 0 quadratics, expected 1");
  CHECK(SavedState(penalty) == before);

  const auto message = [&](const PenaltyOptions& options) {
    return message_of<OptionError>([&] { Penalty(course.model, options); });
  };
  CHECK(message({.strength = -1}) ==
        "kfac::LaplacePenalty: 'strength' is -1, expected >= 0 and finite");
  CHECK(message({.prior_precision = -1}) ==
        "kfac::LaplacePenalty: 'prior_precision' is -1, expected >= 0 and finite");
  CHECK(message({.decay = 2}) == "kfac::LaplacePenalty: 'decay' is 2, expected in [0, 1]");
  CHECK(message({.loss_scale = 0.0}) ==
        "kfac::LaplacePenalty: 'loss_scale' is 0, expected > 0 and finite");
  CHECK(message({.memory_limit = 0}) == "kfac::LaplacePenalty: 'memory_limit' is 0, expected > 0");
  Penalty small(course.model, {.memory_limit = 100});
  CHECK(message_of<MemoryError>([&] {
          course.take(small, 1);
        }).find("kfac::LaplacePenalty::add_task: 'memory_limit' is 100 B, expected at least ") ==
        0);
  CHECK(small.tasks() == 0);
}

}  // namespace kfac::test::laplace_penalty_test
