#pragma once

#include <Eigen/Eigenvalues>

/// Eigen's symmetric eigensolver takes 6 seconds to compile: a test that includes this uses the one
/// that is compiled in eigensolver.cpp.
extern template class Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>;
extern template Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>& Eigen::SelfAdjointEigenSolver<
    Eigen::MatrixXd>::compute<Eigen::MatrixXd>(const Eigen::EigenBase<Eigen::MatrixXd>&, int);
