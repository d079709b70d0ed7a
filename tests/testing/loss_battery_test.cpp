#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"

namespace kfac::test::loss_battery_test {

using kfac::ConstMatrixRef;
using kfac::Index;
using kfac::MatrixRef;
using kfac::testing::LossCheck;

namespace {

/// The squared error, with room for one mistake.
struct SquaredError : kfac::MeanSquaredError<double> {
  SquaredError() = default;
};

/// Its gradient lacks the factor 2.
struct WrongGradient : SquaredError {
  void gradient(const ConstMatrixRef<double>& f, const TargetsRef& y,
                MatrixRef<double> into) const {
    SquaredError::gradient(f, y, into);
    into *= 0.5;
  }
};

/// It forgets to overwrite its destination.
struct AddsGradient : SquaredError {
  void gradient(const ConstMatrixRef<double>& f, const TargetsRef& y,
                MatrixRef<double> into) const {
    into += scale(f.rows(), f.cols()) * (f - y);
  }
};

/// It says that it is a sum over the batch, and is a mean.
struct WrongScale : SquaredError {
  double scale(Index outputs, Index) const { return SquaredError::scale(outputs, 1); }
};

/// The Hessian of the loss, not of the criterion.
struct ScaledHessian : SquaredError {
  void hessian_product(const ConstMatrixRef<double>& f, const ConstMatrixRef<double>& v,
                       MatrixRef<double> into) const {
    into = scale(f.rows(), f.cols()) * v;
  }
};

/// Output 0 reacts to output 1, but not the other way round.
struct AsymmetricHessian : SquaredError {
  void hessian_product(const ConstMatrixRef<double>&, const ConstMatrixRef<double>& v,
                       MatrixRef<double> into) const {
    into = v;
    into.row(0) += 0.1 * v.row(1);
  }
};

/// One direction of negative curvature among positive ones.
struct IndefiniteHessian : SquaredError {
  void hessian_product(const ConstMatrixRef<double>&, const ConstMatrixRef<double>& v,
                       MatrixRef<double> into) const {
    into = v;
    into.row(0) += 1.01 * v.row(1);
    into.row(1) += 1.01 * v.row(0);
  }
};

/// The last column of the square root is missing.
struct ShortSqrt : SquaredError {
  Index hessian_sqrt_columns(Index outputs) const { return outputs - 1; }
};

/// The gradient at the model's mean is not the gradient at a sample.
struct BiasedSampler : SquaredError {
  void sampled_gradient(const ConstMatrixRef<double>& f, kfac::Rng& rng,
                        MatrixRef<double> into) const {
    SquaredError::sampled_gradient(f, rng, into);
    into.array() += 0.2;
  }
};

/// Noise of the wrong size, in gradients and targets alike.
struct WideSampler : SquaredError {
  void sampled_gradient(const ConstMatrixRef<double>& f, kfac::Rng& rng,
                        MatrixRef<double> into) const {
    SquaredError::sampled_gradient(f, rng, into);
    into *= 1.2;
  }
  Targets sample(const ConstMatrixRef<double>& f, kfac::Rng& rng) const {
    return f + 1.2 * (SquaredError::sample(f, rng) - f);
  }
};

/// Targets with the right mean and covariance, of another distribution.
struct TwoPointTargets : SquaredError {
  Targets sample(const ConstMatrixRef<double>& f, kfac::Rng& rng) const {
    return f.unaryExpr([&rng](double mean) { return mean + (rng.uniform() < 0.5 ? -1 : 1); });
  }
};

/// A mistake that shows as a number that is not one.
struct SilentSampler : SquaredError {
  void sampled_gradient(const ConstMatrixRef<double>&, kfac::Rng&, MatrixRef<double>) const {}
};

template <kfac::Loss L>
LossCheck check(const L& loss, Index outputs = 2, Index batch = 3) {
  kfac::Rng rng(17);
  kfac::Matrix<double> f(outputs, batch), y(outputs, batch);
  rng.fill_normal(f);
  rng.fill_normal(y);
  return kfac::testing::check_loss(loss, f, y, rng);
}

constexpr double kTolerance = 1e-8;
constexpr double kErrors = 5;

}  // namespace

TEST_CASE("check_loss: a right loss passes", "[testing]") {
  const LossCheck result = check(SquaredError{});
  INFO(result.report());
  CHECK(result.passes(kTolerance));
}

TEST_CASE("check_loss: a wrong gradient is caught", "[testing]") {
  CHECK(check(WrongGradient{}).gradient == Approx(0.5));
  CHECK_FALSE(check(WrongGradient{}).passes(kTolerance));
}

TEST_CASE("check_loss: a result that is added to its destination is caught", "[testing]") {
  CHECK(std::isinf(check(AddsGradient{}).gradient));
  CHECK_FALSE(check(AddsGradient{}).passes(kTolerance));
}

TEST_CASE("check_loss: a scale that is not that of the reduction is caught", "[testing]") {
  const LossCheck result = check(WrongScale{});
  // Three examples: the mean's value is a third of what the sum of its examples' says.
  CHECK(result.reduction == Approx(2.0 / 3.0));
  CHECK(result.gradient < kTolerance);
  CHECK_FALSE(result.passes(kTolerance));
}

TEST_CASE("check_loss: a Hessian with the scale of the loss is caught", "[testing]") {
  const LossCheck result = check(ScaledHessian{});
  CHECK(result.hessian_product == Approx(2.0 / 3.0));  // the scale is 2 / 6, expected 1
  CHECK_FALSE(result.passes(kTolerance));
}

TEST_CASE("check_loss: an asymmetric Hessian is caught", "[testing]") {
  CHECK(check(AsymmetricHessian{}).symmetry > 0.05);
  CHECK(check(AsymmetricHessian{}).negative_curvature == 0);
  CHECK_FALSE(check(AsymmetricHessian{}).passes(kTolerance));
}

TEST_CASE("check_loss: an indefinite Hessian is caught", "[testing]") {
  const LossCheck result = check(IndefiniteHessian{});
  CHECK(result.symmetry == 0);
  CHECK(result.negative_curvature == Approx(1.01 * 1.01 - 1));  // [1 1.01; 1.01 1]: pivots 1, ...
  CHECK_FALSE(result.passes(kTolerance));
}

TEST_CASE("check_loss: an incomplete square root is caught", "[testing]") {
  CHECK(check(ShortSqrt{}).hessian_sqrt > 0.1);
  CHECK_FALSE(check(ShortSqrt{}).passes(kTolerance));
}

TEST_CASE("check_loss: a sampler with a bias is caught", "[testing]") {
  CHECK(check(BiasedSampler{}).sampled_mean > kErrors);
  CHECK_FALSE(check(BiasedSampler{}).passes(kTolerance));
}

TEST_CASE("check_loss: a sampler that is too wide is caught, though consistent", "[testing]") {
  const LossCheck result = check(WideSampler{});
  CHECK(result.sampled_covariance > kErrors);
  CHECK(result.sampled_mean < kErrors);
  CHECK(result.sample < kErrors);
  CHECK_FALSE(result.passes(kTolerance));
}

TEST_CASE("check_loss: targets of another distribution are caught", "[testing]") {
  const LossCheck result = check(TwoPointTargets{}, 1, 1);
  CHECK(result.sample > kErrors);
  CHECK(result.sampled_covariance < kErrors);
  CHECK_FALSE(result.passes(kTolerance));
}

TEST_CASE("check_loss: what is never written is caught", "[testing]") {
  const LossCheck result = check(SilentSampler{});
  CHECK(std::isinf(result.sampled_mean));
  CHECK(std::isinf(result.sampled_covariance));
  CHECK(std::isinf(result.sample));
  CHECK_FALSE(result.passes(kTolerance, 1e300));
}

TEST_CASE("check_loss: every error counts, against the tolerance of its kind", "[testing]") {
  const auto with = [](double LossCheck::*error, double size) {
    LossCheck result;
    result.*error = size;
    return result;
  };
  for (const auto error :
       {&LossCheck::gradient, &LossCheck::reduction, &LossCheck::hessian_product,
        &LossCheck::symmetry, &LossCheck::negative_curvature, &LossCheck::hessian_sqrt}) {
    CHECK(with(error, 0.1).passes(0.1));
    CHECK_FALSE(with(error, 0.1).passes(0.09));
  }
  for (const auto error :
       {&LossCheck::sampled_mean, &LossCheck::sampled_covariance, &LossCheck::sample}) {
    CHECK(with(error, 4).passes(0.1));
    CHECK(with(error, 4).passes(0.1, 4));
    CHECK_FALSE(with(error, 4).passes(0.1, 3.9));
  }
}

TEST_CASE("check_loss: the report names every error", "[testing]") {
  LossCheck result;
  result.gradient = 0.25;
  result.sample = 1.5;
  CHECK(result.report() ==
        "gradient: 0.25\n"
        "reduction: 0\n"
        "hessian product: 0\n"
        "symmetry: 0\n"
        "negative curvature: 0\n"
        "hessian sqrt: 0\n"
        "sampled mean: 0 standard errors\n"
        "sampled covariance: 0 standard errors\n"
        "sample: 1.5 standard errors\n");
}

TEST_CASE("check_loss: targets that do not fit are the loss's error", "[testing][error]") {
  kfac::Rng rng(1);
  CHECK_THROWS_AS(kfac::testing::check_loss(SquaredError{}, kfac::Matrix<double>::Zero(2, 3),
                                            kfac::Matrix<double>::Zero(2, 4), rng),
                  kfac::ShapeError);
}

}  // namespace kfac::test::loss_battery_test
