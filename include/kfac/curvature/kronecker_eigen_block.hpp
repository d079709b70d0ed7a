#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/kronecker_factors_block.hpp>
#include <kfac/curvature/spectral_block.hpp>

namespace kfac {

/// K-FAC in the eigenbases of its factors, A (x) G = (U_A (x) U_G) diag(a (x) g) (...)^T: like
/// `KroneckerBlock` with damping that is exact, (A (x) G + damping I)^-1, at several times the cost
/// of an inverse. It is in a header of its own because Eigen's eigensolver takes seconds to
/// compile.
/// \source Martens and Grosse 2015, arXiv 1503.05671, appendix B
template <RealScalar S>
class KroneckerEigenBlock : public KroneckerFactorsBlock<S, SpectralBlock<S>> {
  using Base = CurvatureBlock<S>;
  using Factors = KroneckerFactorsBlock<S, SpectralBlock<S>>;

 public:
  /// \throws OptionError
  explicit KroneckerEigenBlock(BlockOptions<S> options)
      : Factors("kfac::KroneckerEigenBlock", std::move(options)) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new KroneckerEigenBlock(*this));
  }
  void assign(const Base& other) override {
    *this = static_cast<const KroneckerEigenBlock&>(other);
  }
  const char* kind() const override { return "K-FAC (eigenbasis)"; }
  BlockCost cost() const override {
    const BlockCost factors = Factors::factor_cost();
    return this->spectral_cost(factors.bytes, factors.update);
  }

 private:
  void copy_basis_factors(Matrix<S>& a, Matrix<S>& g) const override {
    Factors::factors().copy_to(a, g);
  }
  void multiply_by_factors(MatrixRef<S> v, Buffer<S>& scratch) override {
    Factors::factors().multiply(v, scratch);
  }
  void visit_statistics(StateVisitor& visitor) override { Factors::visit_factors(visitor); }
};

}  // namespace kfac
