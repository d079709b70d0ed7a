#pragma once

/// Catch2, whichever of its versions 2 and 3 the system has.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // as it is in version 2 by itself
#else
#include <catch2/catch.hpp>
#endif
