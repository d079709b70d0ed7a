#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <vector>

#include <zlib.h>

#include <kfac/core/errors.hpp>
#include <kfac/core/types.hpp>
#include <kfac/data/dataset.hpp>

/// The IDX format of MNIST and its successors, plain or compressed by gzip. Needs zlib.
namespace kfac::io {

/// An array of unsigned bytes as an IDX file holds it: the last axis is the fastest.
struct IdxArray {
  std::vector<Index> shape;         ///< at least one axis, slowest first; an axis may be 0.
  std::vector<std::uint8_t> bytes;  ///< as many as the product of the axes.
};

/// The two parts of a published image dataset; a structured binding gives `[train, test]`.
template <RealScalar S>
struct ImageDatasets {
  Dataset<S, Labels> train;
  Dataset<S, Labels> test;
};

namespace detail {

/// A plain or gzip file that can only be read forwards; every failure is a FileError naming it.
class GzipReader {
 public:
  explicit GzipReader(const std::filesystem::path& path)
      : path_(path.string()), file_(gzopen(path_.c_str(), "rb")) {
    if (file_ == nullptr) fail("cannot be opened: " + std::generic_category().message(errno));
  }
  ~GzipReader() {
    if (file_ != nullptr) gzclose_r(file_);
  }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  /// Reads up to `count` bytes and returns how many there were: fewer only at the end of the file.
  std::size_t read(std::uint8_t* destination, std::size_t count) {
    constexpr std::size_t kMostAtOnce = std::size_t{1} << 30U;  // zlib counts in `int`
    std::size_t total = 0;
    while (total < count) {
      const auto wanted = static_cast<unsigned>(std::min(count - total, kMostAtOnce));
      const int got = gzread(file_, destination + total, wanted);
      // A compressed stream that stops early is reported beside a count that looks like the end.
      int status = Z_OK;
      const char* reason = gzerror(file_, &status);
      if (status == Z_ERRNO) fail("cannot be read: " + std::generic_category().message(errno));
      if (got < 0 || status == Z_BUF_ERROR || status == Z_DATA_ERROR)
        fail("is not intact as a gzip file (" + std::string(reason) + "), expected a whole one");
      if (got == 0) break;
      total += static_cast<std::size_t>(got);
    }
    return total;
  }

  [[noreturn]] void fail(const std::string& problem) const {
    raise<FileError>("kfac::io::read_idx: '" + path_ + "' " + problem);
  }

 private:
  std::string path_;
  gzFile file_;
};

/// Such as "0x00000803".
inline std::string magic_text(const std::array<std::uint8_t, 4>& magic) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text = "0x";
  for (const std::uint8_t byte : magic) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

/// Such as "60000x28x28".
inline std::string axes_text(const std::vector<Index>& shape) {
  std::string text;
  for (const Index axis : shape) text += (text.empty() ? "" : "x") + std::to_string(axis);
  return text;
}

}  // namespace detail

/// Reads an IDX file of unsigned bytes (type 0x08), of any number of axes, plain or gzip.
///
/// Memory grows with what the file really holds, not with what its header claims. Bytes after the
/// end of a gzip stream are ignored, as by gzip itself.
/// \throws FileError  if the file cannot be read, is not IDX, holds another type than unsigned
///         bytes, is shorter or longer than its axes say, or fails gzip's checksum.
inline IdxArray read_idx(const std::filesystem::path& path) {
  detail::GzipReader file(path);

  std::array<std::uint8_t, 4> magic{};
  const std::size_t magic_bytes = file.read(magic.data(), magic.size());
  if (magic_bytes < magic.size())
    file.fail("has " + std::to_string(magic_bytes) + " bytes, expected at least 4");
  const auto [zero0, zero1, type, rank] = magic;
  if (zero0 != 0 || zero1 != 0)
    file.fail("begins with " + detail::magic_text(magic) +
              ", expected 0x000008 and the number of axes: it is not an IDX file");
  if (type != 0x08)
    file.fail("begins with " + detail::magic_text(magic) +
              ", expected 0x000008 and the number of axes: only unsigned bytes are read");
  if (rank == 0) file.fail("has 0 axes, expected at least 1");

  IdxArray array;
  std::vector<std::uint8_t> axes(4 * std::size_t{rank});
  const std::size_t axes_bytes = file.read(axes.data(), axes.size());
  if (axes_bytes < axes.size())
    file.fail("ends after " + std::to_string(magic.size() + axes_bytes) + " bytes, expected " +
              std::to_string(magic.size() + axes.size()) + " for its " + std::to_string(rank) +
              " axes");
  for (std::size_t axis = 0; axis < axes.size(); axis += 4) {
    Index length = 0;
    for (std::size_t byte = axis; byte < axis + 4; ++byte) length = length * 256 + axes[byte];
    array.shape.push_back(length);
  }

  // Zeros count as ones here, so that the product of any of the axes is known to fit.
  constexpr Index kLargest = std::numeric_limits<Index>::max();
  Index bound = 1;
  bool empty = false;
  for (const Index length : array.shape) {
    empty = empty || length == 0;
    const Index factor = std::max<Index>(length, 1);
    if (bound > kLargest / factor)
      file.fail("is " + detail::axes_text(array.shape) + ", expected at most " +
                std::to_string(kLargest) + " entries");
    bound *= factor;
  }

  const std::size_t size = empty ? 0 : static_cast<std::size_t>(bound);
  constexpr std::size_t kFirstRead = std::size_t{1} << 20U;
  while (array.bytes.size() < size) {
    const std::size_t have = array.bytes.size();
    const std::size_t wanted = std::min(size - have, std::max(have, kFirstRead));
    array.bytes.resize(have + wanted);
    const std::size_t got = file.read(array.bytes.data() + have, wanted);
    if (got < wanted)
      file.fail("holds " + std::to_string(have + got) + " bytes of data, expected " +
                std::to_string(size) + " (" + detail::axes_text(array.shape) + ")");
  }
  std::uint8_t extra = 0;
  if (file.read(&extra, 1) != 0)
    file.fail("goes on after its data, expected it to end after " + std::to_string(size) +
              " bytes (" + detail::axes_text(array.shape) + ")");
  return array;
}

/// Reads images and their labels from a pair of IDX files.
///
/// \param images_path  examples x rows x columns (or any axes after the first).
/// \param labels_path  one label an example.
/// \param classes      labels must be below this; at most 256 can occur.
/// \return inputs: pixels x examples, each image's pixels in the order of the file, scaled from
///         0..255 to 0..1; targets: the labels.
/// \throws FileError  as `read_idx` does, and if the files do not fit each other or a label is out
///         of range.
template <RealScalar S>
Dataset<S, Labels> read_image_dataset(const std::filesystem::path& images_path,
                                      const std::filesystem::path& labels_path, int classes = 256) {
  const auto fail = [](const std::filesystem::path& path, const std::string& problem) {
    raise<FileError>("kfac::io::read_image_dataset: '" + path.string() + "' " + problem);
  };
  const IdxArray images = read_idx(images_path);
  const IdxArray labels = read_idx(labels_path);
  if (images.shape.size() < 2 || images.bytes.empty())
    fail(images_path, "is " + detail::axes_text(images.shape) +
                          ", expected images x rows x columns, at least 1 of each");
  if (labels.shape.size() != 1)
    fail(labels_path, "is " + detail::axes_text(labels.shape) + ", expected one axis of labels");
  const Index examples = images.shape.front();
  if (labels.shape.front() != examples)
    fail(labels_path, "has " + std::to_string(labels.shape.front()) + " labels, expected " +
                          std::to_string(examples) + ", one for each image of '" +
                          images_path.string() + "'");
  for (std::size_t example = 0; example < labels.bytes.size(); ++example)
    if (labels.bytes[example] >= classes)
      fail(labels_path, "has label " + std::to_string(labels.bytes[example]) + " at " +
                            std::to_string(example) + ", expected 0 to " +
                            std::to_string(classes - 1));

  using Bytes = Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic>;
  const Index pixels = static_cast<Index>(images.bytes.size()) / examples;
  const Eigen::Map<const Bytes> image_bytes(images.bytes.data(), pixels, examples);
  const Eigen::Map<const Bytes> label_bytes(labels.bytes.data(), examples, 1);
  return {image_bytes.template cast<S>() / S(255), label_bytes.template cast<int>()};
}

/// Reads Fashion-MNIST: 60000 training and 10000 test images of 28x28 pixels in 10 classes, from a
/// folder with the four files under their published names, with or without `.gz`. MNIST and
/// KMNIST are published under the same names and are read as well.
///
/// \throws FileError  as `read_image_dataset` does; for a missing file it says what to install.
/// \source Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine
///         learning algorithms, 2017.
template <RealScalar S>
ImageDatasets<S> fashion_mnist(
    const std::filesystem::path& folder = "/usr/share/datasets/fashion-mnist") {
  const auto find = [&folder](const std::string& name) -> std::filesystem::path {
    std::error_code ignored;
    for (const char* suffix : {".gz", ""}) {
      std::filesystem::path path = folder / (name + suffix);
      if (std::filesystem::exists(path, ignored)) return path;
    }
    raise<FileError>("kfac::io::fashion_mnist: '" + (folder / (name + ".gz")).string() +
                     "' is missing, expected the files of Fashion-MNIST in '" + folder.string() +
                     "'; on Debian and Ubuntu install them by 'apt-get install "
                     "dataset-fashion-mnist'");
  };
  const auto read = [&find](const std::string& part) {
    constexpr int kClasses = 10;
    const std::filesystem::path images = find(part + "-images-idx3-ubyte");
    const std::filesystem::path labels = find(part + "-labels-idx1-ubyte");
    return read_image_dataset<S>(images, labels, kClasses);
  };
  return {.train = read("train"), .test = read("t10k")};
}

}  // namespace kfac::io
