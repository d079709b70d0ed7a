#include "support/progress.hpp"

#include <iostream>
#include <unistd.h>

#include <boost/timer/progress_display.hpp>

namespace examples {

struct Progress::Bar {
  boost::timer::progress_display display;
};

Progress::Progress(kfac::Index steps) {
  if (isatty(STDERR_FILENO) != 0)
    bar_.reset(
        new Bar{boost::timer::progress_display(static_cast<unsigned long>(steps), std::cerr)});
}
Progress::~Progress() = default;

void Progress::advance(kfac::Index steps) {
  if (bar_) bar_->display += static_cast<unsigned long>(steps);
}

}  // namespace examples
