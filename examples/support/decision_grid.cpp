#include "support/decision_grid.hpp"

namespace examples {

using kfac::Index;

namespace {

constexpr Index kRows = 90;
constexpr Index kColumns = 120;
constexpr float kMargin = 0.3F;

Eigen::VectorXf axis(const Eigen::VectorXf& values, Index count) {
  return Eigen::VectorXf::LinSpaced(count, values.minCoeff() - kMargin,
                                    values.maxCoeff() + kMargin);
}

}  // namespace

DecisionGrid::DecisionGrid(const kfac::Dataset<float>& data)
    : data_(data),
      xs_(axis(data.inputs.row(0), kColumns)),
      ys_(axis(data.inputs.row(1), kRows)),
      inputs_(2, kRows * kColumns) {
  for (Index row = 0; row < kRows; ++row)
    for (Index column = 0; column < kColumns; ++column)
      inputs_.col(row * kColumns + column) << xs_(column), ys_(row);
}

Panel DecisionGrid::panel(const std::string& classifier, const kfac::Matrix<float>& outputs) const {
  // Of two classes, softmax is the logistic function of the difference.
  const Eigen::ArrayXd difference = (outputs.row(1) - outputs.row(0)).transpose().cast<double>();
  const Eigen::ArrayXd probability = 1.0 / (1.0 + (-difference).exp());

  Panel panel{.title = "Decision of " + classifier, .x_label = "x", .y_label = "y"};
  panel.background =
      Field{static_cast<double>(xs_(0)),
            static_cast<double>(xs_(kColumns - 1)),
            static_cast<double>(ys_(0)),
            static_cast<double>(ys_(kRows - 1)),
            Eigen::Map<const Eigen::MatrixXd>(probability.data(), kColumns, kRows).transpose(),
            Colour::SkyBlue,
            Colour::Orange};
  for (const int label : {0, 1}) {
    Series moon{"class " + std::to_string(label), label == 0 ? Colour::Blue : Colour::Vermilion,
                Series::Style::Points,
                Eigen::Matrix2Xd(2, (data_.targets.array() == label).count())};
    Index next = 0;
    for (Index n = 0; n < data_.examples(); ++n)
      if (data_.targets(n) == label) moon.points.col(next++) = data_.inputs.col(n).cast<double>();
    panel.series.push_back(moon);
  }
  return panel;
}

}  // namespace examples
