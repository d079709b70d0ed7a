#pragma once

#include <cmath>

#include <kfac/loss/loss.hpp>

namespace kfac {

/// The cross-entropy of softmax(f) with integer labels, as torch.nn.CrossEntropyLoss: the mean (or
/// sum) over the batch of -log softmax(f_n)[y_n]. Logits of any finite size are safe, since each
/// column's largest is subtracted first. Hessian of one example: diag(p) - p p^T; its square root
/// has the columns sqrt(p_k) (e_k - p).
template <RealScalar S>
class SoftmaxCrossEntropy {
 public:
  using Scalar = S;
  using Targets = Labels;
  using TargetsRef = Eigen::Ref<const Labels>;

  explicit SoftmaxCrossEntropy(LossOptions options = {}) : reduction_(options.reduction) {}

  void check(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    static constexpr const char* kWhere = "kfac::SoftmaxCrossEntropy";
    if (outputs.size() == 0)
      raise<ShapeError>(std::string(kWhere) +
                        ": 'outputs' has no entries, expected at least one example");
    detail::check_size(kWhere, "targets", targets.size(), outputs.cols(), "labels");
    for (Index n = 0; n < targets.size(); ++n)
      if (targets(n) < 0 || targets(n) >= outputs.rows())
        raise<ValueError>(std::string(kWhere) + ": 'targets' has label " +
                          std::to_string(targets(n)) + " at " + std::to_string(n) +
                          ", expected 0 to " + std::to_string(outputs.rows() - 1));
  }

  S scale(Index, Index batch) const {
    return reduction_ == Reduction::Mean ? S(1) / static_cast<S>(batch) : S(1);
  }

  S value(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    check(outputs, targets);
    S sum = 0;
    for (Index n = 0; n < outputs.cols(); ++n) {
      const S largest = outputs.col(n).maxCoeff();
      const S total = (outputs.col(n).array() - largest).exp().sum();
      sum += std::log(total) - (outputs(targets(n), n) - largest);
    }
    return scale(outputs.rows(), outputs.cols()) * sum;
  }

  void gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                MatrixRef<S> into) const {
    check(outputs, targets);
    softmax(outputs, into);
    for (Index n = 0; n < outputs.cols(); ++n) into(targets(n), n) -= S(1);
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
    for (Index n = 0; n < outputs.cols(); ++n) {
      const S mean = into.col(n).dot(v.col(n));
      into.col(n).array() *= v.col(n).array() - mean;
    }
  }

  Index hessian_sqrt_columns(Index outputs) const { return outputs; }
  void hessian_sqrt(const ConstMatrixRef<S>& outputs, Index column, MatrixRef<S> into) const {
    softmax(outputs, into);
    for (Index n = 0; n < outputs.cols(); ++n) {
      const S root = std::sqrt(into(column, n));
      into.col(n) *= -root;
      into(column, n) += root;
    }
  }

  Targets sample(const ConstMatrixRef<S>& outputs, Rng& rng) const {
    Matrix<S> probabilities(outputs.rows(), outputs.cols());
    softmax(outputs, probabilities);
    Labels labels(outputs.cols());
    for (Index n = 0; n < outputs.cols(); ++n) labels(n) = draw(probabilities.col(n), rng);
    return labels;
  }
  void sampled_gradient(const ConstMatrixRef<S>& outputs, Rng& rng, MatrixRef<S> into) const {
    softmax(outputs, into);
    for (Index n = 0; n < outputs.cols(); ++n) into(draw(into.col(n), rng), n) -= S(1);
  }

 private:
  static void softmax(const ConstMatrixRef<S>& outputs, MatrixRef<S> into) {
    for (Index n = 0; n < outputs.cols(); ++n) {
      into.col(n) = (outputs.col(n).array() - outputs.col(n).maxCoeff()).exp();
      into.col(n) /= into.col(n).sum();
    }
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

  Reduction reduction_;
};

}  // namespace kfac
