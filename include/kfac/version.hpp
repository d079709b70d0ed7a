#pragma once

/// The version of the library, as semantic versioning has it; the CMake project has the same.
#define KFAC_VERSION_MAJOR 0
#define KFAC_VERSION_MINOR 1
#define KFAC_VERSION_PATCH 0

namespace kfac {

struct Version {
  int major = 0;
  int minor = 0;
  int patch = 0;

  friend constexpr bool operator==(const Version&, const Version&) = default;
};

inline constexpr Version kVersion{KFAC_VERSION_MAJOR, KFAC_VERSION_MINOR, KFAC_VERSION_PATCH};

}  // namespace kfac
