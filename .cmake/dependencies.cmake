# What kfac needs of others: from the system, or, with KFAC_FETCH_DEPENDENCIES, as pinned releases.
# A target that exists already, because the project around kfac made it, is always taken as it is.
include_guard(GLOBAL)
include(FetchContent)

# kfac_require(<package> <target> DEBIAN <name> URL <archive> SHA256 <hash>
#              [MINIMUM <version>] [HEADERS <folder>])
# Makes <target> available. With HEADERS a fetched archive is only unpacked and <target> is that
# folder of it; else it is built as its own CMake project, which should define <target>.
function(kfac_require package target)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "DEBIAN;URL;SHA256;MINIMUM;HEADERS" "")
  if(TARGET ${target})
    return()
  endif()

  if(NOT KFAC_FETCH_DEPENDENCIES)
    set(CMAKE_FIND_PACKAGE_PREFER_CONFIG ON)
    find_package(${package} QUIET)
    set(remedy "On Debian or Ubuntu install it with\n  apt-get install ${arg_DEBIAN}\n"
               "or configure with -DKFAC_FETCH_DEPENDENCIES=ON to fetch a pinned release.")
    if(NOT TARGET ${target})
      message(FATAL_ERROR "kfac needs ${package}, which was not found. " ${remedy})
    endif()
    # Compared here and not by find_package, which takes 3.4 to exclude 5.
    if(arg_MINIMUM AND ${package}_VERSION VERSION_LESS arg_MINIMUM)
      message(FATAL_ERROR "kfac needs ${package} ${arg_MINIMUM} or newer, found "
                          "${${package}_VERSION}. " ${remedy})
    endif()
    return()
  endif()

  set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)
  set(FETCHCONTENT_QUIET OFF)
  set(unpack_only "")
  if(arg_HEADERS)
    set(unpack_only SOURCE_SUBDIR no-project-in-here)
  endif()
  FetchContent_Declare(${package} URL ${arg_URL} URL_HASH SHA256=${arg_SHA256} SYSTEM
                       DOWNLOAD_EXTRACT_TIMESTAMP ON ${unpack_only})
  FetchContent_MakeAvailable(${package})
  if(arg_HEADERS)
    FetchContent_GetProperties(${package} SOURCE_DIR source)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} INTERFACE "${source}/${arg_HEADERS}")
  endif()
endfunction()

function(kfac_require_eigen)
  kfac_require(Eigen3 Eigen3::Eigen DEBIAN libeigen3-dev MINIMUM 3.4 HEADERS .
    URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.bz2
    SHA256 b4c198460eba6f28d34894e3a5710998818515104d6e74e5cc331ce31e46e626)
endfunction()

function(kfac_require_nlohmann_json)
  kfac_require(nlohmann_json nlohmann_json::nlohmann_json DEBIAN nlohmann-json3-dev HEADERS include
    URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    SHA256 d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
endfunction()

function(kfac_require_zlib)
  set(ZLIB_BUILD_EXAMPLES OFF)
  set(SKIP_INSTALL_ALL ON)
  kfac_require(ZLIB ZLIB::ZLIB DEBIAN zlib1g-dev
    URL https://github.com/madler/zlib/releases/download/v1.3.1/zlib-1.3.1.tar.gz
    SHA256 9a93b2b7dfdac77ceba5a558a580e74667dd6fede4585b91eefb60f03b72df23)
  if(NOT TARGET ZLIB::ZLIB)
    # zlib's own project names its target otherwise, and leaves its include folders to the user;
    # zconf.h is written to the build tree.
    FetchContent_GetProperties(ZLIB SOURCE_DIR source BINARY_DIR binary)
    add_library(ZLIB::ZLIB INTERFACE IMPORTED GLOBAL)
    target_link_libraries(ZLIB::ZLIB INTERFACE zlibstatic)
    target_include_directories(ZLIB::ZLIB INTERFACE "${source}" "${binary}")
  endif()
endfunction()

# The target kfac_blas: a BLAS, LAPACK and LAPACKE of the system, whatever the fetched ones.
function(kfac_require_blas)
  find_package(BLAS QUIET)
  find_package(LAPACK QUIET)
  find_library(KFAC_LAPACKE_LIBRARY lapacke)
  mark_as_advanced(KFAC_LAPACKE_LIBRARY)
  if(NOT BLAS_FOUND OR NOT LAPACK_FOUND OR NOT KFAC_LAPACKE_LIBRARY)
    message(FATAL_ERROR "KFAC_BLAS needs a BLAS, LAPACK and LAPACKE, which were not found. "
                        "On Debian or Ubuntu install them with\n"
                        "  apt-get install libopenblas-dev liblapacke-dev")
  endif()
  add_library(kfac_blas INTERFACE)
  target_link_libraries(kfac_blas INTERFACE "${KFAC_LAPACKE_LIBRARY}" LAPACK::LAPACK BLAS::BLAS)
endfunction()

function(kfac_require_cli11)
  kfac_require(CLI11 CLI11::CLI11 DEBIAN libcli11-dev HEADERS include
    URL https://github.com/CLIUtils/CLI11/archive/v2.4.2.tar.gz
    SHA256 f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
endfunction()

function(kfac_require_boost)
  kfac_require(Boost Boost::headers DEBIAN libboost-dev MINIMUM 1.72 HEADERS .
    URL https://archives.boost.io/release/1.84.0/source/boost_1_84_0.tar.bz2
    SHA256 cc4b893acf645c9d4b698e9a0f08ca8846aa5d6c68275c14c3e7949c24109454)
endfunction()

# With catch_discover_tests().
function(kfac_require_catch2)
  kfac_require(Catch2 Catch2::Catch2 DEBIAN catch2 MINIMUM 2.13
    URL https://github.com/catchorg/Catch2/archive/v3.6.0.tar.gz
    SHA256 485932259a75c7c6b72d4b874242c489ea5155d17efa345eb8cc72159f49f356)
  FetchContent_GetProperties(Catch2 SOURCE_DIR source)
  list(APPEND CMAKE_MODULE_PATH "${Catch2_DIR}" "${source}/extras")
  include(Catch)
endfunction()

function(kfac_require_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  kfac_require(benchmark benchmark::benchmark DEBIAN libbenchmark-dev
    URL https://github.com/google/benchmark/archive/refs/tags/v1.8.2.tar.gz
    SHA256 2aab2980d0376137f969d92848fbb68216abb07633034534fc8c65cc4e7a0e93)
endfunction()
