#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/kronecker_factors.hpp>
#include <kfac/curvature/spectral_block.hpp>

namespace kfac {

/// K-FAC in the eigenbases of its factors, A (x) G = (U_A (x) U_G) diag(a (x) g) (...)^T: like
/// `KroneckerBlock` with damping that is exact, (A (x) G + damping I)^-1, at several times the cost
/// of an inverse. It is in a header of its own because Eigen's eigensolver takes seconds to
/// compile. \source Martens and Grosse 2015, arXiv 1503.05671, appendix B
template <RealScalar S>
class KroneckerEigenBlock : public SpectralBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit KroneckerEigenBlock(BlockOptions<S> options)
      : SpectralBlock<S>("kfac::KroneckerEigenBlock", std::move(options)),
        factors_(Base::options()) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new KroneckerEigenBlock(*this));
  }
  void assign(const Base& other) override {
    *this = static_cast<const KroneckerEigenBlock&>(other);
  }
  const char* kind() const override { return "K-FAC (eigenbasis)"; }

  /// A, `columns() x columns()`: the mean second moment of the inputs.
  const Matrix<S>& input_factor() const { return factors_.input_factor(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  const Matrix<S>& output_gradient_factor() const { return factors_.output_gradient_factor(); }

  bool fresh_is_finite() const override { return factors_.fresh_is_finite(); }

 private:
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    factors_.add_output_gradient(gradient, weight);
  }
  void do_add_output_identity() override { factors_.add_output_identity(); }
  void do_commit(S scale, Index examples) override { factors_.commit(scale, examples); }
  void do_discard() override { factors_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) factors_.reset();
    return pass == 0;
  }
  bool decompose(linalg::KroneckerEigen<S>& eigen) const override {
    return eigen.compute(input_factor(), output_gradient_factor());
  }

  KroneckerFactors<S> factors_;
};

}  // namespace kfac
