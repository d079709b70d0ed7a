#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/spectral_matrix.hpp>

namespace kfac {

/// What blocks that are diagonal in a Kronecker eigenbasis share: the inverse is damped exactly, as
/// (C + damping I)^-1, and its damping can change without a new decomposition. Kinds say what the
/// basis and its eigenvalues are.
template <RealScalar S>
class SpectralBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  using Base::Base;

 protected:
  /// The basis in use, as of the last `refresh_inverse`.
  linalg::KroneckerEigen<S>& eigen() { return eigen_; }
  const linalg::KroneckerEigen<S>& eigen() const { return eigen_; }

  /// `cost` of a kind with statistics of that many bytes and work to take in an example.
  BlockCost spectral_cost(double bytes, double update) const {
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    BlockCost cost;
    cost.factors = detail::square_text("A", Base::columns()) + ", " +
                   detail::square_text("G", Base::outputs());
    cost.inverse_bytes = (3 * (a * a + g * g) + 2 * a * g) * sizeof(S);
    cost.bytes = bytes + cost.inverse_bytes;
    cost.update = update;
    cost.inverse = 9 * (a * a * a + g * g * g);
    cost.precondition = 2 * a * g * (a + g);
    return cost;
  }

 private:
  /// Writes what the basis is made of: A, `columns() x columns()`, and G, `outputs() x outputs()`.
  virtual void copy_basis_factors(Matrix<S>& a, Matrix<S>& g) const = 0;
  /// V <- G V A.
  virtual void multiply_by_factors(MatrixRef<S> v, Buffer<S>& scratch) = 0;
  /// Whether the basis in use is that of the factors as they are.
  virtual bool basis_is_current() const { return false; }
  /// After these were copied, and after the basis made of the copies came into use.
  virtual void on_copied_factors() {}
  virtual void on_new_basis() {}
  /// The estimate for `matrix`, where a kind has one in the basis in use.
  virtual const linalg::KroneckerEigen<S>* estimate() const { return nullptr; }
  virtual void visit_statistics(StateVisitor& visitor) = 0;

  void do_prepare_inverse(S damping) override {
    next_damping_ = damping;
    makes_basis_ = !basis_is_current();
    if (!makes_basis_) return;
    copy_basis_factors(next_a_, next_g_);
    tracks_ = !eigen_.empty() && refreshes_ % Base::options().decompose_every != 0;
    if (tracks_) next_ = eigen_;
    ++refreshes_;
    on_copied_factors();
  }
  bool do_compute_inverse() override {
    if (makes_basis_ && !track() && !next_.compute(next_a_, next_g_)) return false;
    if (next_damping_ > 0) return true;
    return !SpectralMatrix<S>(makes_basis_ ? next_ : eigen_, S(0)).singular();
  }
  void do_adopt_inverse() override {
    damping_ = next_damping_;
    if (!makes_basis_) return;
    std::swap(eigen_, next_);
    on_new_basis();
  }
  /// False if it is not to be tracked, or went too far from the factors.
  bool track() {
    return tracks_ && next_.track(next_a_, next_g_) &&
           next_.residual() <= Base::options().track_tolerance;
  }
  bool do_set_damping(S damping) override {
    damping_ = damping;
    return true;
  }

  void do_precondition(MatrixRef<S> v) override {
    eigen_.apply(linalg::MatrixFunction::Inverse, damping_, v, product_);
  }
  void do_multiply(MatrixRef<S> v) override {
    if (const linalg::KroneckerEigen<S>* eigen = estimate()) {
      eigen->apply(linalg::MatrixFunction::Identity, S(0), v, product_);
      return;
    }
    multiply_by_factors(v, product_);
  }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    if (const linalg::KroneckerEigen<S>* eigen = estimate())
      return std::make_unique<SpectralMatrix<S>>(*eigen, damping);
    linalg::KroneckerEigen<S> eigen;
    Matrix<S> a, g;
    copy_basis_factors(a, g);
    if (!eigen.compute(a, g))
      raise<ValueError>("kfac::CurvatureBlock::matrix: the estimate is not finite (layer '" +
                        Base::name() + "')");
    return std::make_unique<SpectralMatrix<S>>(std::move(eigen), damping);
  }
  void do_visit_state(StateVisitor& visitor) override {
    visit_statistics(visitor);
    visitor.visit("damping", damping_);
    visitor.visit("next_damping", next_damping_);
    visitor.visit("makes_basis", makes_basis_);
    visitor.visit("tracks", tracks_);
    visitor.visit("refreshes", refreshes_);
    visitor.in("eigen", eigen_, Base::columns(), Base::outputs());
    visitor.in("next", next_, Base::columns(), Base::outputs());
  }

  linalg::KroneckerEigen<S> eigen_;
  linalg::KroneckerEigen<S> next_;  // a failed refresh must leave the basis in use alone
  Matrix<S> next_a_, next_g_;       // what `next_` is made of
  S damping_ = 0;
  S next_damping_ = 0;
  bool makes_basis_ = true;
  bool tracks_ = false;
  Index refreshes_ = 0;
  Buffer<S> product_;
};

}  // namespace kfac
