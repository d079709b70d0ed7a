// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <cstdlib>
#include <stdexcept>
#include <vector>

#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

using kfac::Index;
using kfac::Matrix;
using namespace kfac::test;

TEST_CASE("noalloc: what this program counts", "[noalloc]") {
  // Pointers that leave the scope, so that no compiler does without the memory.
  std::vector<int> numbers;
  CHECK(allocations_in([&] { numbers.resize(100); }).news == 1);
  CHECK(allocations_in([&] { numbers.resize(50); }).news == 0);
  void* volatile memory = nullptr;
  const Allocations found = allocations_in([&] { memory = std::malloc(100); });
  std::free(memory);
  CHECK(found.news == 0);
  CHECK(found.mallocs == (kfac::test::malloc_is_counted() ? 1 : 0));

  Matrix<float> matrix;
  CHECK_THROWS_AS(allocations_in([&] { matrix.resize(8, 8); }), std::logic_error);
  matrix.resize(8, 8);
  CHECK(allocations_in([&] { matrix.resize(4, 16); }) == Allocations{});
}

TEST_CASE("noalloc: a warm KroneckerBlock", "[noalloc]") {
  kfac::Rng rng(2);
  kfac::KroneckerBlock<float> block({.inputs = kInputs, .outputs = kHidden});
  Matrix<float> all_gradients(kHidden, kLargestBatch);
  rng.fill_normal(all_gradients);
  // Weights as Eigen stores them by itself, and as PyTorch does.
  Matrix<float> weights = Matrix<float>::Ones(kHidden, kInputs);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = weights;
  Matrix<float> augmented = Matrix<float>::Ones(kHidden, kInputs + 1);
  kfac::Vector<float> bias = kfac::Vector<float>::Ones(kHidden);
  check_warm(kInputs, [&](const Batch& batch) {
    block.accumulate(batch.x, all_gradients.leftCols(batch.x.cols()));
    // Columns that are not contiguous.
    block.accumulate(
        Eigen::Map<const Matrix<float>, 0, Eigen::OuterStride<>>(
            all_gradients.data(), kInputs, batch.x.cols(), Eigen::OuterStride<>(kHidden)),
        all_gradients.leftCols(batch.x.cols()));
    if (!block.refresh_inverse(1e-2f)) throw std::runtime_error("the inverse failed");
    block.precondition(weights, bias);
    block.precondition(rows, bias);
    block.precondition(augmented);
  });
}

TEST_CASE("noalloc: a warm Preconditioner without damping", "[noalloc]") {
  kfac::Rng rng(4);
  kfac::Sequential model{kfac::Linear<float>(kInputs, kHidden, rng)};
  kfac::Preconditioner preconditioner(model, {.damping = 0, .inverse_every = 2});
  Matrix<float> gradients(kHidden, kLargestBatch);
  check_warm(kInputs, [&](const Batch& batch) {
    model.forward(batch.x);
    rng.fill_normal(gradients);
    model.backward(gradients.leftCols(batch.x.cols()));
    if (!preconditioner.step().ok()) throw std::runtime_error("the step failed");
  });
}

TEST_CASE("noalloc: warm evaluation, tangents and gradients of a network", "[noalloc]") {
  kfac::Rng rng(3);
  kfac::Sequential model{kfac::Linear<float>(kInputs, kHidden, rng), kfac::GELU<float>{},
                         kfac::Linear<float>(kHidden, kOutputs, rng)};
  kfac::Vector<float> direction(model.parameter_count());
  rng.fill_normal(direction);
  auto workspace = model.make_workspace();
  check_warm(kInputs, [&](const Batch& batch) {
    {
      const kfac::Evaluation evaluation(model);
      model.forward(batch.x);
    }
    model.backward(model.tangent(direction));
    model.forward(batch.x, workspace);
    model.backward(model.tangent(direction, workspace), workspace);
  });
}
