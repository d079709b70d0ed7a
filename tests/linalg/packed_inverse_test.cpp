#include <cmath>
#include <limits>
#include <vector>

#include <Eigen/LU>

#include <kfac/core/random.hpp>
#include <kfac/linalg/packed_inverse.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/with_state_of.hpp"

namespace kfac::test::packed_inverse_test {

namespace {

using Inverse = linalg::PackedInverse<double>;
using linalg::InverseForm;

Matrix<double> positive_definite(Index size, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, size, rng);
  return x * x.transpose() + 0.1 * static_cast<double>(size) * Matrix<double>::Identity(size, size);
}

double relative_error(const Matrix<double>& actual, const Matrix<double>& expected) {
  return (actual - expected).norm() / expected.norm();
}

/// Around where inverses begin to be packed.
constexpr Index kSizes[] = {1, 2, 3, 17, 32, 33, 48, 49, 63, 64, 65, 66, 97, 130, 401};
constexpr Index kCounts[] = {1, 2, 31, 70, 390};

/// The forms that an inverse of that size may have.
std::vector<InverseForm> forms_of(Index size) {
  if (size <= 64) return {InverseForm::Triangle};
  return {InverseForm::Matrix, InverseForm::Triangle};
}

Matrix<double> left_product(const Inverse& inverse, const Matrix<double>& v) {
  Matrix<double> half(v.rows(), v.cols()), product(v.rows(), v.cols());
  if (inverse.form() == InverseForm::Matrix) {
    inverse.multiply_left(v, product);
  } else {
    inverse.multiply_half_left(v, false, half);
    inverse.multiply_half_left(half, true, product);
  }
  return product;
}
Matrix<double> right_product(const Inverse& inverse, const Matrix<double>& v) {
  Matrix<double> half(v.rows(), v.cols()), product(v.rows(), v.cols());
  if (inverse.form() == InverseForm::Matrix) {
    inverse.multiply_right(v, product);
  } else {
    inverse.multiply_half_right(v, true, half);
    inverse.multiply_half_right(half, false, product);
  }
  return product;
}

}  // namespace

TEST_CASE("PackedInverse: products are with the inverse, from either side") {
  Rng rng(1);
  for (const Index size : kSizes)
    for (const InverseForm form : forms_of(size)) {
      const Matrix<double> c = positive_definite(size, rng);
      Matrix<double> work = c;
      work.triangularView<Eigen::StrictlyUpper>().setConstant(7);
      REQUIRE(Inverse::invert(work, form) > 0);
      for (Index j = 1; j < size; ++j) CHECK((work.col(j).head(j).array() == 7).all());
      Inverse packed;
      CHECK(packed.empty());
      packed.assign(work, form);
      const Matrix<double> inverse = c.inverse();
      for (const Index count : kCounts) {
        CAPTURE(size, count, form == InverseForm::Triangle);
        const Matrix<double> v = test::normal<double>(size, count, rng);
        const Matrix<double> left = left_product(packed, v);
        CHECK(relative_error(left, inverse * v) < 1e-12);
        const Matrix<double> right = right_product(packed, v.transpose());
        CHECK(relative_error(right, v.transpose() * inverse) < 1e-12);
        if (form == InverseForm::Matrix) continue;
        const double dot = v.cwiseProduct(left).sum();
        Matrix<double> half(size, count);
        packed.multiply_half_left(v, false, half);
        CHECK(std::abs(half.squaredNorm() - dot) < 1e-12 * dot);
      }
    }
}

TEST_CASE("PackedInverse: parts of larger matrices are read and written") {
  Rng rng(2);
  for (const Index size : {3, 40, 90}) {
    const Matrix<double> c = positive_definite(size, rng);
    Matrix<double> work = c;
    REQUIRE(Inverse::invert(work, InverseForm::Triangle) > 0);
    Inverse packed;
    packed.assign(work, InverseForm::Triangle);
    Matrix<double> all = Matrix<double>::Constant(size + 2, 50, 5);
    Matrix<double> half = all;
    const Matrix<double> v = test::normal<double>(size, 48, rng);
    all.block(1, 1, size, 48) = v;
    packed.multiply_half_left(all.block(1, 1, size, 48), false, half.block(1, 1, size, 48));
    packed.multiply_half_left(half.block(1, 1, size, 48), true, all.block(1, 1, size, 48));
    CHECK(relative_error(c * all.block(1, 1, size, 48), v) < 1e-12);
    CHECK((all.row(0).array() == 5).all());
    CHECK((all.row(size + 1).array() == 5).all());
  }
}

TEST_CASE("PackedInverse: a triangle pays where an inverse is large and seldom used") {
  CHECK(Inverse::cheaper_form(785, 512) == InverseForm::Triangle);
  CHECK(Inverse::cheaper_form(785, 5120) == InverseForm::Matrix);
  CHECK(Inverse::cheaper_form(512, 785) == InverseForm::Matrix);
  CHECK(Inverse::cheaper_form(64, 5120) == InverseForm::Triangle);  // too small to be packed
}

TEST_CASE("PackedInverse: what is not positive definite is told") {
  Rng rng(3);
  for (const Index size : {1, 5, 33, 80})
    for (const InverseForm form : forms_of(size)) {
      Matrix<double> indefinite = positive_definite(size, rng);
      indefinite(size - 1, size - 1) = -1;
      CHECK(Inverse::invert(indefinite, form) == 0);
      Matrix<double> bad = positive_definite(size, rng);
      bad(size / 2, size / 2) = std::numeric_limits<double>::quiet_NaN();
      CHECK(Inverse::invert(bad, form) == 0);
    }
}

TEST_CASE("PackedInverse: state of all ways to keep it") {
  Rng rng(4);
  for (const Index size : {4, 70})
    for (const InverseForm form : forms_of(size)) {
      Matrix<double> work = positive_definite(size, rng);
      REQUIRE(Inverse::invert(work, form) > 0);
      Inverse packed;
      packed.assign(work, form);
      const auto copy_of = [&](Inverse& from, const Inverse& to) {
        return with_state_of(from, to, [&](Inverse& object, StateVisitor& visitor) {
          object.visit_state(visitor, size);
        });
      };
      const Inverse copy = copy_of(packed, {});
      const Matrix<double> v = test::normal<double>(size, 3, rng);
      CHECK(left_product(copy, v) == left_product(packed, v));
      Inverse none;
      CHECK(copy_of(none, packed).empty());
    }
}

}  // namespace kfac::test::packed_inverse_test
