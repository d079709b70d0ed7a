#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include <Eigen/Core>

#include <kfac/core/types.hpp>
#include <kfac/linalg/krylov.hpp>
#include <kfac/linalg/spectral_density.hpp>

#include "support/plot.hpp"

namespace examples {

/// One way to approximate a curvature matrix.
struct Approximation {
  std::string name;
  std::vector<Eigen::MatrixXd> blocks;  ///< one a layer, dense, undamped
};

/// How a system (C + damping I) x = g was solved with one preconditioner.
struct Solves {
  std::string preconditioner;
  std::vector<kfac::linalg::KrylovResult<double>> at_dampings;
  /// The first step, along the preconditioned gradient alone: what it takes from the quadratic
  /// 1/2 x^T (C + damping I) x - g^T x, as a share of what the solution does.
  std::vector<double> first_steps;
};

/// The exact curvature matrix C of a network, and what approximates it.
struct CurvatureStudy {
  struct Layer {
    std::string name;
    kfac::Index first;  ///< of its parameters among all
    kfac::Index size;
    kfac::Index outputs;  ///< rows of [W b]
  };

  Eigen::MatrixXd exact = {};
  kfac::linalg::SpectralMeasure lanczos = {};  ///< an estimate of its spectrum
  kfac::Index lanczos_products = 0;
  std::vector<Layer> layers = {};
  std::vector<Approximation> approximations = {};
  std::vector<double> dampings = {};
  std::vector<Solves> solves = {};

  Eigen::MatrixXd exact_block(const Layer& layer) const {
    return exact.block(layer.first, layer.first, layer.size, layer.size);
  }
};

/// |approximation - exact| / |exact| in the Frobenius norm, layer by layer, and for the whole
/// network, of which approximations have the blocks on the diagonal only.
void print_errors(std::ostream& out, const CurvatureStudy& study);
/// The eigenvalues of the blocks: the largest, and how many there are in each power of ten.
void print_spectra(std::ostream& out, const CurvatureStudy& study);
void print_first_steps(std::ostream& out, const CurvatureStudy& study);
void print_iterations(std::ostream& out, const CurvatureStudy& study);

/// The exact block of a layer and its approximations as heat maps, with the parameters in the order
/// of the outputs that they belong to; eigenvalues of these and of the whole network; iterations.
/// \throws std::runtime_error if the block is zero
std::vector<Panel> curvature_panels(const CurvatureStudy& study, std::size_t layer);

}  // namespace examples
