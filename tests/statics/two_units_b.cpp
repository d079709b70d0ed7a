#include <kfac/kfac.hpp>

const kfac::Version* version_of_unit_b();

const kfac::Version* version_of_unit_b() {
  return &kfac::kVersion;
}
