#pragma once

#include <cmath>

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
    S sum = 0;
    for_each_position(outputs, [&](const auto& f, Index label, Index, Index) {
      const S largest = f.maxCoeff();
      const S total = (f.array() - largest).exp().sum();
      sum += std::log(total) - (f(targets(label)) - largest);
    });
    return scale(outputs.rows(), outputs.cols()) * sum;
  }

  void gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                MatrixRef<S> into) const {
    check(outputs, targets);
    softmax(outputs, into);
    for_each_position(into,
                      [&](auto&& p, Index label, Index, Index) { p(targets(label)) -= S(1); });
    into *= scale(outputs.rows(), outputs.cols());
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
      softmax_of(outputs.col(n).segment(row, size), into.col(n).segment(row, size));
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

  template <class Logits, class Probabilities>
  static void softmax_of(const Logits& f, Probabilities&& p) {
    p = (f.array() - f.maxCoeff()).exp();
    p /= p.sum();
  }
  void softmax(const ConstMatrixRef<S>& outputs, MatrixRef<S> into) const {
    for_each_position(outputs, [&](const auto& f, Index, Index row, Index n) {
      softmax_of(f, into.col(n).segment(row, f.size()));
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
