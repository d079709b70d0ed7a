#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <kfac/loss/loss.hpp>

namespace kfac {

struct CrossEntropyOptions {
  /// Of the labels: `Mean` is over all positions of all examples.
  Reduction reduction = Reduction::Mean;
  /// How many of the outputs are one position's, >= 0: an example's outputs are those of `outputs /
  /// classes` positions, one after another, as {tokens, classes} has them. 0: they are all one
  /// position's.
  Index classes = 0;
};

/// The cross-entropy of softmax(f) with integer labels, as torch.nn.CrossEntropyLoss: the mean (or
/// sum) over all labels y of -log softmax(f)[y]. There is one label for each example or, with the
/// option `classes`, each position (token, pixel), an example's labels together. Logits of any
/// finite size are safe, since each position's largest is subtracted first. Hessian of one
/// position: diag(p) - p p^T; its square root has the columns sqrt(p_k) (e_k - p).
template <RealScalar S>
class SoftmaxCrossEntropy {
 public:
  using Scalar = S;
  using Targets = Labels;
  using TargetsRef = Eigen::Ref<const Labels>;

  /// \throws OptionError if `classes` is negative
  explicit SoftmaxCrossEntropy(CrossEntropyOptions options = {}) : options_(options) {
    detail::check_option(options.classes >= 0, "kfac::CrossEntropyOptions", "classes",
                         options.classes, ">= 0");
  }
  /// With what all losses have in common. (Not of a braced list, which is the above.)
  template <std::same_as<LossOptions> Options>
  explicit SoftmaxCrossEntropy(const Options& options)
      : SoftmaxCrossEntropy(CrossEntropyOptions{.reduction = options.reduction}) {}

  /// \throws ShapeError if the outputs are not those of whole positions, or there is not a label
  ///         for each; ValueError if a label is none of the classes
  void check(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    if (outputs.size() == 0)
      raise<ShapeError>(std::string(kWhere) +
                        ": 'outputs' has no entries, expected at least one example");
    detail::check_size(kWhere, "targets", targets.size(),
                       positions(outputs.rows()) * outputs.cols(), "labels");
    if (targets.minCoeff() >= 0 && targets.maxCoeff() < classes(outputs.rows())) return;
    for (Index n = 0; n < targets.size(); ++n)
      if (targets(n) < 0 || targets(n) >= classes(outputs.rows()))
        raise<ValueError>(std::string(kWhere) + ": 'targets' has label " +
                          std::to_string(targets(n)) + " at " + std::to_string(n) +
                          ", expected 0 to " + std::to_string(classes(outputs.rows()) - 1));
  }

  S scale(Index outputs, Index batch) const {
    return detail::reduction_factor<S>(options_.reduction, positions(outputs), batch);
  }

  S value(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    check(outputs, targets);
    const Index size = classes(outputs.rows());
    const S sum =
        sum_over_blocks(outputs, nullptr, [&](const S* f, Index label, Index count, S*) -> S {
          alignas(64) std::array<S, static_cast<std::size_t>(kBlock)> block;
          if (size <= kBlock)
            return softmax_of(f, size, count, targets.data() + label, block.data());
          const ConstVectorMap<S> position(f, size);  // one alone is a block
          const S largest = position.maxCoeff();
          return std::log((position.array() - largest).exp().sum()) -
                 (position(targets(label)) - largest);
        });
    return scale(outputs.rows(), outputs.cols()) * sum;
  }

  void gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                MatrixRef<S> into) const {
    value_and_gradient(outputs, targets, into);
  }
  /// Writes the gradient and returns the value.
  S value_and_gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                       MatrixRef<S> into) const {
    check(outputs, targets);
    const Index size = classes(outputs.rows());
    const S factor = scale(outputs.rows(), outputs.cols());
    return factor *
           sum_over_blocks(outputs, &into, [&](const S* f, Index label, Index count, S* p) -> S {
             const S sum = softmax_of(f, size, count, targets.data() + label, p);
             for (Index i = 0; i < count; ++i) p[i * size + targets(label + i)] -= S(1);
             VectorMap<S>(p, count * size) *= factor;
             return sum;
           });
  }
  Matrix<S> gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    Matrix<S> result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }

  void hessian_product(const ConstMatrixRef<S>& outputs, const ConstMatrixRef<S>& v,
                       MatrixRef<S> into) const {
    softmax(outputs, into);
    for_each_position(into, [&](auto&& p, Index, Index row, Index n) {
      const S mean = p.dot(v.col(n).segment(row, p.size()));
      p.array() *= v.col(n).segment(row, p.size()).array() - mean;
    });
  }

  /// One for each position and class, in the order of the outputs.
  Index hessian_sqrt_columns(Index outputs) const { return positions(outputs) * classes(outputs); }
  void hessian_sqrt(const ConstMatrixRef<S>& outputs, Index column, MatrixRef<S> into) const {
    const Index size = classes(outputs.rows());
    const Index row = column / size * size;
    if (positions(outputs.rows()) > 1) into.setZero();
    for (Index n = 0; n < outputs.cols(); ++n) {
      softmax_of(outputs.col(n).data() + row, size, 1, nullptr, into.col(n).data() + row);
      const S root = std::sqrt(into(column, n));
      into.col(n).segment(row, size) *= -root;
      into(column, n) += root;
    }
  }
  void hessian_sqrt_product(const ConstMatrixRef<S>& outputs, const ConstMatrixRef<S>& u,
                            MatrixRef<S> into) const {
    // sum_k sqrt(p_k) (e_k - p) u_k, with r = sqrt(p)
    softmax(outputs, into);
    for_each_position(into, [&](auto&& r, Index, Index row, Index n) {
      r = r.array().sqrt();
      const S mean = r.dot(u.col(n).segment(row, r.size()));
      r.array() *= u.col(n).segment(row, r.size()).array() - mean * r.array();
    });
  }

  Targets sample(const ConstMatrixRef<S>& outputs, Rng& rng) const {
    Matrix<S> probabilities(outputs.rows(), outputs.cols());
    softmax(outputs, probabilities);
    Labels labels(positions(outputs.rows()) * outputs.cols());
    for_each_position(probabilities,
                      [&](auto&& p, Index label, Index, Index) { labels(label) = draw(p, rng); });
    return labels;
  }
  void sampled_gradient(const ConstMatrixRef<S>& outputs, Rng& rng, MatrixRef<S> into) const {
    softmax(outputs, into);
    for_each_position(into, [&](auto&& p, Index, Index, Index) { p(draw(p, rng)) -= S(1); });
  }

 private:
  static constexpr const char* kWhere = "kfac::SoftmaxCrossEntropy";

  Index classes(Index outputs) const { return options_.classes == 0 ? outputs : options_.classes; }
  /// \throws ShapeError
  Index positions(Index outputs) const {
    if (options_.classes == 0) return 1;
    if (outputs % options_.classes != 0)
      raise<ShapeError>(std::string(kWhere) + ": 'outputs' has " + std::to_string(outputs) +
                        " rows, expected a multiple of 'classes', " +
                        std::to_string(options_.classes));
    return outputs / options_.classes;
  }

  /// Calls `body(entries, label, row, n)` for the entries of each position, in the order of their
  /// labels: those from `row` on in column n.
  template <class Values, class Body>
  void for_each_position(Values& values, Body&& body) const {
    const Index count = positions(values.rows());
    const Index size = classes(values.rows());
    for (Index n = 0, label = 0; n < values.cols(); ++n)
      for (Index position = 0; position < count; ++position, ++label)
        body(values.col(n).segment(position * size, size), label, position * size, n);
  }

  // How many entries or positions (but at least one) are gone through at once, in the cache.
  static constexpr Index kBlock = 512;
  static constexpr Index kBlockPositions = 64;

  /// The sum of `body(f, label, count, p)` over blocks of `count` positions that follow each other:
  /// f, their entries in `outputs`; label, the first one's; p, where they are in `into`, if
  /// anywhere. Large batches are shared by threads.
  template <class Body>
  S sum_over_blocks(const ConstMatrixRef<S>& outputs, MatrixRef<S>* into, Body&& body) const {
    const Index size = classes(outputs.rows());
    const Index block = std::clamp(kBlock / size, Index{1}, kBlockPositions);
    const Index piece = std::max(detail::kPieceSize / size / block, Index{1}) * block;
    const bool at_once =
        outputs.outerStride() == outputs.rows() && (!into || into->outerStride() == into->rows());
    const Index columns = at_once ? 1 : outputs.cols();
    const Index each = positions(outputs.rows()) * outputs.cols() / columns;
    S total = 0;
    for (Index column = 0; column < columns; ++column) {
      const S* f = outputs.data() + column * outputs.outerStride();
      S* p = into ? into->data() + column * into->outerStride() : nullptr;
      total += detail::sum_over_pieces<S>(each, piece, [&](Index begin, Index count) -> S {
        S sum = 0;
        for (Index first = begin; first < begin + count; first += block)
          sum += body(f + first * size, column * each + first,
                      std::min(block, begin + count - first), p ? p + first * size : nullptr);
        return sum;
      });
    }
    return total;
  }

  /// p = softmax(f) of `count` positions of `size` entries. Returns the sum of their criteria if
  /// there are labels.
  static S softmax_of(const S* f, Index size, Index count, const int* labels, S* p) {
    std::array<S, static_cast<std::size_t>(kBlockPositions)> totals;
    S sum = 0;
    for (Index i = 0; i < count; ++i) {
      shift(f + i * size, size, p + i * size);
      if (labels) sum -= p[i * size + labels[i]];
    }
    detail::ArrayMap<S> exponentials(p, count * size);
    exponentials = exponentials.exp();
    for (Index i = 0; i < count; ++i)
      totals[static_cast<std::size_t>(i)] = normalize(p + i * size, size);
    return labels ? sum + detail::ArrayMap<S>(totals.data(), count).log().sum() : sum;
  }
  // Eigen's reductions pay off only from some entries on.
  static constexpr Index kFew = 8;

  /// p = f less its largest entry.
  static void shift(const S* f, Index size, S* p) {
    if (size > kFew) {
      const detail::ConstArrayMap<S> from(f, size);
      detail::ArrayMap<S>(p, size) = from - from.maxCoeff();
      return;
    }
    S largest = f[0];
    for (Index k = 1; k < size; ++k) largest = std::max(largest, f[k]);
    for (Index k = 0; k < size; ++k) p[k] = f[k] - largest;
  }
  /// Divides p by its sum, and returns that.
  static S normalize(S* p, Index size) {
    if (size > kFew) {
      detail::ArrayMap<S> all(p, size);
      const S total = all.sum();
      all /= total;
      return total;
    }
    S total = p[0];
    for (Index k = 1; k < size; ++k) total += p[k];
    for (Index k = 0; k < size; ++k) p[k] /= total;
    return total;
  }
  void softmax(const ConstMatrixRef<S>& outputs, MatrixRef<S> into) const {
    const Index size = classes(outputs.rows());
    sum_over_blocks(outputs, &into, [&](const S* f, Index, Index count, S* p) {
      return softmax_of(f, size, count, nullptr, p);
    });
  }

  template <class Column>
  static int draw(const Column& probabilities, Rng& rng) {
    // In float the sum may be 1e-7 short of 1: that must not fall to the last class.
    double left = rng.uniform() * probabilities.template cast<double>().sum();
    const Index last = probabilities.size() - 1;
    for (Index k = 0; k < last; ++k) {
      left -= static_cast<double>(probabilities(k));
      if (left < 0) return static_cast<int>(k);
    }
    return static_cast<int>(last);
  }

  CrossEntropyOptions options_;
};

}  // namespace kfac
