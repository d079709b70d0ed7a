#pragma once

#include <utility>
#include <vector>

#include <kfac/kfac.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/testing/relative_error.hpp>

/// What the curvature tests share: random data, and exact matrices from the dense Jacobian alone.
namespace kfac::test {

template <RealScalar S = double>
Matrix<S> random_matrix(Index rows, Index columns, Rng& rng) {
  Matrix<S> result(rows, columns);
  rng.fill_normal(result);
  return result;
}

inline Labels random_labels(Index classes, Index count, Rng& rng) {
  Labels labels(count);
  for (Index i = 0; i < count; ++i) labels(i) = static_cast<int>(rng.below(classes));
  return labels;
}

/// A copy of all parameters, flat.
template <class Model>
Vector<double> parameters(Model& model) {
  Vector<double> flat(model.parameter_count());
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

using testing::relative_error;

/// R sum_n sum_v (J_n^T v_n)(J_n^T v_n)^T, where each of `vectors` holds a v_n in column n.
template <class Operator>
Matrix<double> outer_products(Operator& ggn, const std::vector<Matrix<double>>& vectors, double r) {
  const Matrix<double> jacobian = ggn.jacobian();
  Matrix<double> sum = Matrix<double>::Zero(ggn.cols(), ggn.cols());
  for (const Matrix<double>& v : vectors)
    for (Index n = 0; n < v.cols(); ++n) {
      const Vector<double> gradient =
          jacobian.middleRows(n * v.rows(), v.rows()).transpose() * v.col(n);
      sum += r * gradient * gradient.transpose();
    }
  return sum;
}

/// The diagonal block of a whole-network matrix that belongs to the layers' i-th leaf.
template <class Model>
Matrix<double> diagonal_block(const Matrix<double>& full, Model& model, std::size_t i) {
  Index offset = 0;
  const std::vector<LayerView<double>> layers = model.layers();
  for (std::size_t k = 0; k < i; ++k) offset += layers[k].parameters.size();
  const Index size = layers[i].parameters.size();
  return full.block(offset, offset, size, size);
}

/// A (x) G of a block, dense.
template <class Block>
Matrix<double> dense(const Block& block) {
  return linalg::kronecker_product<double>(block.input_factor(), block.output_gradient_factor());
}

/// A layer's block, which is known to be of that kind.
template <class Block = KroneckerBlock<double>, class Layer>
const Block& block_of(const Layer& layer, std::size_t group = 0) {
  return static_cast<const Block&>(*layer.blocks()[group]);
}

/// The blocks of every layer with curvature, of one batch.
template <class Model, class LossType, class Block = KroneckerBlock<double>>
class Estimate {
 public:
  Estimate(Model& model, const LossType& loss, const Matrix<double>& x,
           const typename LossType::Targets& y, FisherType type, Index samples = 1,
           std::uint64_t seed = 0)
      : estimator_(model, loss, {.fisher = type, .samples = samples, .seed = seed},
                   block_factory<Block>()) {
    estimator_.fit(x, y);
  }

  const Block& block(std::size_t i, std::size_t group = 0) const {
    return block_of<Block>(*estimator_.layers()[i], group);
  }
  std::size_t size() const { return estimator_.layers().size(); }

 private:
  CurvatureEstimator<Model, LossType> estimator_;
};

}  // namespace kfac::test
