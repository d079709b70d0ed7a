// kfac_golden DIR...: compares the library with reference cases of an independent implementation.
// Each DIR is a case or a folder of cases (FORMAT.md). One line a case: PASS, FAIL or SKIP, its
// name, and the worst relative error with the array it is in, or why it is skipped. Exits non-zero
// if any case fails, or if there are none.

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/curvature/ggn.hpp>
#include <kfac/io/safetensors.hpp>
#include <kfac/kfac.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/linalg/spectral_inverse.hpp>

#include "network.hpp"

namespace {

using kfac::Index;
using kfac::Labels;
using kfac::LossOptions;
using kfac::Reduction;
using Matrix = kfac::Matrix<double>;
using Vector = kfac::Vector<double>;
using Model = kfac::DynamicSequential<double>;
using Json = nlohmann::json;

/// What the library does not have (yet), as opposed to what it gets wrong.
struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr double kTolerance = 1e-10;
constexpr double kInverseTolerance = 1e-7;  // of inverses and eigenbases

/// The worst comparison so far.
class Comparison {
 public:
  void check(const std::string& array, const Matrix& actual, const Matrix& expected) {
    if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
      record(array + " (shape)", std::numeric_limits<double>::infinity(), kTolerance);
      return;
    }
    const double largest = expected.size() ? expected.cwiseAbs().maxCoeff() : 0;
    double error = actual.size() ? (actual - expected).cwiseAbs().maxCoeff() : 0;
    if (largest > 0) error /= largest;
    if (!actual.allFinite()) error = std::numeric_limits<double>::infinity();
    const bool inverse = array.find(".precond.") != std::string::npos;
    record(array, error, inverse ? kInverseTolerance : kTolerance);
  }

  bool passed() const { return worst_ratio_ <= 1 && count_ > 0; }
  double worst_error() const { return worst_error_; }
  const std::string& worst_array() const { return worst_array_; }
  int count() const { return count_; }

 private:
  void record(const std::string& array, double error, double tolerance) {
    ++count_;
    if (error / tolerance < worst_ratio_) return;
    worst_ratio_ = error / tolerance;
    worst_error_ = error;
    worst_array_ = array;
  }

  double worst_ratio_ = 0;
  double worst_error_ = 0;
  std::string worst_array_;
  int count_ = 0;
};

kfac::Shape example_shape(const Json& spec) {
  kfac::Shape shape;
  for (std::size_t axis = 1; axis < spec["input_shape"].size(); ++axis)
    shape.push_back(spec["input_shape"][axis].get<Index>());
  return shape;
}

/// The leaves that have curvature, in order: the case's `l{i}`.
std::vector<kfac::LayerView<double>> curved_layers(Model& model) {
  std::vector<kfac::LayerView<double>> result;
  for (const auto& layer : model.layers())
    if (layer.kronecker) result.push_back(layer);
  return result;
}

Matrix augmented(const kfac::LayerView<double>& layer, const double* data) {
  return kfac::ConstMatrixMap<double>(data, layer.kronecker->outputs, layer.kronecker->columns());
}

/// From the arrays `l{i}` + suffix.
void set_weights(Model& model, const kfac::io::SafeTensors& file, const std::string& suffix) {
  const auto layers = curved_layers(model);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string name = "l" + std::to_string(i) + suffix;
    const Matrix weight = file.matrix<double>(name);
    const kfac::KroneckerStructure& sizes = *layers[i].kronecker;
    if (weight.rows() != sizes.outputs || weight.cols() != sizes.columns())
      throw std::runtime_error(name + " has another shape than its layer");
    kfac::VectorMap<double> parameters = layers[i].parameters;
    parameters = weight.reshaped();
  }
}

/// Keeps what each layer announced last, as columns of the augmented input.
struct Inputs : kfac::Observer<double> {
  std::vector<std::string> names;
  std::vector<Matrix> values;
  void on_input(const std::string& layer, const kfac::SharedBatch<double>& input) override {
    names.push_back(layer);
    values.push_back(input.matrix());
  }
};

/// The loss of a case. All have matrices for targets here (labels as one row of numbers), so that
/// what follows is compiled once.
class Loss {
  using Choice = std::variant<kfac::MeanSquaredError<double>, kfac::BinaryCrossEntropy<double>,
                              kfac::SoftmaxCrossEntropy<double>>;
  using Ref = kfac::ConstMatrixRef<double>;

  template <class Body>
  auto with_targets(const Ref& targets, const Body& body) const {
    return std::visit(
        [&](const auto& loss) {
          using Own = typename std::remove_cvref_t<decltype(loss)>::Targets;
          if constexpr (std::same_as<Own, Labels>)
            return body(loss, Labels(targets.reshaped().template cast<int>()));
          else
            return body(loss, targets);
        },
        choice_);
  }

 public:
  using Scalar = double;
  using Targets = Matrix;
  using TargetsRef = Ref;

  explicit Loss(const Json& spec) : choice_(choose(spec)) {}

  void check(const Ref& outputs, const Ref& targets) const {
    with_targets(targets, [&](const auto& loss, const auto& y) { loss.check(outputs, y); });
  }
  double value(const Ref& outputs, const Ref& targets) const {
    return with_targets(targets,
                        [&](const auto& loss, const auto& y) { return loss.value(outputs, y); });
  }
  void gradient(const Ref& outputs, const Ref& targets, kfac::MatrixRef<double> into) const {
    with_targets(targets,
                 [&](const auto& loss, const auto& y) { loss.gradient(outputs, y, into); });
  }
  Matrix gradient(const Ref& outputs, const Ref& targets) const {
    Matrix result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }
  double scale(Index outputs, Index batch) const {
    return std::visit([&](const auto& loss) { return loss.scale(outputs, batch); }, choice_);
  }
  void hessian_product(const Ref& outputs, const Ref& v, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.hessian_product(outputs, v, into); }, choice_);
  }
  Index hessian_sqrt_columns(Index outputs) const {
    return std::visit([&](const auto& loss) { return loss.hessian_sqrt_columns(outputs); },
                      choice_);
  }
  void hessian_sqrt(const Ref& outputs, Index column, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.hessian_sqrt(outputs, column, into); }, choice_);
  }
  Matrix sample(const Ref& outputs, kfac::Rng& rng) const {
    return std::visit(
        [&](const auto& loss) -> Matrix {
          return loss.sample(outputs, rng).template cast<double>();
        },
        choice_);
  }
  void sampled_gradient(const Ref& outputs, kfac::Rng& rng, kfac::MatrixRef<double> into) const {
    std::visit([&](const auto& loss) { loss.sampled_gradient(outputs, rng, into); }, choice_);
  }

  bool has_labels() const {
    return std::holds_alternative<kfac::SoftmaxCrossEntropy<double>>(choice_);
  }

 private:
  static Choice choose(const Json& spec) {
    const LossOptions options{.reduction =
                                  spec["reduction"] == "sum" ? Reduction::Sum : Reduction::Mean};
    const std::string type = spec["type"].get<std::string>();
    if (type == "mse") return kfac::MeanSquaredError<double>(options);
    if (type == "bce") return kfac::BinaryCrossEntropy<double>(options);
    if (type == "ce") return kfac::SoftmaxCrossEntropy<double>(options);
    throw Skip("loss '" + type + "'");
  }

  Choice choice_;
};

Matrix read_targets(const Loss& loss, const kfac::io::SafeTensors& file, const std::string& name) {
  if (loss.has_labels()) return file.labels(name).transpose().cast<double>();
  return file.batch<double>(name);
}

/// The targets of each Monte-Carlo sample: `[samples, examples, ...]` in the file.
std::vector<Matrix> read_samples(const Loss& loss, const kfac::io::SafeTensors& file,
                                 Index examples) {
  const std::string name = "mc_labels";
  const Index samples = file.shape(name)[0];
  const Vector all =
      loss.has_labels() ? Vector(file.labels(name).cast<double>()) : file.vector<double>(name);
  const Index size = all.size() / samples;
  std::vector<Matrix> result;
  for (Index m = 0; m < samples; ++m)
    result.push_back(all.segment(m * size, size).reshaped(size / examples, examples));
  return result;
}

/// For one kind of Fisher: vectors v_n (columns) whose outer products sum to each example's M_n.
using Vectors = std::vector<Matrix>;

class CurvatureCase {
 public:
  CurvatureCase(Model& model, const Loss& loss, const Json& json, const kfac::io::SafeTensors& file)
      : model_(model), loss_(loss), json_(json), file_(file) {}

  void run(Comparison& comparison) {
    const Matrix input = file_.batch<double>("input");
    const Matrix targets = read_targets(loss_, file_, "target");
    const kfac::Shape shape = example_shape(json_["spec"]);

    Inputs inputs;
    for (const auto& layer : model_.layers())
      if (layer.hooks) layer.hooks->attach(inputs);
    const Matrix outputs = model_.forward(input, shape);
    const double r = loss_.scale(outputs.rows(), outputs.cols());
    comparison.check("output", outputs, file_.batch<double>("output"));
    comparison.check("loss", Matrix::Constant(1, 1, loss_.value(outputs, targets)),
                     Matrix::Constant(1, 1, file_.scalar<double>("loss")));
    check_hessian(outputs, comparison);

    model_.backward(loss_.gradient(outputs, targets));
    const auto layers = curved_layers(model_);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string l = "l" + std::to_string(i);
      gradients_.push_back(augmented(layers[i], layers[i].gradient.data()));
      comparison.check(l + ".grad", gradients_.back(), file_.matrix<double>(l + ".grad"));
      check_shared_input(l, layers[i], inputs.values[i], outputs.cols(), comparison);
    }

    const Matrix criterion = loss_.gradient(outputs, targets) / r;
    comparison.check("empirical_output_grads", criterion,
                     file_.batch<double>("empirical_output_grads"));
    check_exact(input, shape, criterion, comparison);
    for (const char* fisher : {"type-2", "mc", "empirical"})
      check_factors(fisher, vectors(fisher, outputs, criterion), input, shape, r, comparison);
  }

 private:
  void check_hessian(const Matrix& outputs, Comparison& comparison) {
    const Matrix expected = file_.batch<double>("loss_hessian");
    Matrix actual(expected.rows(), expected.cols());
    Matrix product(outputs.rows(), outputs.cols());
    for (Index k = 0; k < outputs.rows(); ++k) {
      const Matrix unit = Vector::Unit(outputs.rows(), k).replicate(1, outputs.cols());
      loss_.hessian_product(outputs, unit, product);
      actual.middleRows(k * outputs.rows(), outputs.rows()) = product;
    }
    comparison.check("loss_hessian", actual, expected);
  }

  void check_shared_input(const std::string& l, const kfac::LayerView<double>& layer,
                          const Matrix& announced, Index examples, Comparison& comparison) {
    Matrix shared(layer.kronecker->columns(), announced.cols());
    shared.topRows(announced.rows()) = announced;
    if (layer.kronecker->bias) shared.bottomRows(1).setOnes();
    comparison.check(l + ".shared_input", shared.reshaped(shared.size() / examples, examples),
                     file_.batch<double>(l + ".shared_input"));
  }

  Vectors vectors(const std::string& fisher, const Matrix& outputs, const Matrix& criterion) {
    if (fisher == "empirical") return {criterion};
    Vectors result;
    if (fisher == "type-2") {
      for (Index c = 0; c < loss_.hessian_sqrt_columns(outputs.rows()); ++c) {
        Matrix column(outputs.rows(), outputs.cols());
        loss_.hessian_sqrt(outputs, c, column);
        result.push_back(column);
      }
      return result;
    }
    const double r = loss_.scale(outputs.rows(), outputs.cols());
    const std::vector<Matrix> samples = read_samples(loss_, file_, outputs.cols());
    for (const Matrix& labels : samples)
      result.push_back(loss_.gradient(outputs, labels) /
                       (r * std::sqrt(static_cast<double>(samples.size()))));
    return result;
  }

  void check_exact(const Matrix& input, const kfac::Shape& shape, const Matrix& criterion,
                   Comparison& comparison) {
    kfac::Ggn ggn(model_, loss_, input, shape);
    const Matrix outputs = ggn.outputs();
    const double r = loss_.scale(outputs.rows(), outputs.cols());
    const Matrix full = ggn.dense();
    if (file_.contains("ggn_full"))
      comparison.check("ggn_full", full, file_.matrix<double>("ggn_full"));
    const Matrix jacobian = ggn.jacobian();
    const auto fisher = [&](const Vectors& all) {
      Matrix sum = Matrix::Zero(full.rows(), full.cols());
      for (const Matrix& v : all)
        for (Index n = 0; n < v.cols(); ++n) {
          const Vector g = jacobian.middleRows(n * v.rows(), v.rows()).transpose() * v.col(n);
          sum += r * g * g.transpose();
        }
      return sum;
    };
    const Matrix mc = fisher(vectors("mc", outputs, criterion));
    const Matrix empirical = fisher(vectors("empirical", outputs, criterion));
    const auto layers = curved_layers(model_);
    Index offset = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string name = "l" + std::to_string(i) + ".exact.";
      const Index size = layers[i].parameters.size();
      const auto compare = [&](const char* kind, const Matrix& matrix) {
        comparison.check(name + kind, matrix.block(offset, offset, size, size),
                         file_.matrix<double>(name + kind));
      };
      compare("ggn", full);
      compare("mc", mc);
      compare("empirical", empirical);
      offset += size;
    }
  }

  void check_factors(const std::string& fisher, const Vectors& all, const Matrix& input,
                     const kfac::Shape& shape, double r, Comparison& comparison) {
    kfac::Preconditioner preconditioner(model_, kfac::PreconditionerOptions<double>{});
    preconditioner.collect({kfac::Collection<double>::What::Vectors, 1.0});
    model_.forward(input, shape);
    for (const Matrix& v : all) model_.backward_hooks_only(v);
    preconditioner.update(1.0, r * static_cast<double>(input.cols()));
    for (std::size_t i = 0; i < preconditioner.layers().size(); ++i) {
      const auto& block = preconditioner.layers()[i]->blocks()[0];
      const std::string l = "l" + std::to_string(i);
      const Json& layer = json_["layers"][i];
      // The golden A carries R and the sums over examples and positions, which our G has.
      const double scale = r * static_cast<double>(input.cols() * layer["S"].get<Index>());
      const Matrix a = scale * block.input_factor();
      const Matrix g = block.output_gradient_factor() / scale;
      comparison.check(l + ".A.expand", a, file_.matrix<double>(l + ".A.expand"));
      comparison.check(l + ".G." + fisher + ".expand", g,
                       file_.matrix<double>(l + ".G." + fisher + ".expand"));
      check_inverses(l, fisher, i, a, g, block, comparison);
    }
  }

  template <class Block>
  void check_inverses(const std::string& l, const std::string& fisher, std::size_t layer,
                      const Matrix& a, const Matrix& g, const Block& block,
                      Comparison& comparison) {
    const std::string name = l + ".precond." + fisher + ".expand.";
    const auto compare = [&](const char* variant, auto inverse, const Matrix& input_factor,
                             const Matrix& gradient_factor, bool pi) {
      if (!file_.contains(name + variant)) return;
      const auto expected = file_.matrices<double>(name + variant);
      for (std::size_t k = 0; k < expected.size(); ++k) {
        Matrix v = gradients_[layer];
        if (!inverse.refresh(input_factor, gradient_factor, json_["dampings"][k].get<double>(), pi))
          v.setConstant(std::numeric_limits<double>::quiet_NaN());
        else
          inverse.apply(v);
        comparison.check(name + variant, v, expected[k]);
      }
    };
    const Matrix& mean_a = block.input_factor();
    const Matrix& scaled_g = block.output_gradient_factor();
    compare("exact", kfac::SpectralInverse<double>(), mean_a, scaled_g, true);
    compare("pi", kfac::FactoredInverse<double>(), mean_a, scaled_g, true);
    compare("plain_meanA", kfac::FactoredInverse<double>(), mean_a, scaled_g, false);
    compare("plain", kfac::FactoredInverse<double>(), a, g, false);
  }

  Model& model_;
  const Loss& loss_;
  const Json& json_;
  const kfac::io::SafeTensors& file_;
  std::vector<Matrix> gradients_;
};

/// Several optimizer steps: the recipe in case.json is KfacOptimizer's without momentum and clip.
void run_steps(Model& model, const Loss& loss, const Json& json, const kfac::io::SafeTensors& file,
               Comparison& comparison) {
  if (json["approx"] != "expand" || json["fisher"] != "type-2" || json["damping_variant"] != "pi")
    throw Skip("steps other than type-2, expand, pi");
  const double rate = json["lr"].get<double>();
  kfac::KfacOptimizer optimizer(model, loss,
                                {.learning_rate = rate,
                                 .momentum = 0,
                                 .damping = json["damping"].get<double>(),
                                 .inverse_every = 1,
                                 .kl_clip = 0});
  for (int step = 1; step <= json["steps"].get<int>(); ++step) {
    const std::string prefix = "step" + std::to_string(step) + ".";
    const Matrix x = file.batch<double>(prefix + "input");
    const Matrix y = read_targets(loss, file, prefix + "target");
    std::vector<Matrix> before;
    for (const auto& layer : curved_layers(model))
      before.push_back(augmented(layer, layer.parameters.data()));
    const auto& report = optimizer.step(x, y);
    if (!report.ok()) throw std::runtime_error(describe(report.status));
    comparison.check(
        prefix + "loss", Matrix::Constant(1, 1, report.loss),
        Matrix::Constant(1, 1, json["losses"][static_cast<std::size_t>(step - 1)].get<double>()));
    const auto layers = curved_layers(model);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string l = prefix + "l" + std::to_string(i) + ".";
      const Matrix after = augmented(layers[i], layers[i].parameters.data());
      const auto& block = optimizer.preconditioner().layers()[i]->blocks()[0];
      comparison.check(
          l + "A_running (x) G_running",
          kfac::linalg::kronecker_product<double>(block.input_factor(),
                                                  block.output_gradient_factor()),
          kfac::linalg::kronecker_product<double>(file.matrix<double>(l + "A_running"),
                                                  file.matrix<double>(l + "G_running")));
      comparison.check(l + "direction", (before[i] - after) / rate,
                       file.matrix<double>(l + "direction"));
      comparison.check(l + "W", after, file.matrix<double>(l + "W"));
    }
  }
}

void run_case(const std::filesystem::path& folder, Comparison& comparison) {
  std::ifstream stream(folder / "case.json");
  const Json json = Json::parse(stream);
  const kfac::io::SafeTensors file = kfac::io::read_safetensors(folder / "case.safetensors");
  const Json& spec = json["spec"];

  Model model;
  try {
    model = make_network(spec["layers"]);
  } catch (const kfac::FileError& error) {
    throw Skip(error.what());
  }
  const bool per_position =
      spec["loss"]["type"] == "ce" && file.contains("target") && file.shape("target").size() > 1;
  if (per_position) throw Skip("cross-entropy with labels for each position");

  const bool steps = json["kind"] == "steps";
  set_weights(model, file, steps ? ".W0" : ".W");
  const Loss loss(spec["loss"]);
  if (steps)
    run_steps(model, loss, json, file, comparison);
  else
    CurvatureCase(model, loss, json, file).run(comparison);
}

std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "case.json")) return {folder};
  std::vector<std::filesystem::path> cases;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (std::filesystem::exists(entry.path() / "case.json")) cases.push_back(entry.path());
  std::sort(cases.begin(), cases.end());
  return cases;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: kfac_golden DIR...\n"
                 "  each DIR a case (case.json, case.safetensors) or a folder of cases\n";
    return 2;
  }
  int passed = 0, failed = 0, skipped = 0;
  for (int argument = 1; argument < argc; ++argument) {
    std::vector<std::filesystem::path> cases;
    try {
      cases = find_cases(argv[argument]);
    } catch (const std::exception& error) {
      std::cerr << error.what() << '\n';
      return 2;
    }
    for (const std::filesystem::path& folder : cases) {
      const std::string name = folder.filename().string();
      Comparison comparison;
      try {
        run_case(folder, comparison);
        (comparison.passed() ? passed : failed) += 1;
        std::cout << (comparison.passed() ? "PASS  " : "FAIL  ") << name << "  "
                  << comparison.worst_error() << " in " << comparison.worst_array() << " ("
                  << comparison.count() << " arrays)\n";
      } catch (const Skip& reason) {
        ++skipped;
        std::cout << "SKIP  " << name << "  " << reason.what() << '\n';
      } catch (const std::exception& error) {
        ++failed;
        std::cout << "FAIL  " << name << "  " << error.what() << '\n';
      }
    }
  }
  std::cout << passed << " passed, " << failed << " failed, " << skipped << " skipped\n"
            << "not compared: KFAC-reduce, EKFAC, forward-only and Hessian arrays\n";
  return failed == 0 && passed > 0 ? 0 : 1;
}
