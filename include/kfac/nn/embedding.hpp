#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <kfac/core/pieces.hpp>
#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/one_hot_source.hpp>

namespace kfac {

struct EmbeddingOptions {
  Index vocabulary = 1;  ///< how many tokens there are (num_embeddings); >= 1
  Index features = 1;    ///< of each (embedding_dim); >= 1
  /// A token that stands for padding: its vector is zero at first and gets no gradient; in
  /// [0, vocabulary), or none.
  std::optional<Index> padding_idx = {};

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(vocabulary >= 1, where, "vocabulary", vocabulary, ">= 1");
    detail::check_option(features >= 1, where, "features", features, ">= 1");
    const Index padding = padding_idx.value_or(0);
    detail::check_option(padding >= 0 && padding < vocabulary, where, "padding_idx", padding,
                         "in [0, vocabulary)");
  }
};

/// A vector for each token: `{tokens}` of numbers that are integers in [0, vocabulary), to
/// `{tokens, features}`, as torch.nn.Embedding; any other shape gets the axis `features` too.
///
///     kfac::Embedding<float> embedding({.vocabulary = 96, .features = 64}, rng);
///
/// It is a linear map without bias of one-hot columns, which only the blocks that want them see (a
/// few examples at a time); its input factor A is diagonal, the tokens' frequencies
/// (`DiagonalInputBlock`). Parameter: "weight", `features x vocabulary` here, so that a token is a
/// column; in memory PyTorch's `[vocabulary, features]`. Standard normal like PyTorch's.
///
/// A backward pass writes the whole gradient: zeros, and on the columns of the batch's tokens their
/// sums. (Optimizers may have written anywhere in it.) Tokens have no gradient themselves: that of
/// the input is zero.
template <RealScalar S>
class Embedding {
 public:
  using Scalar = S;
  struct Scratch {
    detail::OneHotSource<S> columns;
    Buffer<S> rows;  ///< tokens with -1 for padding, if there is any
  };
  static const char* kind() { return "Embedding"; }

  /// \throws OptionError, also for more tokens than S has integers
  Embedding(const EmbeddingOptions& options, Rng& rng)
      : options_(checked(options)), weight_(options.features, options.vocabulary) {
    rng.fill_normal(weight_);
    if (options_.padding_idx) weight_.col(*options_.padding_idx).setZero();
  }

  const EmbeddingOptions& options() const { return options_; }
  Index vocabulary() const { return options_.vocabulary; }
  Index features() const { return options_.features; }

  /// `features x vocabulary`.
  MatrixMap<S> weight() { return {weight_.data(), weight_.rows(), weight_.cols()}; }
  ConstMatrixMap<S> weight() const { return {weight_.data(), weight_.rows(), weight_.cols()}; }
  Index parameter_count() const { return weight_.size(); }
  VectorMap<S> parameters() { return {weight_.data(), weight_.size()}; }
  std::vector<ParameterInfo> parameter_info() const {
    return {{"weight", 0, features(), vocabulary()}};
  }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return {.unitwise = false, .diagonal_input = true}; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() == 0 || shape.rank() == Shape::kMaxRank)
      raise<ShapeError>(std::string(kWhere) + ": 'input' has shape " + shape.to_string() +
                        ", expected 1 to 3 axes of tokens");
    Shape result = shape;
    result.push_back(features());
    return result;
  }

  Index scratch_size(const Shape& shape, Index examples) const {
    return options_.padding_idx ? shape.size() * examples : 0;
  }

  /// \throws ValueError for what is no token
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    check_tokens(x.values);
    const S* rows = x.values.data();
    if (options_.padding_idx) {
      const auto padding = static_cast<S>(*options_.padding_idx);
      S* const copy = scratch.rows.map(x.values.rows(), x.values.cols()).data();
      for (Index i = 0; i < x.values.size(); ++i) copy[i] = rows[i] == padding ? S(-1) : rows[i];
      rows = copy;
    }
    scratch.columns.begin(vocabulary(), x.values.rows(), {rows, x.values.size()});
    gather(x, y, [&](Index token) { return weight_.col(token).data(); });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values.setZero();
    if (!grad_parameters) return;
    MatrixMap<S> into(grad_parameters->data(), features(), vocabulary());
    into.setZero();
    const ConstMatrixMap<S> gradients = grad_output.columns();
    const Index piece = std::max<Index>(detail::kPieceSize / gradients.cols(), 64);
    detail::for_each_piece(features(), piece, [&](Index first, Index count) {
      for (Index i = 0; i < gradients.cols(); ++i) {
        const Index token = token_of(x, i);
        if (!is_padding(token))
          into.col(token).segment(first, count) += gradients.col(i).segment(first, count);
      }
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&, const ConstBatchView<S>*,
               const ConstVectorMap<S>* parameter_tangent, BatchView<S> y_tangent, Scratch&) const {
    if (!parameter_tangent) {
      y_tangent.values.setZero();
      return;
    }
    gather(x, y_tangent, [&](Index token) -> const S* {
      return is_padding(token) ? nullptr : parameter_tangent->data() + token * features();
    });
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>&, const ConstBatchView<S>*,
                        const ConstVectorMap<S>*, const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    backward(x, y, grad_output_tangent, grad_input_tangent, grad_parameters_tangent, scratch, {});
  }

  KroneckerStructure kronecker_structure() const {
    return {vocabulary(), features(), false, 1, true};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>&, const Scratch& scratch) const {
    return scratch.columns.shared();
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch&) const {
    const Index columns = grad_output.values.size() / features();
    return {grad_output.values.data(), features(), columns, grad_output.shape.size() / features(),
            SharedBatch<S>::Order::ColumnMajor};
  }

 private:
  static constexpr const char* kWhere = "kfac::Embedding";

  static const EmbeddingOptions& checked(const EmbeddingOptions& options) {
    options.validate(kWhere);
    constexpr Index kIntegers = Index{1} << std::numeric_limits<S>::digits;
    detail::check_option(options.vocabulary <= kIntegers, kWhere, "vocabulary", options.vocabulary,
                         "no more than the scalar has integers");
    return options;
  }

  static Index token_of(const ConstBatchView<S>& x, Index i) {
    return static_cast<Index>(x.values.data()[i]);
  }
  bool is_padding(Index token) const { return options_.padding_idx == token; }

  void check_tokens(const ConstMatrixMap<S>& tokens) const {
    const auto end = static_cast<S>(vocabulary());
    for (Index n = 0; n < tokens.cols(); ++n)
      for (Index i = 0; i < tokens.rows(); ++i) {
        const S token = tokens(i, n);
        if (token >= 0 && token < end && std::floor(token) == token) continue;
        raise<ValueError>(std::string(kWhere) + ": 'input' is " + detail::text(token) + " at (" +
                          std::to_string(i) + ", " + std::to_string(n) +
                          "), expected an integer from 0 to " + std::to_string(vocabulary() - 1));
      }
  }

  /// Copies a vector to each token's column, from where `vector_of(token)` says; zeros where that
  /// is null.
  template <class VectorOf>
  void gather(const ConstBatchView<S>& x, BatchView<S> into, VectorOf&& vector_of) const {
    MatrixMap<S> columns = into.columns();
    const Index piece = std::max<Index>(detail::kPieceSize / features(), 1);
    detail::for_each_piece(columns.cols(), piece, [&](Index first, Index count) {
      for (Index i = first; i < first + count; ++i) {
        const S* const vector = vector_of(token_of(x, i));
        if (vector)
          columns.col(i) = ConstVectorMap<S>(vector, features());
        else
          columns.col(i).setZero();
      }
    });
  }

  EmbeddingOptions options_;
  Matrix<S> weight_;
};

}  // namespace kfac
