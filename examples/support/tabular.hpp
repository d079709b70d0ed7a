#pragma once

#include <string>

#include <kfac/data/dataset.hpp>

namespace examples {

/// The numbers of a file of comma-separated values, after the line of names that it begins with: a
/// column of the matrix for each line.
/// \throws kfac::FileError naming the file and the line if it is missing, or one is not as the
/// others
Eigen::MatrixXd read_numbers(const std::string& path);

/// The diabetes data of Efron, Hastie, Johnstone and Tibshirani (2004): ten measurements of 442
/// patients, and how far the disease went in a year. All standardised: mean 0, variance 1.
kfac::Dataset<double, kfac::Matrix<double>> diabetes();

/// Handwritten digits of 8x8 pixels, from 0 to 1, in ten classes: the 1797 of the test set of
/// Alpaydin and Kaynak (1998).
kfac::Dataset<double> digits();

}  // namespace examples
