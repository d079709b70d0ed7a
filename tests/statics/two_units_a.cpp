#include <kfac/kfac.hpp>

static_assert(kfac::kVersion == kfac::Version{PROJECT_VERSION_MAJOR, PROJECT_VERSION_MINOR,
                                              PROJECT_VERSION_PATCH},
              "version.hpp and the CMake project agree");

const kfac::Version* version_of_unit_b();

// What is inline is one object for all units.
int main() {
  return &kfac::kVersion == version_of_unit_b() ? 0 : 1;
}
