#pragma once

#include <string>
#include <vector>

#include <kfac/data/slices.hpp>
#include <kfac/nn/network.hpp>

namespace kfac::detail {

/// A network's outputs on one batch or on the slices of a data set, and products with their
/// Jacobian, in a workspace of its own that holds the forward pass of one batch at a time.
template <class Model>
class Linearization {
 public:
  using S = typename Model::Scalar;

  /// On one batch, which is copied.
  Linearization(const Model& model, const ConstMatrixRef<S>& x, const Shape& shape)
      : Linearization(model) {
    first_example_ = {0, x.cols()};
    outputs_ = model.forward(x, shape, workspace_).rows();
    loaded_ = 0;
  }

  /// On slices, whose data are referred to. `where` is who asks.
  template <class Targets>
  Linearization(const char* where, const Model& model, const std::vector<Slice<S, Targets>>& slices)
      : Linearization(model) {
    if (slices.empty())
      raise<ShapeError>(std::string(where) + ": 'slices' is empty, expected at least one");
    for (const Slice<S, Targets>& slice : slices) {
      check_size(where, "slices", slice.inputs.rows(), slice.shape.size(), "rows");
      if (slice.inputs.cols() == 0)
        raise<ShapeError>(std::string(where) +
                          ": 'slices' has 0 examples in one, expected at least 1");
      check_finite(where, "slices", slice.inputs);
      const Index outputs = model.output_shape(slice.shape).size();
      if (!inputs_.empty()) check_size(where, "slices", outputs, outputs_, "outputs in one");
      outputs_ = outputs;
      inputs_.emplace_back(slice.inputs, slice.shape);
      first_example_.push_back(first_example_.back() + slice.inputs.cols());
    }
  }

  const Model& model() const { return *model_; }
  Index parameters() const { return model_->parameter_count(); }
  /// The entries of one example's output.
  Index outputs() const { return outputs_; }
  Index examples() const { return first_example_.back(); }

  Index batches() const { return static_cast<Index>(first_example_.size()) - 1; }
  Index first_example(Index batch) const { return first_example_[static_cast<std::size_t>(batch)]; }
  Index examples(Index batch) const { return first_example(batch + 1) - first_example(batch); }

  /// Makes the forward pass of a batch, unless it is there; what follows is about that batch.
  void load(Index batch) {
    if (loaded_ == batch) return;
    loaded_ = -1;
    const ConstBatchView<S>& input = inputs_[static_cast<std::size_t>(batch)];
    model_->forward(input.values, input.shape, workspace_);
    loaded_ = batch;
  }

  ConstMatrixMap<S> batch_outputs() const {
    return {workspace_.output.data(), outputs_, workspace_.examples};
  }
  /// J v, `outputs x examples`.
  ConstMatrixMap<S> tangent(const ConstVectorRef<S>& v) { return model_->tangent(v, workspace_); }
  /// J^T u.
  ConstVectorMap<S> pull_back(const ConstMatrixRef<S>& u) {
    model_->backward(u, workspace_);
    return {workspace_.gradient.data(), workspace_.gradient.size()};
  }
  /// The change of J^T u when the parameters change along v, and u along `u_tangent`.
  ConstVectorMap<S> pull_back_tangent(const ConstMatrixRef<S>& u, const ConstVectorRef<S>& v,
                                      const ConstMatrixRef<S>& u_tangent) {
    return model_->backward_tangent(u, v, u_tangent, workspace_);
  }
  /// J, dense: a row for each output of the first example, then of the second, and so on.
  Matrix<S> batch_jacobian() {
    Matrix<S> result(outputs_ * workspace_.examples, parameters());
    Vector<S> direction = Vector<S>::Zero(parameters());
    for (Index j = 0; j < parameters(); ++j) {
      direction(j) = 1;
      const ConstMatrixMap<S> column = tangent(direction);
      result.col(j) = ConstVectorMap<S>(column.data(), column.size());
      direction(j) = 0;
    }
    return result;
  }

  // Over all batches:

  /// `outputs x examples`
  Matrix<S> all_outputs() {
    Matrix<S> result(outputs_, examples());
    for (Index batch = 0; batch < batches(); ++batch) {
      load(batch);
      result.middleCols(first_example(batch), examples(batch)) = batch_outputs();
    }
    return result;
  }

  /// J, dense.
  Matrix<S> jacobian() {
    Matrix<S> result(outputs_ * examples(), parameters());
    for (Index batch = 0; batch < batches(); ++batch) {
      load(batch);
      result.middleRows(first_row(batch), row_count(batch)) = batch_jacobian();
    }
    return result;
  }

  /// Writes J times each column of v.
  void multiply(const ConstMatrixRef<S>& v, MatrixRef<S> into) {
    for (Index batch = 0; batch < batches(); ++batch) {
      load(batch);
      for (Index j = 0; j < v.cols(); ++j)
        into.col(j).segment(first_row(batch), row_count(batch)) = tangent(v.col(j)).reshaped();
    }
  }

  /// Writes J^T times each column of u.
  void multiply_transposed(const ConstMatrixRef<S>& u, MatrixRef<S> into) {
    into.setZero();
    for (Index batch = 0; batch < batches(); ++batch) {
      load(batch);
      for (Index j = 0; j < u.cols(); ++j)
        into.col(j) += pull_back(
            ConstMatrixMap<S>(u.col(j).data() + first_row(batch), outputs_, examples(batch)));
    }
  }

 private:
  explicit Linearization(const Model& model) : model_(&model), workspace_(model.make_workspace()) {
    workspace_.mode = {.training = false, .tracking = false};
    workspace_.mode.mask = model.workspace().mode.mask;
  }

  Index first_row(Index batch) const { return outputs_ * first_example(batch); }
  Index row_count(Index batch) const { return outputs_ * examples(batch); }

  const Model* model_;
  typename Model::Workspace workspace_;
  std::vector<ConstBatchView<S>> inputs_;  ///< of the slices; empty for one batch
  std::vector<Index> first_example_{0};    ///< of each batch, and at the end of all of them
  Index outputs_ = 0;
  Index loaded_ = -1;
};

}  // namespace kfac::detail
