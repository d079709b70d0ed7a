#include <algorithm>
#include <limits>
#include <memory>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/fisher_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/hessian.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>

#include "golden_case.hpp"
#include "support/eigensolver.hpp"

namespace golden {
namespace {

using kfac::FisherType;
using kfac::WeightSharing;
using Vector = kfac::Vector<double>;
using Estimator = kfac::CurvatureEstimator<Model, Loss>;

/// Keeps what each layer announced, as columns of the augmented input.
struct Inputs : kfac::Observer<double> {
  std::vector<Matrix> values;
  void on_input(const std::string&, const kfac::SharedBatch<double>& input) override {
    values.push_back(input.matrix());
  }
};

struct Fisher {
  const char* name;
  FisherType type;
};
constexpr Fisher kFishers[] = {{"type-2", FisherType::Type2},
                               {"mc", FisherType::MonteCarlo},
                               {"empirical", FisherType::Empirical},
                               {"forward-only", FisherType::ForwardOnly}};

struct Sharing {
  const char* name;
  WeightSharing sharing;
};
constexpr Sharing kSharings[] = {{"expand", WeightSharing::Expand},
                                 {"reduce", WeightSharing::Reduce}};

class CurvatureCase {
 public:
  CurvatureCase(const Case& golden, Comparison& comparison)
      : case_(golden),
        file_(golden.file),
        model_(golden.model),
        loss_(golden.loss),
        comparison_(comparison),
        input_(file_.batch<double>("input")),
        targets_(golden.targets("target")),
        samples_(golden.samples("mc_labels", input_.cols())) {}

  void run() {
    check_passes();
    check_exact();
    for (const Fisher& fisher : kFishers)
      for (const Sharing& sharing : kSharings) {
        check_kronecker(fisher, sharing);
        check_precond<kfac::KroneckerEigenBlock<double>>(fisher, sharing, true, "exact");
        check_precond<kfac::KroneckerBlock<double>>(fisher, sharing, true, "pi");
        check_precond<kfac::KroneckerBlock<double>>(fisher, sharing, false, "plain_meanA");
        if (fisher.type != FisherType::ForwardOnly) check_ekfac(fisher, sharing);
      }
  }

 private:
  static std::string layer_name(std::size_t i) { return "l" + std::to_string(i); }

  void compare(const std::string& name, const Matrix& actual) {
    if (file_.contains(name)) comparison_.check(name, actual, file_.matrix<double>(name));
  }
  void compare_batch(const std::string& name, const Matrix& actual) {
    comparison_.check(name, actual, file_.batch<double>(name));
  }

  void check_passes() {
    Inputs inputs;
    for (const auto& layer : curved_layers(model_)) layer.hooks->attach(inputs);
    const Matrix outputs = model_.forward(input_, case_.shape);
    const double r = loss_.scale(outputs.rows(), outputs.cols());
    compare_batch("output", outputs);
    comparison_.check("loss", Matrix::Constant(1, 1, loss_.value(outputs, targets_)),
                      Matrix::Constant(1, 1, file_.scalar<double>("loss")));
    check_loss_hessian(outputs);
    const Matrix gradient = loss_.gradient(outputs, targets_);
    compare_batch("empirical_output_grads", gradient / r);
    check_sampled_gradients(outputs, r);

    model_.backward(gradient);
    const auto layers = curved_layers(model_);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      gradients_.push_back(augmented(layers[i], layers[i].gradient.data()));
      compare(layer_name(i) + ".grad", gradients_.back());
      Matrix shared = Matrix::Ones(layers[i].kronecker->columns(), inputs.values[i].cols());
      shared.topRows(inputs.values[i].rows()) = inputs.values[i];
      compare_batch(layer_name(i) + ".shared_input",
                    shared.reshaped(shared.size() / input_.cols(), input_.cols()));
    }
  }

  void check_loss_hessian(const Matrix& outputs) {
    const Matrix expected = file_.batch<double>("loss_hessian");
    Matrix actual(expected.rows(), expected.cols());
    Matrix product(outputs.rows(), outputs.cols());
    for (Index k = 0; k < outputs.rows(); ++k) {
      const Matrix unit = Vector::Unit(outputs.rows(), k).replicate(1, outputs.cols());
      loss_.hessian_product(outputs, unit, product);
      actual.middleRows(k * outputs.rows(), outputs.rows()) = product;
    }
    comparison_.check("loss_hessian", actual, expected);
  }

  void check_sampled_gradients(const Matrix& outputs, double r) {
    if (!file_.contains("mc_output_grads")) return;
    Matrix all(outputs.size(), static_cast<Index>(samples_.size()));
    for (std::size_t m = 0; m < samples_.size(); ++m)
      all.col(static_cast<Index>(m)) = (loss_.gradient(outputs, samples_[m]) / r).reshaped();
    compare_batch("mc_output_grads", all);
  }

  void check_exact() {
    kfac::Ggn ggn(model_, loss_, input_, case_.shape);
    const Matrix full = ggn.dense();
    compare("ggn_full", full);
    if (file_.contains("hessian_full"))
      compare("hessian_full", kfac::Hessian(model_, loss_, input_, targets_, case_.shape).dense());
    const Matrix mc =
        kfac::MonteCarloFisher<Model, Loss>(model_, loss_, input_, samples_, case_.shape).dense();
    const Matrix empirical =
        kfac::EmpiricalFisher(model_, loss_, input_, targets_, case_.shape).dense();
    Index offset = 0;
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      const Index size = gradients_[i].size();
      const std::string name = layer_name(i) + ".exact.";
      compare(name + "ggn", full.block(offset, offset, size, size));
      compare(name + "mc", mc.block(offset, offset, size, size));
      compare(name + "empirical", empirical.block(offset, offset, size, size));
      offset += size;
    }
  }

  template <class Block>
  std::unique_ptr<Estimator> estimate(const Fisher& fisher, const Sharing& sharing, bool pi) {
    auto estimator = std::make_unique<Estimator>(
        model_, loss_,
        kfac::EstimatorOptions<double>{
            .fisher = fisher.type,
            .sharing = sharing.sharing,
            .pi = pi ? kfac::FactorBalance::Trace : kfac::FactorBalance::None},
        kfac::block_factory<Block>());
    kfac::BatchDetails<Matrix> details{.shape = case_.shape};
    if (fisher.type == FisherType::MonteCarlo) details.samples = samples_;
    estimator->fit(input_, targets_, details);
    return estimator;
  }

  /// A, G and what does not need more than them. The golden A carries the factor that our G has.
  void check_kronecker(const Fisher& fisher, const Sharing& sharing) {
    using Block = kfac::KroneckerBlock<double>;
    const auto estimator = estimate<Block>(fisher, sharing, true);
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      const Json& scales = case_.json["layers"][i]["a_scale"];
      if (!scales.contains(sharing.name)) continue;
      const double scale = scales[sharing.name].get<double>();
      const auto& block = static_cast<const Block&>(*estimator->layers()[i]->blocks()[0]);
      const Matrix a = scale * block.input_factor();
      const Matrix g = block.output_gradient_factor() / scale;
      compare(layer_name(i) + ".A." + sharing.name, a);
      if (fisher.type == FisherType::ForwardOnly)
        comparison_.check(layer_name(i) + ".G.forward-only", g,
                          Matrix::Identity(g.rows(), g.cols()));
      else
        compare(layer_name(i) + ".G." + fisher.name + '.' + sharing.name, g);
      kfac::FactoredInverse<double> plain;
      check_inverse(precond_name(i, fisher, sharing, "plain"), gradients_[i],
                    [&](double damping, Matrix& v) {
                      if (!plain.refresh(a, g, damping, kfac::FactorBalance::None)) return false;
                      plain.apply(v);
                      return true;
                    });
    }
  }

  template <class Block>
  void check_precond(const Fisher& fisher, const Sharing& sharing, bool pi, const char* variant) {
    const auto estimator = estimate<Block>(fisher, sharing, pi);
    for (std::size_t i = 0; i < gradients_.size(); ++i)
      check_block(precond_name(i, fisher, sharing, variant), gradients_[i],
                  *estimator->layers()[i]->blocks()[0]);
  }

  void check_ekfac(const Fisher& fisher, const Sharing& sharing) {
    const auto estimator = estimate<kfac::EkfacBlock<double>>(fisher, sharing, true);
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      const std::string name = layer_name(i) + ".ekfac." + fisher.name + '.' + sharing.name + '.';
      kfac::CurvatureBlock<double>& block = *estimator->layers()[i]->blocks()[0];
      const auto matrix = block.matrix(0.0);
      const auto& spectral = static_cast<const kfac::SpectralMatrix<double>&>(*matrix);
      if (file_.contains(name + "eigenvalues"))
        comparison_.check(name + "eigenvalues", spectral.eigen().eigenvalues(),
                          file_.vector<double>(name + "eigenvalues"));
      compare(name + "matrix", matrix->dense());
      check_block(precond_name(i, fisher, sharing, "ekfac"), gradients_[i], block);
    }
  }

  static std::string precond_name(std::size_t i, const Fisher& fisher, const Sharing& sharing,
                                  const char* variant) {
    return layer_name(i) + ".precond." + fisher.name + '.' + sharing.name + '.' + variant;
  }

  void check_block(const std::string& name, const Matrix& gradient,
                   kfac::CurvatureBlock<double>& block) {
    check_inverse(name, gradient, [&](double damping, Matrix& v) {
      if (!block.refresh_inverse(damping)) return false;
      block.precondition(v);
      return true;
    });
  }

  template <class Apply>
  void check_inverse(const std::string& name, const Matrix& gradient, Apply&& apply) {
    if (!file_.contains(name)) return;
    const auto expected = file_.matrices<double>(name);
    for (std::size_t k = 0; k < expected.size(); ++k) {
      Matrix v = gradient;
      if (!apply(case_.json["dampings"][k].get<double>(), v))
        v.setConstant(std::numeric_limits<double>::quiet_NaN());
      comparison_.check(name, v, expected[k]);
    }
  }

  const Case& case_;
  const kfac::io::SafeTensors& file_;
  Model& model_;
  const Loss& loss_;
  Comparison& comparison_;
  Matrix input_, targets_;
  std::vector<Matrix> samples_;
  std::vector<Matrix> gradients_;  // of the loss, a layer each
};

}  // namespace

void run_curvature(const Case& golden, Comparison& comparison) {
  CurvatureCase(golden, comparison).run();
}

}  // namespace golden
