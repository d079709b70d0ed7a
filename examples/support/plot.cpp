#include "support/plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <sys/wait.h>
#include <utility>

namespace examples {

namespace {

constexpr int kPanelWidth = 520;
constexpr int kPanelHeight = 440;
constexpr int kShellFoundNoProgram = 127;

struct Rgb {
  int red, green, blue;
};

Rgb rgb(Colour colour) {
  static constexpr std::array<Rgb, 6> kPalette{
      {{0, 0, 0}, {230, 159, 0}, {86, 180, 233}, {0, 158, 115}, {0, 114, 178}, {213, 94, 0}}};
  return kPalette[static_cast<std::size_t>(colour)];
}

std::string hex(Rgb colour) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "#%02x%02x%02x", static_cast<unsigned>(colour.red & 255),
                static_cast<unsigned>(colour.green & 255),
                static_cast<unsigned>(colour.blue & 255));
  return text.data();
}

/// The same hue, bright enough to draw upon.
Rgb tint(Rgb colour) {
  const auto lighten = [](int channel) { return channel + (255 - channel) * 11 / 20; };
  return {lighten(colour.red), lighten(colour.green), lighten(colour.blue)};
}

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char letter : text) result += letter == '\'' ? "''" : std::string(1, letter);
  return result + "'";
}

/// A gnuplot script that is run when it is complete.
class Script {
 public:
  template <class T>
  Script& operator<<(const T& value) {
    text_ << value;
    return *this;
  }

  /// Writes points as inline data and returns the name of it.
  std::string data(const Eigen::Matrix2Xd& points) {
    const std::string name = next_name();
    text_ << name << " << END\n";
    for (Eigen::Index i = 0; i < points.cols(); ++i)
      if (points.col(i).allFinite()) text_ << points(0, i) << ' ' << points(1, i) << '\n';
    text_ << "END\n";
    return name;
  }
  std::string data(const Field& field) {
    const std::string name = next_name();
    text_ << name << " << END\n";
    const auto at = [](double from, double to, Eigen::Index i, Eigen::Index count) {
      return from + (to - from) * static_cast<double>(i) / static_cast<double>(count - 1);
    };
    const Eigen::MatrixXd& values = field.values;
    for (Eigen::Index i = 0; i < values.rows(); ++i) {
      for (Eigen::Index j = 0; j < values.cols(); ++j)
        text_ << at(field.left, field.right, j, values.cols()) << ' '
              << at(field.bottom, field.top, i, values.rows()) << ' ' << values(i, j) << '\n';
      text_ << '\n';
    }
    text_ << "END\n";
    return name;
  }
  /// What a heat map shows as numbers: the powers of ten by which entries are above `smallest`,
  /// with their signs.
  std::string data(const HeatMap& map) {
    const std::string name = next_name();
    text_ << name << " << END\n";
    for (Eigen::Index i = 0; i < map.values.rows(); ++i) {
      for (Eigen::Index j = 0; j < map.values.cols(); ++j) {
        const double value = map.values(i, j);
        const double decades = std::log10(std::max(std::abs(value) / map.smallest, 1.0));
        text_ << (value < 0 ? -decades : decades) << ' ';
      }
      text_ << '\n';
    }
    text_ << "END\n";
    return name;
  }
  /// The line on which the field is 1/2, as data.
  std::string contour(const std::string& field) {
    const std::string name = next_name();
    text_ << "set contour base\nunset surface\nset cntrparam levels discrete 0.5\n"
          << "set table " << name << "\nsplot " << field << " using 1:2:3\nunset table\n"
          << "unset contour\nset surface\n";
    return name;
  }

  void run() const {
    // A gnuplot that ends early is reported by its exit code, not by the signal of a closed pipe.
    const auto before = std::signal(SIGPIPE, SIG_IGN);
    FILE* gnuplot = popen("gnuplot", "w");
    if (gnuplot == nullptr) throw std::runtime_error("--plot: no process could be started");
    const std::string script = text_.str();
    std::fwrite(script.data(), 1, script.size(), gnuplot);
    const int status = pclose(gnuplot);
    std::signal(SIGPIPE, before);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == kShellFoundNoProgram)
      throw std::runtime_error(
          "--plot: 'gnuplot' was not found; on Debian install it with: apt-get install "
          "gnuplot-nox");
    throw std::runtime_error(
        "--plot: gnuplot failed, for the reason above; expected that of Debian's gnuplot-nox");
  }

 private:
  std::string next_name() { return "$data" + std::to_string(count_++); }

  std::ostringstream text_;
  int count_ = 0;
};

std::string terminal(const std::string& file, int width, int height) {
  const auto ends_with = [&file](const std::string& ending) {
    return file.size() > ending.size() && file.ends_with(ending);
  };
  const std::string size = std::to_string(width) + ',' + std::to_string(height);
  if (ends_with(".svg"))
    return "svg size " + size + " dynamic noenhanced font 'Helvetica,13' background '#ffffff'";
  if (ends_with(".png")) return "pngcairo size " + size + " noenhanced font 'Sans,11'";
  throw std::invalid_argument("--plot: 'file' is '" + file +
                              "', expected it to end in .svg or .png");
}

std::string drawn_as(const Series& series, bool over_background) {
  const std::string colour = " linecolor rgb '" + hex(rgb(series.colour)) + "'";
  switch (series.style) {
    case Series::Style::Line:
      return "lines linewidth 2.2" + colour;
    case Series::Style::Dashed:
      return "lines linewidth 2.2 dashtype 2" + colour;
    case Series::Style::Dotted:
      return "lines linewidth 2.2 dashtype 3" + colour;
    case Series::Style::DashDotted:
      return "lines linewidth 2.2 dashtype 4" + colour;
    case Series::Style::LinePoints:
      return "linespoints linewidth 1.8 pointtype 7 pointsize 0.45" + colour;
    case Series::Style::Points:
      return std::string("points pointtype 7 pointsize ") + (over_background ? "0.5" : "0.9") +
             colour;
  }
  return {};
}

/// Writes what `panel` shows and returns the plot command for it.
std::string plot_command(Script& script, const Panel& panel) {
  if (panel.heat_map) return "plot " + script.data(*panel.heat_map) + " matrix with image notitle";
  std::vector<std::string> parts;
  if (panel.background) {
    const std::string field = script.data(*panel.background);
    parts.push_back(field + " using 1:2:3 with image notitle");
    parts.push_back(script.contour(field) +
                    " using 1:2 with lines linewidth 2 linecolor rgb '#000000' notitle");
  }
  for (const Series& series : panel.series)
    parts.push_back(script.data(series.points) + " using 1:2 with " +
                    drawn_as(series, panel.background.has_value()) +
                    (series.label.empty() ? " notitle" : " title " + quoted(series.label)));

  std::string command = "plot ";
  for (std::size_t i = 0; i < parts.size(); ++i) command += (i == 0 ? "" : ", ") + parts[i];
  return command;
}

/// From the lowest to the highest of all points, and a little beyond.
std::pair<double, double> padded_y_range(const Panel& panel) {
  constexpr double kPadding = 0.04;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const Series& series : panel.series)
    for (const double y : series.points.row(1)) {
      if (!std::isfinite(y) || (panel.logarithmic_y && y <= 0)) continue;
      const double at = panel.logarithmic_y ? std::log(y) : y;
      low = std::min(low, at);
      high = std::max(high, at);
    }
  if (low > high) low = high = 0;
  const double padding = low < high ? kPadding * (high - low) : 1.0;
  if (!panel.logarithmic_y) return {low - padding, high + padding};
  return {std::exp(low - padding), std::exp(high + padding)};
}

/// A square with a bar that says what the colours mean.
void set_heat_map(Script& script, const HeatMap& map) {
  const double decades = std::log10(map.largest / map.smallest);
  // A few colours keep the file small.
  script << "set size square\nunset grid\nset colorbox\nset palette maxcolors 23\n"
         << "set xlabel offset 0,0.2\nset palette defined (-1 '" << hex(rgb(Colour::Blue))
         << "', -0.5 '" << hex(tint(rgb(Colour::SkyBlue))) << "', 0 '#ffffff', 0.5 '"
         << hex(tint(rgb(Colour::Orange))) << "', 1 '" << hex(rgb(Colour::Vermilion))
         << "')\nset cbrange [" << -decades << ':' << decades
         << "]\nset xrange [-0.5:" << map.values.cols() << "-0.5]\nset yrange ["
         << map.values.rows() << "-0.5:-0.5]\nset cbtics ('0' 0";
  constexpr double kRounding = 1e-9;
  for (int power = static_cast<int>(std::floor(std::log10(map.largest) + kRounding));
       std::pow(10.0, power) >= map.smallest * (1 + kRounding); --power) {
    const double at = power - std::log10(map.smallest);
    script << ", '1e" << power << "' " << at << ", '-1e" << power << "' " << -at;
  }
  script << ")\n";
}

void set_axes(Script& script, const Panel& panel) {
  script << "set title " << quoted(panel.title) << '\n'
         << "set xlabel " << quoted(panel.x_label) << " offset 0,0.6\n"
         << "set ylabel " << quoted(panel.y_label) << '\n'
         << "unset logscale\nset xrange [*:*]\nset yrange [*:*]\nset format '%g'\n"
         << "set size nosquare\nunset colorbox\n";
  if (panel.logarithmic_x) script << "set logscale x\n";
  if (panel.logarithmic_y) script << "set logscale y\n";
  if (panel.heat_map) {
    set_heat_map(script, *panel.heat_map);
  } else if (panel.background) {
    const Field& field = *panel.background;
    script << "set xrange [" << field.left << ':' << field.right << "]\n"
           << "set yrange [" << field.bottom << ':' << field.top << "]\n"
           << "set palette maxcolors 0\nset palette defined (0 '" << hex(tint(rgb(field.low)))
           << "', 0.5 '#ffffff', 1 '" << hex(tint(rgb(field.high)))
           << "')\nset cbrange [0:1]\nunset grid\n";
  } else {
    const auto [low, high] = padded_y_range(panel);
    script << "set autoscale xfix\nset yrange [" << low << ':' << high
           << "]\nset grid linecolor rgb '#dddddd' linetype 1\n";
  }
}

}  // namespace

void draw(const std::string& file, const std::vector<Panel>& panels, int columns) {
  const int rows = (static_cast<int>(panels.size()) + columns - 1) / columns;
  Script script;
  script << "set terminal " << terminal(file, columns * kPanelWidth, rows * kPanelHeight) << '\n'
         << "set output " << quoted(file) << '\n'
         << "set border linecolor rgb '#555555'\nset tics nomirror\n"
         << "set key bmargin center horizontal Left reverse samplen 3 width -1\n";

  // Data and contours come first: gnuplot computes no tables within a multiplot.
  std::vector<std::string> commands;
  for (const Panel& panel : panels) commands.push_back(plot_command(script, panel));

  script << "set multiplot layout " << rows << ',' << columns << '\n';
  for (std::size_t i = 0; i < panels.size(); ++i) {
    set_axes(script, panels[i]);
    script << commands[i] << '\n';
  }
  script << "unset multiplot\nunset output\n";
  script.run();
}

}  // namespace examples
