# Flags of kfac's own programs (tests, examples, benchmarks). Neither target is exported or
# installed: users of kfac::kfac get none of this.

set(CMAKE_CXX_EXTENSIONS OFF)

add_library(kfac_warnings INTERFACE)
target_compile_options(kfac_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wdouble-promotion
  -Wold-style-cast -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-align -Wextra-semi
  -Wimplicit-fallthrough -Wundef)

add_library(kfac_program INTERFACE)
target_link_libraries(kfac_program INTERFACE kfac kfac_warnings)
if(KFAC_NATIVE)
  target_compile_options(kfac_program INTERFACE -march=native)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 sees these in the AVX-512 intrinsics of its own headers, a thousand times a build.
    target_compile_options(kfac_program INTERFACE
      -Wno-maybe-uninitialized -Wno-uninitialized -Wno-restrict)
  endif()
endif()
if(KFAC_BLAS)
  kfac_require_blas()
  # Eigen's own switches, which any program may set.
  target_compile_definitions(kfac_program INTERFACE EIGEN_USE_BLAS EIGEN_USE_LAPACKE)
  target_link_libraries(kfac_program INTERFACE kfac_blas)
endif()
