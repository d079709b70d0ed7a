#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <kfac/curvature/chain_block.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/diagonal_input_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/inverse_free_block.hpp>
#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>
#include <kfac/curvature/tensor_normal_block.hpp>
#include <kfac/curvature/unitwise_block.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random.hpp"
#include "support/saved_state.hpp"

// What every kind of block promises of the stages of its inverse, its products and its state.
namespace kfac::test::curvature_block_stages_test {

namespace {

using Block = CurvatureBlock<double>;
using BlockPtr = std::unique_ptr<Block>;
using testing::relative_error;

struct Kind {
  const char* name;
  BlockPtr (*make)(const BlockOptions<double>&);
  bool damps_at_once;  // `set_damping` works
  bool is_inverse;     // of the damped `matrix`, exactly
  bool has_basis;
};

template <class B>
BlockPtr make(const BlockOptions<double>& options) {
  return std::make_unique<B>(options);
}
BlockPtr make_diagonal_inverse_free(const BlockOptions<double>& options) {
  return std::make_unique<InverseFreeBlock<double>>(
      options, InverseFreeOptions<double>{.method = InverseFreeMethod::Ikfac,
                                          .input_structure = linalg::Structure::Diagonal});
}

BlockPtr make_long_chain(const BlockOptions<double>& options) {
  return std::make_unique<ChainBlock<double>>(options, ChainStructure::LongSequence);
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"K-FAC", make<KroneckerBlock<double>>, false, true, false},
      {"K-FAC (symmetric chain)", make<ChainBlock<double>>, false, true, false},
      {"K-FAC (long chain)", make_long_chain, false, true, false},
      {"K-FAC (eigenbasis)", make<KroneckerEigenBlock<double>>, true, true, true},
      {"EKFAC", make<EkfacBlock<double>>, true, true, true},
      {"KFOC", make<KroneckerFitBlock<double>>, true, true, true},
      {"TNT", make<TensorNormalBlock<double>>, true, true, true},
      {"diagonal", make<DiagonalBlock<double>>, true, true, false},
      {"scaled identity", make<ScaledIdentityBlock<double>>, true, true, false},
      {"full", make<FullBlock<double>>, false, true, false},
      {"unit-wise", make<UnitwiseBlock<double>>, false, true, false},
      {"K-FAC with diagonal A", make<DiagonalInputBlock<double>>, false, true, false},
      {"inverse-free K-FAC", make<InverseFreeBlock<double>>, false, false, false},
      {"inverse-free K-FAC", make_diagonal_inverse_free, false, false, false}};
  return all;
}

constexpr Index kInputs = 4, kOutputs = 3, kColumns = kInputs + 1;
BlockOptions<double> options() {
  return {.inputs = kInputs, .outputs = kOutputs, .bias = true, .factor_decay = 0.8};
}

Matrix<double> probe() {
  Rng rng(77);
  return normal<double>(kOutputs, kColumns, rng);
}
Matrix<double> preconditioned(Block& block) {
  Matrix<double> v = probe();
  block.precondition(v);
  return v;
}

/// Takes a batch that depends on the number alone.
void feed(Block& block, int number, double spread = 1) {
  Rng rng(static_cast<std::uint64_t>(1 + number)), first(1);
  const Matrix<double> x =
      normal<double>(kInputs, 12, first) + spread * normal<double>(kInputs, 12, rng);
  const Matrix<double> g =
      normal<double>(kOutputs, 12, first) + spread * normal<double>(kOutputs, 12, rng);
  block.accumulate(x, g);
}

/// Calls `body(kind)` for every one.
template <class Body>
void for_each_kind(Body&& body) {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.name);
    REQUIRE(std::string(kind.make(options())->kind()) == kind.name);
    body(kind);
  }
}

}  // namespace

TEST_CASE("CurvatureBlock: the three stages make the inverse that refresh_inverse makes") {
  for_each_kind([](const Kind& kind) {
    const BlockPtr whole = kind.make(options()), staged = kind.make(options());
    for (int number = 0; number < 4; ++number) {
      feed(*whole, number);
      feed(*staged, number);
      REQUIRE(whole->refresh_inverse(0.1));
      staged->prepare_inverse(0.1);
      REQUIRE(staged->compute_inverse());
      CHECK(staged->has_inverse() == (number > 0));
      staged->adopt_inverse();
      CHECK(preconditioned(*staged) == preconditioned(*whole));
    }
  });
}

TEST_CASE("CurvatureBlock: what happens after an inverse was prepared does not change it") {
  for_each_kind([](const Kind& kind) {
    // What was prepared by an inverse-free block is in use at once.
    if (!kind.is_inverse) return;
    const BlockPtr calm = kind.make(options()), busy = kind.make(options());
    for (const BlockPtr* block : {&calm, &busy}) {
      feed(**block, 0);
      feed(**block, 1);
      REQUIRE((*block)->refresh_inverse(0.3));
      feed(**block, 2);
    }
    const Matrix<double> before = preconditioned(*busy);
    REQUIRE(calm->refresh_inverse(0.1));
    busy->prepare_inverse(0.1);
    const bool own_grid = kind.name == std::string("EKFAC");  // which batches change at once
    if (!own_grid) feed(*busy, 3);
    CHECK(preconditioned(*busy) == before);
    REQUIRE(busy->compute_inverse());
    if (!own_grid) feed(*busy, 4);
    CHECK(preconditioned(*busy) == before);
    busy->adopt_inverse();
    CHECK(preconditioned(*busy) == preconditioned(*calm));
    CHECK(relative_error(preconditioned(*busy), before) > 1e-3);
  });
}

TEST_CASE("CurvatureBlock: EKFAC takes a basis of the factors as they were, and new moments") {
  EkfacBlock<double> calm(options()), busy(options());
  for (EkfacBlock<double>* block : {&calm, &busy}) {
    feed(*block, 0);
    REQUIRE(block->refresh_inverse(0.3));
    feed(*block, 1);
  }
  REQUIRE(calm.refresh_inverse(0.1));
  busy.prepare_inverse(0.1);
  feed(busy, 2);
  REQUIRE(busy.compute_inverse());
  feed(busy, 3);
  busy.adopt_inverse();
  CHECK(preconditioned(busy) == preconditioned(calm));
  // It knows that its factors are newer: another refresh is not for nothing.
  REQUIRE(busy.refresh_inverse(0.1));
  CHECK(relative_error(preconditioned(busy), preconditioned(calm)) > 1e-3);
  const Matrix<double> now = preconditioned(busy);
  REQUIRE(busy.refresh_inverse(0.1));
  CHECK(preconditioned(busy) == now);
}

TEST_CASE("CurvatureBlock: the damping changes at once where set_damping says so") {
  for_each_kind([](const Kind& kind) {
    const BlockPtr block = kind.make(options());
    feed(*block, 0);
    feed(*block, 1);
    CHECK_FALSE(block->set_damping(0.1));  // no inverse yet
    const BlockPtr other = block->clone();
    REQUIRE(block->refresh_inverse(0.1));
    const Matrix<double> before = preconditioned(*block);
    CHECK(block->set_damping(3.0) == kind.damps_at_once);
    REQUIRE(other->refresh_inverse(3.0));
    if (kind.damps_at_once) {
      CHECK(relative_error(preconditioned(*block), preconditioned(*other)) < 1e-13);
      CHECK(relative_error(preconditioned(*block), before) > 1e-3);
      block->set_damping(0.1);
    }
    CHECK(preconditioned(*block) == before);
    CHECK_THROWS_AS(block->set_damping(0.0), OptionError);
    CHECK_THROWS_AS(block->set_damping(-1.0), OptionError);
  });
}

TEST_CASE("CurvatureBlock: products and inverses are those of the matrix") {
  for_each_kind([](const Kind& kind) {
    const BlockPtr block = kind.make(options());
    Matrix<double> v = probe();
    CHECK_THROWS_AS(block->multiply(v), StateError);
    for (int number = 0; number < 3; ++number) {
      feed(*block, number);
      if (number != 1) REQUIRE(block->refresh_inverse(0.1));  // also between refreshes
      v = probe();
      block->multiply(v);
      const Vector<double> flat = probe().reshaped();
      const Matrix<double> dense = block->matrix(0.0)->dense();
      const Vector<double> expected = dense * flat;
      CHECK(relative_error(v, expected.reshaped(kOutputs, kColumns)) < 1e-12);
      Matrix<double> by_matrix = probe();
      block->matrix(0.0)->multiply(by_matrix);
      CHECK(relative_error(v, by_matrix) < 1e-12);
      if (number == 1) continue;
      v = preconditioned(*block);
      Matrix<double> damped = dense;
      const std::string name = kind.name;
      if (name == "K-FAC" || name.ends_with("chain)") || name.ends_with("diagonal A"))
        damped = block->matrix(0.1)->dense();  // the damping is split over the factors
      else if (kind.is_inverse)
        damped.diagonal().array() += 0.1;
      const Vector<double> solved = damped.llt().solve(flat);
      CHECK(relative_error(v, solved.reshaped(kOutputs, kColumns)) < 1e-10);
    }
    Matrix<double> wrong(kOutputs, kInputs);
    CHECK_THROWS_AS(block->multiply(wrong), ShapeError);
  });
}

TEST_CASE("CurvatureBlock: a tracked basis stays near the one that is decomposed each time") {
  for_each_kind([](const Kind& kind) {
    if (!kind.has_basis) return;
    BlockOptions<double> tracking = options();
    tracking.decompose_every = 5;
    const BlockPtr full = kind.make(options()), tracked = kind.make(tracking),
                   never = kind.make(options());
    double worst = 0, worst_of_never = 0;
    for (int number = 0; number < 20; ++number) {
      for (const BlockPtr* block : {&full, &tracked, &never}) feed(**block, number, 0.4);
      REQUIRE(full->refresh_inverse(0.1));
      REQUIRE(tracked->refresh_inverse(0.1));
      if (number == 0) REQUIRE(never->refresh_inverse(0.1));
      const Matrix<double> expected = preconditioned(*full);
      const double error = relative_error(preconditioned(*tracked), expected);
      // EKFAC's moments are of the old basis, which is K-FAC's own only when it is new.
      if (number % 5 == 0) CHECK(error < 1e-12);
      if (number == 1) CHECK(error > 1e-12);
      worst = std::max(worst, error);
      worst_of_never = std::max(worst_of_never, relative_error(preconditioned(*never), expected));
    }
    CAPTURE(worst, worst_of_never);
    CHECK(worst < 0.1);
    CHECK(worst_of_never > 2 * worst);
  });
}

TEST_CASE("CurvatureBlock: a tracked basis that leaves too much off the diagonal is decomposed") {
  for_each_kind([](const Kind& kind) {
    if (!kind.has_basis) return;
    BlockOptions<double> strict = options(), lenient = options();
    strict.decompose_every = lenient.decompose_every = 100;
    strict.track_tolerance = 1e-12;
    lenient.track_tolerance = 1e3;
    const BlockPtr full = kind.make(options()), decomposed = kind.make(strict),
                   tracked = kind.make(lenient);
    for (int number = 0; number < 5; ++number)
      for (const BlockPtr* block : {&full, &decomposed, &tracked}) {
        feed(**block, number, 0.4);
        REQUIRE((*block)->refresh_inverse(0.1));
      }
    CHECK(preconditioned(*decomposed) == preconditioned(*full));
    CHECK(relative_error(preconditioned(*tracked), preconditioned(*full)) > 1e-12);
  });
  BlockOptions<double> wrong = options();
  wrong.track_tolerance = -1;
  CHECK_THROWS_AS(KroneckerBlock<double>(wrong), OptionError);
}

TEST_CASE("CurvatureBlock: a block with another's state goes on as that one, bit by bit") {
  for_each_kind([](const Kind& kind) {
    BlockOptions<double> tracking = options();
    tracking.decompose_every = 3;
    // Without inverse, with one, with one that is prepared and computed.
    for (int stop = 0; stop < 9; ++stop) {
      const BlockPtr original = kind.make(tracking), resumed = kind.make(tracking);
      const auto train = [](Block& block, int number) {
        feed(block, number);
        if (number % 3 == 2) block.adopt_inverse();
        if (number % 3 == 0) REQUIRE(block.refresh_inverse(0.1));
        if (number % 3 != 1) return;
        block.prepare_inverse(0.2);
        REQUIRE(block.compute_inverse());
      };
      for (int number = 0; number < stop; ++number) train(*original, number);
      const SavedState saved(*original);
      saved.restore(*resumed);
      CHECK(SavedState(*resumed) == saved);
      CHECK(resumed->commits() == stop);
      CHECK(resumed->has_inverse() == (stop > 0));
      for (int number = stop; number < stop + 5; ++number) {
        if (resumed->has_inverse()) CHECK(preconditioned(*resumed) == preconditioned(*original));
        train(*original, number);
        train(*resumed, number);
        CHECK(preconditioned(*resumed) == preconditioned(*original));
      }
      CHECK(SavedState(*resumed) == SavedState(*original));
    }
  });
}

TEST_CASE(
    "CurvatureBlock: the cost in bytes is what the state takes and what is summed up for it") {
  constexpr double kA = kColumns * kColumns, kG = kOutputs * kOutputs, kGrid = kOutputs * kColumns;
  for_each_kind([](const Kind& kind) {
    const BlockPtr block = kind.make(options());
    // Every part of it there: an inverse in use, and the next one.
    for (int number = 0; number < 3; ++number) {
      feed(*block, number);
      REQUIRE(block->refresh_inverse(0.1));
    }
    feed(*block, 3);
    block->prepare_inverse(0.1);
    REQUIRE(block->compute_inverse());
    double visited = 0;
    const SavedState saved(*block);
    for (const auto& [path, entry] : saved.entries())
      std::visit(
          [&](const auto& array) {
            if (array.axes.size() == 2) visited += static_cast<double>(array.values.size());
          },
          entry);
    // What shares memory with the averages, sums that are not part of the state, and factors that
    // are being decomposed; but not copies that another thread would invert.
    const std::string name = kind.name;
    const double kept = block->cost().bytes / sizeof(double);
    const double beside = kColumns + kOutputs;
    if (name == "K-FAC") CHECK(kept == visited + beside - (kA + kG));
    if (name == "K-FAC (eigenbasis)") CHECK(kept == visited + beside + kA + kG);
    if (name == "EKFAC") CHECK(kept == visited + beside + kA + kG + 2 * kGrid);
    if (name == "TNT") CHECK(kept == visited + beside + 2 * (kA + kG));
    if (name == "KFOC") CHECK(kept == visited + beside + kA + kG);
    if (name == "diagonal" || name == "scaled identity") CHECK(kept == visited + kGrid);
    if (name == "full") CHECK(kept == visited + kGrid);
    CHECK(block->cost().inverse_bytes < block->cost().bytes);
  });
}

TEST_CASE("CurvatureBlock: the cost of an inverse-free block is by the entries of its roots") {
  const BlockPtr dense = make<InverseFreeBlock<double>>(options());
  CHECK(dense->cost().bytes == 7 * (kColumns * kColumns + kOutputs * kOutputs) * sizeof(double));
  const BlockPtr diagonal = make_diagonal_inverse_free(options());
  CHECK(diagonal->cost().bytes == 7 * (kColumns + kOutputs * kOutputs) * sizeof(double));
  CHECK(diagonal->cost().factors == "K of 5, C of 9 entries");
}

}  // namespace kfac::test::curvature_block_stages_test
