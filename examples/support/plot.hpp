#pragma once

#include <optional>
#include <string>
#include <vector>

#include <Eigen/Core>

namespace examples {

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
enum class Colour { Black, Orange, SkyBlue, Green, Blue, Vermilion };

/// Points of the plane, joined by a line or not.
struct Series {
  enum class Style { Line, Dashed, Dotted, DashDotted, LinePoints, Points };

  std::string label;  ///< in the legend; empty for none
  Colour colour = Colour::Black;
  Style style = Style::Line;
  Eigen::Matrix2Xd points = {};
};

/// A function on a rectangle: `values(i, j)` at the i-th of evenly spaced y and the j-th x. Values
/// from 0 to 1 are shaded from one colour to another, and a line is drawn where they cross 1/2.
struct Field {
  double left, right, bottom, top;
  Eigen::MatrixXd values;
  Colour low, high;
};

/// A matrix, its first entry at the top left: positive entries in one colour, negative ones in
/// another, the darker the larger on a logarithmic scale that ends at `largest`; entries below
/// `smallest` in size are white.
struct HeatMap {
  Eigen::MatrixXd values;
  double smallest, largest;  ///< 0 < smallest < largest
};

struct Panel {
  std::string title = {};
  std::string x_label = {};
  std::string y_label = {};
  bool logarithmic_x = false;
  bool logarithmic_y = false;
  std::vector<Series> series = {};
  std::optional<Field> background = {};
  std::optional<HeatMap> heat_map = {};  ///< in place of all series
};

/// Draws the panels in rows of `columns` to an SVG or PNG file, as its name ends.
/// \throws std::invalid_argument for another ending; std::runtime_error if gnuplot is missing or
///         fails
void draw(const std::string& file, const std::vector<Panel>& panels, int columns);

}  // namespace examples
