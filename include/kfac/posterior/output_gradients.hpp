#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/block_passes.hpp>
#include <kfac/posterior/laplace.hpp>

namespace kfac::detail {

/// Raises unless the network is what the posterior is of, with its mean for parameters.
template <class Model, RealScalar S>
void check_posterior(const char* where, Model& model, const Laplace<S>& posterior) {
  check_estimate(where, posterior.curvature(), parameter_blocks(model));
  if (flat_parameters(model) != posterior.mean())
    raise<StateError>(std::string(where) +
                      ": 'model' has other parameters than the posterior's mean, expected "
                      "set_flat_parameters(model, posterior.mean()) before it");
}

/// A batch's columns with a 1 appended if there is a bias.
template <RealScalar S>
Matrix<S> augmented(const SharedBatch<S>& batch, bool bias) {
  Matrix<S> result = Matrix<S>::Ones(batch.features() + (bias ? 1 : 0), batch.columns());
  batch.for_each_block([&](const SharedBatch<S>& block, Index first) {
    block.visit([&](const auto& values) {
      result.block(0, first * batch.positions(), batch.features(), values.cols()) = values;
    });
  });
  return result;
}

/// Of one random block and some examples: the gradient of output c of example n with respect to the
/// block is sum_s g_ncs x_ns^T over the positions s. Both are kept in the coordinates of the
/// posterior's block, where it has such; the gradients themselves are not formed.
template <RealScalar S>
struct BlockGradients {
  Index positions = 0;  ///< 0: the block is not random
  Matrix<S> x;          ///< `columns x (positions * examples)`
  /// `outputs x (positions * network outputs * examples)`, the positions of an output together and
  /// the outputs of an example; of the network's last layer `outputs x outputs`, as they are the
  /// same for all examples.
  Matrix<S> g;
  bool same = false;

  ConstMatrixMap<S> x_of(Index example) const {
    return {x.data() + example * positions * x.rows(), x.rows(), positions};
  }
  ConstMatrixMap<S> g_of(Index example, Index network_outputs) const {
    const Index count = positions * network_outputs;
    return {g.data() + (same ? 0 : example * count * g.rows()), g.rows(), count};
  }
};

/// Whether the outputs of a block are the network's: the block is of its very last layer.
template <class Model>
bool is_output_layer(Model& model, const ParameterBlock& block, Index positions,
                     Index network_outputs) {
  return block.factored && block.groups == 1 && positions == 1 &&
         block.outputs == network_outputs && model.layers().back().name == block.layer;
}

/// What the covariance of a network's outputs is made of, for some examples: one forward pass and,
/// unless only the last layer is random, a backward pass for each output.
template <RealScalar S>
class OutputGradients {
 public:
  /// At the network's parameters. \throws ShapeError, ValueError as its `forward`
  template <class Model>
  OutputGradients(BlockPasses<Model>& passes, const Laplace<S>& posterior,
                  const ConstMatrixRef<S>& x, const Shape& shape)
      : outputs_(passes.forward(x, shape)), blocks_(posterior.blocks().size()) {
    bool wants_passes = false;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const PosteriorBlock<S>& block = posterior.blocks()[i];
      if (!block.random()) continue;
      const SharedBatch<S> input = passes.inputs(i);
      BlockGradients<S>& of = blocks_[i];
      of.positions = input.positions();
      of.x = block.input_coordinates(augmented(input, block.block().bias));
      of.same = is_output_layer(passes.model(), block.block(), of.positions, outputs());
      if (of.same) {
        of.g = block.output_coordinates(Matrix<S>::Identity(outputs(), outputs()));
      } else {
        of.g.resize(block.block().outputs, of.positions * outputs() * examples());
        wants_passes = true;
      }
    }
    if (!wants_passes) return;
    Matrix<S> unit = Matrix<S>::Zero(outputs(), examples());
    for (Index c = 0; c < outputs(); ++c) {
      unit.row(c).setOnes();
      passes.backward(unit, [&](std::size_t i, const SharedBatch<S>&, const SharedBatch<S>& g) {
        if (blocks_[i].positions > 0 && !blocks_[i].same) take(posterior.blocks()[i], c, g, i);
      });
      unit.row(c).setZero();
    }
  }

  Index outputs() const { return outputs_.rows(); }
  Index examples() const { return outputs_.cols(); }
  /// The network's outputs, `outputs x examples`.
  const Matrix<S>& mean() const { return outputs_; }
  /// In the order of the posterior's.
  const std::vector<BlockGradients<S>>& blocks() const { return blocks_; }

 private:
  /// The gradients of output c.
  void take(const PosteriorBlock<S>& block, Index c, const SharedBatch<S>& g, std::size_t i) {
    BlockGradients<S>& of = blocks_[i];
    const Matrix<S> coordinates = block.output_coordinates(augmented(g, false));
    for (Index n = 0; n < examples(); ++n)
      of.g.middleCols((n * outputs() + c) * of.positions, of.positions) =
          coordinates.middleCols(n * of.positions, of.positions);
  }

  Matrix<S> outputs_;
  std::vector<BlockGradients<S>> blocks_;
};

}  // namespace kfac::detail
