#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/spectral_matrix.hpp>

namespace kfac {

/// What blocks that are diagonal in a Kronecker eigenbasis share: the inverse is damped exactly, as
/// (C + damping I)^-1. `Derived` kinds say what the basis and its eigenvalues are.
template <RealScalar S>
class SpectralBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  using Base::Base;

 protected:
  /// The basis in use, as of the last `refresh_inverse`.
  linalg::KroneckerEigen<S>& eigen() { return eigen_; }
  const linalg::KroneckerEigen<S>& eigen() const { return eigen_; }

 private:
  /// Decomposes the estimate as it is now. Returns false, leaving `eigen` as it was, if that fails.
  virtual bool decompose(linalg::KroneckerEigen<S>& eigen) const = 0;
  /// The same for `matrix`, where a kind has its estimate in the basis in use.
  virtual bool estimate(linalg::KroneckerEigen<S>& eigen) const { return decompose(eigen); }

  bool do_refresh_inverse(S damping) override {
    if (!decompose(next_)) return false;
    if (damping == 0 && SpectralMatrix<S>(next_, damping).singular()) return false;
    std::swap(eigen_, next_);
    damping_ = damping;
    on_new_basis();
    return true;
  }
  /// After `eigen()` was replaced.
  virtual void on_new_basis() {}

  void do_precondition(MatrixRef<S> v) override {
    eigen_.apply(linalg::MatrixFunction::Inverse, damping_, v, product_);
  }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    linalg::KroneckerEigen<S> eigen;
    if (!estimate(eigen))
      raise<ValueError>("kfac::CurvatureBlock::matrix: the estimate is not finite (layer '" +
                        Base::name() + "')");
    return std::make_unique<SpectralMatrix<S>>(std::move(eigen), damping);
  }

  linalg::KroneckerEigen<S> eigen_;
  linalg::KroneckerEigen<S> next_;  // a failed refresh must leave the basis in use alone
  S damping_ = 0;
  Buffer<S> product_;
};

}  // namespace kfac
