/// Two layers of one's own in a network. What a layer has to say about its curvature is three
/// functions; without them it is trained too, by plain gradient steps.

#include <cmath>
#include <iostream>

#include <kfac/kfac.hpp>

/// y = W x: nothing but a `kfac::Layer`.
class Projection {
 public:
  using Scalar = float;
  /// What a pass has to remember for those after it: here nothing.
  struct Scratch {};
  static const char* kind() { return "Projection"; }

  Projection(kfac::Index inputs, kfac::Index outputs, kfac::Rng& rng) : weight_(outputs, inputs) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(inputs));
    rng.fill_uniform(weight_, -bound, bound);
  }

  kfac::Index parameter_count() const { return weight_.size(); }
  kfac::VectorMap<float> parameters() { return {weight_.data(), weight_.size()}; }

  kfac::Shape output_shape(const kfac::Shape& shape) const {
    if (!(shape == kfac::Shape{weight_.cols()}))
      kfac::raise<kfac::ShapeError>("Projection: 'input' has shape " + shape.to_string() +
                                    ", expected " + std::to_string(weight_.cols()));
    return {weight_.rows()};
  }

  void forward(const kfac::ConstBatchView<float>& x, kfac::BatchView<float> y, Scratch&,
               const kfac::Mode&) const {
    y.values.noalias() = weight_ * x.values;
  }

  void backward(const kfac::ConstBatchView<float>& x, const kfac::ConstBatchView<float>& /*y*/,
                const kfac::ConstBatchView<float>& grad_output, kfac::BatchView<float>* grad_input,
                kfac::VectorMap<float>* grad_parameters, Scratch&, const kfac::Mode&) const {
    if (grad_input) grad_input->values.noalias() = weight_.transpose() * grad_output.values;
    if (grad_parameters)
      kfac::MatrixMap<float>(grad_parameters->data(), weight_.rows(), weight_.cols()).noalias() =
          grad_output.values * x.values.transpose();
  }

  void tangent(const kfac::ConstBatchView<float>& x, const kfac::ConstBatchView<float>& /*y*/,
               const kfac::ConstBatchView<float>* x_tangent,
               const kfac::ConstVectorMap<float>* parameter_tangent,
               kfac::BatchView<float> y_tangent, Scratch&) const {
    y_tangent.values.setZero();
    if (x_tangent) y_tangent.values.noalias() += weight_ * x_tangent->values;
    if (parameter_tangent)
      y_tangent.values.noalias() +=
          kfac::ConstMatrixMap<float>(parameter_tangent->data(), weight_.rows(), weight_.cols()) *
          x.values;
  }

 protected:
  kfac::Matrix<float> weight_;
};

/// The same, with what makes it a `kfac::KroneckerLayer`.
class CurvedProjection : public Projection {
 public:
  using Projection::Projection;
  static const char* kind() { return "CurvedProjection"; }

  kfac::KroneckerStructure kronecker_structure() const {
    return {.inputs = weight_.cols(), .outputs = weight_.rows(), .bias = false};
  }
  kfac::SharedBatch<float> kronecker_input(const kfac::ConstBatchView<float>& x,
                                           const Scratch&) const {
    return kfac::SharedBatch<float>(x.values);
  }
  kfac::SharedBatch<float> kronecker_output_gradient(const kfac::ConstBatchView<float>& grad_output,
                                                     const Scratch&) const {
    return kfac::SharedBatch<float>(grad_output.values);
  }
};

int main() {
  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<float>({.examples = 400, .noise = 0.12f}, rng);
  const auto [train, test] = kfac::split(moons, 0.8, rng);

  kfac::Sequential model(kfac::Linear<float>(2, 32, rng), kfac::ReLU<float>{},
                         CurvedProjection(32, 16, rng), kfac::ReLU<float>{},
                         Projection(16, 2, rng));
  kfac::SoftmaxCrossEntropy<float> loss;
  kfac::KfacOptimizer optimizer(model, loss, {.learning_rate = 0.3f, .damping = 1e-2f});

  for (int epoch = 0; epoch < 10; ++epoch)
    for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);

  std::cout << optimizer.summary() << "test accuracy " << kfac::accuracy(model, test) << '\n';
}
