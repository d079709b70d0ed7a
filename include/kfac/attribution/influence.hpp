#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/attribution/block_inverse.hpp>
#include <kfac/attribution/measured_passes.hpp>
#include <kfac/attribution/query_gradients.hpp>
#include <kfac/curvature/memory_estimate.hpp>

namespace kfac {

/// What each layer has to do with scores, which are the sum.
template <RealScalar S>
struct LayerScores {
  std::vector<std::string> layers;  ///< names
  std::vector<Matrix<S>> scores;    ///< `queries x examples` (`examples x 1` of self-influence)

  Matrix<S> total() const {
    Matrix<S> sum = scores.front();
    for (std::size_t i = 1; i < scores.size(); ++i) sum += scores[i];
    return sum;
  }
};

/// Which training examples a trained network owes its answers to. The influence of an example t on
/// a measurement m of a query q is
///
///     tau(q, t) = (grad m_q)^T (H + damping I)^-1 grad l_t
///
/// with l_t the loss of the example by itself and H the curvature of their mean over the N training
/// examples, block by block. To first order, training without the examples of a set changes m_q by
/// + 1/N the sum of their tau: with the loss as the measurement a positive score marks an example
/// that helps.
///
///     const auto data = kfac::slices(train, 500);
///     const auto curvature = kfac::estimate_curvature(
///         model, loss, data, {.structure = kfac::CurvatureStructure::Ekfac});
///     kfac::Influence influence(model, loss, curvature);
///     const Eigen::MatrixXf scores = influence.pairwise(kfac::slices(queries, 100), data);
///
/// Where a layer's weights are used once no gradient of a single training example is formed. The
/// network is evaluated without dropout and no observer hears of it; it must outlive this, stay
/// where it is, and have the parameters at which the curvature was estimated.
/// \source Koh and Liang 2017, arXiv 1703.04730; Grosse et al. 2023, arXiv 2308.03296
template <class Model, Loss LossType>
class Influence {
  using S = typename LossType::Scalar;

 public:
  using Scalar = S;
  using Slices = std::vector<Slice<S, typename LossType::Targets>>;

  /// `estimate` is not needed afterwards, nor at all for `InfluenceStrategy::Identity`.
  /// \throws OptionError; ShapeError if the estimate is of another network; StateError if it has
  ///         not what the strategy wants; ValueError if it is not finite; SingularError if the
  ///         damped curvature is
  Influence(Model& model, const LossType& loss, const CurvatureEstimate<S>& estimate,
            const InfluenceOptions& options = {})
      : model_(model), loss_(loss) {
    options.validate();
    const std::vector<ParameterBlock> blocks = parameter_blocks(model);
    if (options.strategy != InfluenceStrategy::Identity)
      detail::check_estimate("kfac::Influence", estimate, blocks);
    const CurvatureRecord& record = estimate.record;
    // That of a mean over the examples, whichever the loss is.
    const double scale = record.averages ? 1 : 1 / static_cast<double>(record.examples);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      inverses_.emplace_back();
      if (options.layers && !options.layers(blocks[b].layer)) continue;
      if (options.strategy == InfluenceStrategy::Identity)
        inverses_.back().emplace(BlockEstimate<S>{.block = blocks[b]}, scale, options);
      else
        inverses_.back().emplace(estimate.blocks[b], scale, options);
      if (names_.empty() || names_.back() != blocks[b].layer) names_.push_back(blocks[b].layer);
      layer_of_.resize(b + 1);
      layer_of_[b] = names_.size() - 1;
    }
    if (names_.empty())
      raise<StateError>("kfac::Influence: 'layers' picks none, expected at least one");
  }

  /// The scores of training examples (columns) for queries (rows), which may be the same.
  /// \throws ShapeError, ValueError if data do not fit, or gradients are not finite (naming the
  ///         layer); OptionError; MemoryError. So do all that follow.
  template <Measurement<LossType> M>
  Matrix<S> pairwise(const Slices& queries, const Slices& training, const M& measurement,
                     const ScoreOptions& options = {}) {
    return std::move(
        scores(queries, training, Passes::gradient_of(measurement), options, 1).front());
  }
  /// Of the queries' own losses.
  Matrix<S> pairwise(const Slices& queries, const Slices& training,
                     const ScoreOptions& options = {}) {
    return std::move(
        scores(queries, training, LossMeasurement<LossType>{loss_}, options, 1).front());
  }

  /// The same, layer by layer.
  template <Measurement<LossType> M>
  LayerScores<S> pairwise_by_layer(const Slices& queries, const Slices& training,
                                   const M& measurement, const ScoreOptions& options = {}) {
    return {names_,
            scores(queries, training, Passes::gradient_of(measurement), options, names_.size())};
  }
  LayerScores<S> pairwise_by_layer(const Slices& queries, const Slices& training,
                                   const ScoreOptions& options = {}) {
    return {names_,
            scores(queries, training, LossMeasurement<LossType>{loss_}, options, names_.size())};
  }

  /// The score of each example for itself: how much its own loss would rise if it had not been
  /// trained on. The highest are the outliers and the mislabelled.
  Vector<S> self(const Slices& training) { return self_scores(training, {}, 1).front().col(0); }
  /// The score of each example for a measurement of itself.
  template <Measurement<LossType> M>
  Vector<S> self(const Slices& training, const M& measurement) {
    return self_scores(training, Passes::gradient_of(measurement), 1).front().col(0);
  }
  LayerScores<S> self_by_layer(const Slices& training) {
    return {names_, self_scores(training, {}, names_.size())};
  }
  template <Measurement<LossType> M>
  LayerScores<S> self_by_layer(const Slices& training, const M& measurement) {
    return {names_, self_scores(training, Passes::gradient_of(measurement), names_.size())};
  }

  /// What pairwise scores take of memory, when that many of the queries are held at once.
  MemoryEstimate memory(Index queries, Index training, Index held, const ScoreOptions& options = {},
                        bool by_layer = false) const {
    MemoryEstimate result;
    const auto tables = static_cast<double>(by_layer ? names_.size() : 1);
    const auto rows = static_cast<double>(sums_queries(options) ? 1 : queries);
    const auto columns = static_cast<double>(sums_training(options) ? 1 : training);
    result.parts.push_back({"scores", tables * rows * columns * sizeof(S)});
    for (const auto& inverse : inverses_) {
      if (!inverse) continue;
      const ParameterBlock& block = inverse->block();
      double entries = detail::QueryGradients<S>::entries(block, options.rank);
      entries *= static_cast<double>(held);
      if (sums_training(options)) entries += static_cast<double>(block.size());
      result.parts.push_back({"layer " + block.name(), entries * sizeof(S)});
    }
    return result;
  }

  /// The damping of each block that counts, by its name.
  std::vector<std::pair<std::string, double>> dampings() const {
    std::vector<std::pair<std::string, double>> result;
    for (const auto& inverse : inverses_)
      if (inverse) result.emplace_back(inverse->block().name(), inverse->damping());
    return result;
  }

 private:
  using Passes = detail::MeasuredPasses<Model, LossType>;
  using Batch = SharedBatch<S>;
  using Gradient = typename Passes::Gradient;
  static constexpr const char* kWhere = "kfac::Influence";

  Passes passes() const {
    std::vector<bool> counts;
    for (const auto& inverse : inverses_) counts.push_back(inverse.has_value());
    return {model_, loss_, std::move(counts)};
  }

  static bool sums_queries(const ScoreOptions& options) {
    return options.aggregate == Aggregate::Queries || options.aggregate == Aggregate::Both;
  }
  static bool sums_training(const ScoreOptions& options) {
    return options.aggregate == Aggregate::Training || options.aggregate == Aggregate::Both;
  }

  /// How many of `rows` queries to hold at once.
  Index batch_of_queries(Index rows, Index training, const ScoreOptions& options,
                         std::size_t tables) const {
    const auto held = [&](Index count) {
      return memory(rows, training, count, options, tables > 1);
    };
    Index batch = options.query_batch > 0 ? std::min(options.query_batch, rows) : rows;
    if (options.query_batch == 0) {
      const double none = held(0).total();
      const double each = held(1).total() - none;
      const double room = (options.memory_limit - none) / each;
      if (room < static_cast<double>(batch)) batch = static_cast<Index>(std::max(room, 1.0));
    }
    detail::check_memory(kWhere, held(batch), options.memory_limit);
    return batch;
  }

  std::vector<Matrix<S>> scores(const Slices& queries, const Slices& training,
                                const Gradient& measurement, const ScoreOptions& options,
                                std::size_t tables) {
    options.validate();
    Passes::check_slices("queries", queries);
    Passes::check_slices("training", training);
    const Index rows = sums_queries(options) ? 1 : example_count(queries);
    const Index columns = sums_training(options) ? 1 : example_count(training);
    const Index batch = batch_of_queries(rows, example_count(training), options, tables);
    Passes passes = this->passes();
    const Gradient loss = passes.loss_gradient();
    std::vector<Matrix<S>> training_sums, query_sums;
    if (sums_training(options)) training_sums = passes.summed("training", training, loss);
    if (sums_queries(options)) query_sums = passes.summed("queries", queries, measurement);

    std::vector<std::optional<detail::QueryGradients<S>>> held(inverses_.size());
    for (std::size_t b = 0; b < held.size(); ++b)
      if (inverses_[b]) held[b].emplace(inverses_[b]->block(), options.rank, batch);
    std::vector<Matrix<S>> result(tables, Matrix<S>::Zero(rows, columns));
    const auto table = [&](std::size_t b) -> Matrix<S>& {
      return result[tables > 1 ? layer_of_[b] : 0];
    };
    for (Index first = 0; first < rows; first += batch) {
      const Index count = std::min(batch, rows - first);
      for (auto& block : held)
        if (block) block->clear();
      if (sums_queries(options)) {
        for (std::size_t b = 0; b < held.size(); ++b)
          if (held[b]) take(b, query_sums[b], *held[b]);
      } else {
        Passes::for_range(queries, first, count, [&](const auto& slice, Index) {
          passes.run(
              "queries", slice, measurement,
              [&](std::size_t b, const Batch& x, const Batch& g) { take(b, x, g, *held[b]); });
        });
      }
      if (sums_training(options)) {
        for (std::size_t b = 0; b < held.size(); ++b)
          if (held[b]) held[b]->add_scores(training_sums[b], table(b).col(0).segment(first, count));
        continue;
      }
      Passes::for_range(training, 0, columns, [&](const auto& slice, Index begin) {
        passes.run("training", slice, loss, [&](std::size_t b, const Batch& x, const Batch& g) {
          MatrixRef<S> part = table(b).block(first, begin, count, slice.size());
          held[b]->add_scores(x, g, part);
          Passes::check_gradient("training", inverses_[b]->block().name(), part);
        });
      });
    }
    return result;
  }

  /// Preconditions the gradient of a query, or those of a batch, for block b.
  void take(std::size_t b, Matrix<S>& gradient, detail::QueryGradients<S>& into) const {
    inverses_[b]->solve(gradient);
    Passes::check_gradient("queries", inverses_[b]->block().name(), gradient);
    into.add(gradient);
  }
  void take(std::size_t b, const Batch& x, const Batch& g, detail::QueryGradients<S>& into) {
    ExampleGradients<S> examples(inverses_[b]->block().bias);
    examples.for_each_block(
        x, g, nullptr, nullptr,
        [&](const MatrixMap<S>& inputs, const MatrixMap<S>& gradients, Index positions) {
          examples.for_each_gradient(inputs, gradients, positions, [&](const MatrixMap<S>& p) {
            gradient_ = p;
            take(b, gradient_, into);
          });
        });
  }

  /// Without a measurement: of the loss.
  std::vector<Matrix<S>> self_scores(const Slices& training, const Gradient& measurement,
                                     std::size_t tables) {
    Passes::check_slices("training", training);
    std::vector<Matrix<S>> result(tables, Matrix<S>::Zero(example_count(training), 1));
    std::vector<Matrix<S>> of_loss(inverses_.size());
    Passes passes = this->passes();
    Index first = 0;
    for (const auto& slice : training) {
      const auto add = [&](std::size_t b, const Batch& x, const Batch& g, const Batch* other) {
        VectorRef<S> part =
            result[tables > 1 ? layer_of_[b] : 0].col(0).segment(first, slice.size());
        inverses_[b]->quadratic_forms(x, g, other, [&](Index n, S tau) { part(n) += tau; });
        Passes::check_gradient("training", inverses_[b]->block().name(), part);
      };
      passes.forward(slice);
      passes.backward("training", slice, passes.loss_gradient(),
                      [&](std::size_t b, const Batch& x, const Batch& g) {
                        if (measurement)
                          of_loss[b] = g.matrix();
                        else
                          add(b, x, g, nullptr);
                      });
      if (measurement)
        passes.backward("training", slice, measurement,
                        [&](std::size_t b, const Batch& x, const Batch& g) {
                          const Batch other(of_loss[b].data(), g.features(), g.columns(),
                                            g.positions(), Batch::Order::ColumnMajor);
                          add(b, x, g, &other);
                        });
      first += slice.size();
    }
    return result;
  }

  Model& model_;
  LossType loss_;
  std::vector<std::optional<detail::BlockInverse<S>>> inverses_;  // of the blocks that count
  std::vector<std::size_t> layer_of_;                             // of each of them, in `names_`
  std::vector<std::string> names_;
  Matrix<S> gradient_;  // scratch
};

}  // namespace kfac
