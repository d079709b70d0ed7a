#pragma once

#include <memory>
#include <vector>

#include <kfac/curvature/layer_curvature.hpp>

namespace kfac {

/// The damped inverses of all layers' blocks as one map of the network's flat parameters: what
/// `linalg::conjugate_gradients` and `linalg::minres` take as a preconditioner.
///
///     linalg::conjugate_gradients(ggn, gradient, {.damping = 1e-2}, curvature.inverse(1e-2));
///
/// The curvature of parameters without a block is taken to be zero. It keeps copies of the
/// estimates as they were when it was made.
template <RealScalar S>
class BlockDiagonalInverse {
 public:
  using Scalar = S;

  /// `flat` is the network's flat gradient, which the layers' gradients are segments of.
  /// \throws OptionError for damping that is negative or not finite; StateError before any data;
  ///         SingularError if the damping is 0 and a block is singular, or a parameter has none
  BlockDiagonalInverse(const std::vector<std::unique_ptr<LayerCurvature<S>>>& layers,
                       const ConstVectorMap<S>& flat, S damping)
      : size_(flat.size()), damping_(damping) {
    Index covered = 0;
    for (const auto& layer : layers) {
      Index offset = layer->layer().gradient.data() - flat.data();
      for (const auto& block : layer->blocks()) {
        segments_.push_back({offset, block->matrix(damping)});
        const CurvatureMatrix<S>& matrix = *segments_.back().matrix;
        if (matrix.singular())
          raise_singular("the block of layer '" + block->name() + "' is singular");
        offset += matrix.size();
        covered += matrix.size();
      }
    }
    if (damping == 0 && covered < size_) raise_singular("there are parameters without a block");
  }

  Index rows() const { return size_; }
  Index cols() const { return size_; }

  /// v <- C^-1 v, in place. \throws ShapeError
  void operator()(Vector<S>& v) const {
    detail::check_size("kfac::BlockDiagonalInverse", "v", v.size(), size_, "entries");
    Index end = 0;
    for (const Segment& segment : segments_) {
      v.segment(end, segment.offset - end) /= damping_;
      const CurvatureMatrix<S>& matrix = *segment.matrix;
      matrix.solve(MatrixMap<S>(v.data() + segment.offset, matrix.rows(), matrix.columns()));
      end = segment.offset + matrix.size();
    }
    v.tail(size_ - end) /= damping_;
  }

 private:
  struct Segment {
    Index offset;
    std::unique_ptr<CurvatureMatrix<S>> matrix;
  };

  [[noreturn]] static void raise_singular(const std::string& what) {
    raise<SingularError>("kfac::BlockDiagonalInverse: 'damping' is 0 and " + what +
                         ", expected damping > 0");
  }

  Index size_;
  S damping_;
  std::vector<Segment> segments_;  // in order
};

}  // namespace kfac
