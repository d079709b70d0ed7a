#include "support/influence_study.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include <Eigen/Cholesky>

#include <kfac/attribution/influence.hpp>
#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/data/subset.hpp>
#include <kfac/kfac.hpp>

#include "support/tabular.hpp"

namespace examples {
namespace {

using Data = kfac::Dataset<double>;
using Loss = kfac::SoftmaxCrossEntropy<double>;
using Strategy = kfac::InfluenceStrategy;
using Structure = kfac::CurvatureStructure;
using Network = kfac::Sequential<kfac::Linear<double>, kfac::Tanh<double>, kfac::Linear<double>>;
using Seconds = std::chrono::duration<double>;

constexpr Index kPixels = 64;
constexpr Index kHidden = 32;
constexpr Index kClasses = 10;

Network trained(const InfluenceSettings& settings, const Data& data, Index seed) {
  kfac::Rng rng(settings.seed + 1000 + static_cast<std::uint64_t>(seed));
  Network model{kfac::Linear<double>(kPixels, kHidden, rng), kfac::Tanh<double>{},
                kfac::Linear<double>(kHidden, kClasses, rng)};
  const Loss loss;
  auto optimizer = kfac::make_optimizer<kfac::Sgd>(model, loss,
                                                   {.learning_rate = settings.learning_rate,
                                                    .momentum = 0.9,
                                                    .weight_decay = settings.weight_decay});
  for (Index epoch = 0; epoch < settings.epochs; ++epoch)
    for (const auto& [x, y] : kfac::batches(data, settings.batch_size, rng)) optimizer.step(x, y);
  return model;
}

/// The rank of each number, from 0; of equal ones the mean.
Eigen::VectorXd ranks(const Eigen::VectorXd& values) {
  std::vector<Index> order(static_cast<std::size_t>(values.size()));
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) { return values(a) < values(b); });
  Eigen::VectorXd result(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last + 1 < order.size() && values(order[last + 1]) == values(order[first])) ++last;
    for (std::size_t i = first; i <= last; ++i)
      result(order[i]) = static_cast<double>(first + last) / 2;
    first = last + 1;
  }
  return result;
}

double spearman(const Eigen::VectorXd& a, const Eigen::VectorXd& b) {
  Eigen::VectorXd x = ranks(a);
  Eigen::VectorXd y = ranks(b);
  x.array() -= x.mean();
  y.array() -= y.mean();
  return x.dot(y) / std::max(x.norm() * y.norm(), std::numeric_limits<double>::min());
}

/// What training on halves of the data gave.
struct Halves {
  Eigen::MatrixXd members;  ///< `training x subsets`: 1 for the examples in a half, else 0
  Eigen::MatrixXd margins;  ///< `queries x subsets`, mean over the networks

  /// The linear data-modelling score of scores, `queries x training`.
  double score(const Eigen::MatrixXd& scores) const {
    const Eigen::MatrixXd predicted = scores * members;
    double sum = 0;
    for (Index q = 0; q < margins.rows(); ++q) sum += spearman(predicted.row(q), margins.row(q));
    return sum / static_cast<double>(margins.rows());
  }
};

Halves retrain(const InfluenceSettings& settings, const Data& training, const Data& queries,
               const std::function<void()>& progress) {
  kfac::Rng rng(settings.seed + 1);
  Halves halves{Eigen::MatrixXd::Zero(training.examples(), settings.subsets),
                Eigen::MatrixXd::Zero(queries.examples(), settings.subsets)};
  for (Index subset = 0; subset < settings.subsets; ++subset) {
    std::vector<Index> order(static_cast<std::size_t>(training.examples()));
    std::iota(order.begin(), order.end(), Index{0});
    rng.shuffle(order);
    order.resize(order.size() / 2);
    for (const Index example : order) halves.members(example, subset) = 1;
    const Data half = kfac::subset(training, order);
    for (Index seed = 0; seed < settings.seeds; ++seed) {
      Network model = trained(settings, half, seed);
      halves.margins.col(subset) +=
          kfac::Margin{}.values(model.forward(queries.inputs), queries.targets) /
          static_cast<double>(settings.seeds);
      progress();
    }
  }
  return halves;
}

/// Exact curvature, dense, of which there is one matrix for all parameters; with inner products of
/// gradients, a column for each example.
class Exact {
 public:
  Exact(Network& model, const Loss& loss, const Data& training, const Data& queries)
      : blocks_(kfac::parameter_blocks(model)),
        whole_(kfac::Ggn(model, loss, kfac::slices(training, 50)).dense()),
        of_training_(gradients(model, training, kfac::LossMeasurement{loss})),
        of_queries_(gradients(model, queries, kfac::Margin{})) {}

  /// Scores, `queries x training`, with a share of the mean eigenvalue as the damping if
  /// `damping` is 0; of the matrix without its parts between layers if `by_layer`.
  Eigen::MatrixXd scores(double damping, bool by_layer) const {
    Eigen::MatrixXd result = Eigen::MatrixXd::Zero(of_queries_.cols(), of_training_.cols());
    if (!by_layer) {
      add_scores(0, whole_.rows(), damping, result);
      return result;
    }
    for (const kfac::ParameterBlock& block : blocks_)
      add_scores(block.offset, block.size(), damping, result);
    return result;
  }

 private:
  template <class M>
  static Eigen::MatrixXd gradients(Network& model, const Data& data, const M& measurement) {
    Eigen::MatrixXd result(model.parameter_count(), data.examples());
    Eigen::MatrixXd of_outputs(kClasses, 1);
    for (Index n = 0; n < data.examples(); ++n) {
      const Eigen::MatrixXd outputs = model.forward(data.inputs.col(n));
      measurement(outputs, data.targets.segment(n, 1), kfac::MatrixRef<double>(of_outputs));
      model.backward(of_outputs);
      result.col(n) = model.gradient();
    }
    return result;
  }

  void add_scores(Index first, Index size, double damping, Eigen::MatrixXd& scores) const {
    Eigen::MatrixXd damped = whole_.block(first, first, size, size);
    damped.diagonal().array() += damping > 0 ? damping : 0.1 * damped.diagonal().mean();
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> in_place(damped);
    Eigen::MatrixXd solved = of_queries_.middleRows(first, size);
    in_place.solveInPlace(solved);
    scores.noalias() += solved.transpose() * of_training_.middleRows(first, size);
  }

  std::vector<kfac::ParameterBlock> blocks_;
  Eigen::MatrixXd whole_, of_training_, of_queries_;
};

/// Adds to a study how well each network's scores of each kind predict, at each damping.
class Attributions {
 public:
  Attributions(const InfluenceSettings& settings, const Halves& halves, InfluenceStudy& study)
      : settings_(settings), halves_(halves), study_(study) {}

  void add(Network& model) {
    const Loss loss;
    next_ = 0;
    const auto training = kfac::slices(study_.training, 250);
    const auto queries = kfac::slices(study_.queries, 100);
    const auto diagonal =
        kfac::estimate_curvature(model, loss, training, {.structure = Structure::Diagonal});
    const auto ekfac =
        kfac::estimate_curvature(model, loss, training, {.structure = Structure::Ekfac});
    const auto scores = [&](Strategy strategy, double damping) -> Eigen::MatrixXd {
      const auto& estimate = strategy == Strategy::Diagonal ? diagonal : ekfac;
      const double relative = damping > 0 ? 0 : 0.1;
      kfac::Influence influence(
          model, loss, estimate,
          {.strategy = strategy, .relative_damping = relative, .damping = damping});
      return influence.pairwise(queries, training, kfac::Margin{});
    };
    take("gradients' inner products", false,
         [&](double damping) { return scores(Strategy::Identity, damping); });
    take("diagonal", true, [&](double damping) { return scores(Strategy::Diagonal, damping); });
    take("K-FAC", true, [&](double damping) { return scores(Strategy::Kfac, damping); });
    take("EKFAC", true, [&](double damping) { return scores(Strategy::Ekfac, damping); });
    study_.scores -= scores(Strategy::Ekfac, 0) / static_cast<double>(settings_.seeds);
    const Exact exact(model, loss, study_.training, study_.queries);
    take("exact, layer by layer", true,
         [&](double damping) { return exact.scores(damping, true); });
    take("exact, all layers", true, [&](double damping) { return exact.scores(damping, false); });
  }

 private:
  /// Adds one network's share of a kind's scores. Without an example a margin changes by its score:
  /// with it, by the opposite.
  template <class Scores>
  void take(const std::string& name, bool is_damped, Scores&& scores) {
    if (next_ == study_.predictions.size()) {
      const std::size_t count = is_damped ? settings_.dampings.size() : 0;
      study_.predictions.push_back({name, 0, std::vector<double>(count, 0.0)});
    }
    Prediction& prediction = study_.predictions[next_++];
    const auto share = [&](double damping) {
      return halves_.score(-scores(damping)) / static_cast<double>(settings_.seeds);
    };
    prediction.by_default += share(0);
    for (std::size_t i = 0; i < prediction.at_damping.size(); ++i)
      prediction.at_damping[i] += share(settings_.dampings[i]);
  }

  const InfluenceSettings& settings_;
  const Halves& halves_;
  InfluenceStudy& study_;
  std::size_t next_ = 0;
};

}  // namespace

InfluenceStudy study_influence(const InfluenceSettings& settings,
                               const std::function<void()>& progress) {
  using Clock = std::chrono::steady_clock;
  kfac::Rng rng(settings.seed);
  const Data all = digits();
  if (settings.training + settings.queries > all.examples())
    throw std::invalid_argument("--training and --queries are more than the " +
                                std::to_string(all.examples()) + " digits there are");
  std::vector<Index> order(static_cast<std::size_t>(all.examples()));
  std::iota(order.begin(), order.end(), Index{0});
  rng.shuffle(order);
  const auto middle = order.begin() + settings.training;
  InfluenceStudy study;
  study.training = kfac::subset(all, {order.begin(), middle});
  study.queries = kfac::subset(all, {middle, middle + settings.queries});
  study.scores.setZero(settings.queries, settings.training);

  auto start = Clock::now();
  const Halves halves = retrain(settings, study.training, study.queries, progress);
  study.retraining_seconds = Seconds(Clock::now() - start).count();
  start = Clock::now();
  Attributions attributions(settings, halves, study);
  for (Index seed = 0; seed < settings.seeds; ++seed) {
    Network model = trained(settings, study.training, seed);
    const auto share = 1 / static_cast<double>(settings.seeds);
    study.training_accuracy += share * kfac::accuracy(model, study.training);
    study.query_accuracy += share * kfac::accuracy(model, study.queries);
    attributions.add(model);
    progress();
  }
  study.attribution_seconds = Seconds(Clock::now() - start).count();
  return study;
}

}  // namespace examples
