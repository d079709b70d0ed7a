#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <zlib.h>

#include <kfac/io/idx.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

using kfac::FileError;
using kfac::Index;
using kfac::io::fashion_mnist;
using kfac::io::IdxArray;
using kfac::io::read_idx;
using kfac::io::read_image_dataset;
using kfac::test::message_of;
using kfac::test::read_bytes;
using kfac::test::TemporaryFolder;
using kfac::test::write_bytes;

namespace {

/// The bytes of an IDX file with the given type, axes and data.
std::string idx(const std::vector<std::uint32_t>& axes, const std::string& data,
                char type = '\x08') {
  std::string bytes{'\0', '\0', type, static_cast<char>(axes.size())};
  for (const std::uint32_t axis : axes)
    for (const unsigned shift : {24U, 16U, 8U, 0U}) bytes += static_cast<char>(axis >> shift);
  return bytes + data;
}

void write_gzip(const std::filesystem::path& path, const std::string& bytes) {
  const gzFile file = gzopen(path.string().c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) ==
          static_cast<int>(bytes.size()));
  REQUIRE(gzclose(file) == Z_OK);
}

std::string reading_fails_with(const std::filesystem::path& path) {
  return message_of<FileError>([&] { read_idx(path); });
}

/// Three images of 2x2 pixels and their labels.
const std::string kImages =
    idx({3, 2, 2}, {"\x00\x33\x66\xff\x01\x02\x03\x04\x05\x06\x07\x08", 12});
const std::string kLabels = idx({3}, {"\x09\x00\x02", 3});

}  // namespace

TEST_CASE("read_idx: plain and gzip files give the same axes and bytes", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "plain", kImages);
  write_gzip(folder / "compressed.gz", kImages);

  for (const std::string name : {"plain", "compressed.gz"}) {
    const IdxArray array = read_idx(folder / name);
    CHECK(array.shape == std::vector<Index>{3, 2, 2});
    CHECK(array.bytes == std::vector<std::uint8_t>{0, 51, 102, 255, 1, 2, 3, 4, 5, 6, 7, 8});
  }
}

TEST_CASE("read_idx: any number of axes, of any length", "[io]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "array";

  write_bytes(path, idx({1, 1, 2, 1, 1}, "ab"));
  CHECK(read_idx(path).shape == std::vector<Index>{1, 1, 2, 1, 1});
  CHECK(read_idx(path).bytes == std::vector<std::uint8_t>{'a', 'b'});

  write_bytes(path, idx({4, 0}, ""));
  CHECK(read_idx(path).shape == std::vector<Index>{4, 0});
  CHECK(read_idx(path).bytes.empty());

  // More than is read at once, so that the parts have to be put together.
  std::string data(3'000'000, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i % 251);
  write_gzip(path, idx({3000, 1000}, data));
  const IdxArray array = read_idx(path);
  CHECK(std::string(array.bytes.begin(), array.bytes.end()) == data);
}

TEST_CASE("read_idx: a file cut off anywhere is an error", "[io][error]") {
  const TemporaryFolder folder;
  write_gzip(folder / "whole.gz", kImages);
  const std::filesystem::path path = folder / "cut";
  for (const std::string& whole : {kImages, read_bytes(folder / "whole.gz")})
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(size);
      write_bytes(path, whole.substr(0, size));
      CHECK_THROWS_AS(read_idx(path), FileError);
    }
}

TEST_CASE("read_idx: a changed byte of a gzip file never changes the data", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "images.gz";
  write_gzip(path, kImages);
  const std::string whole = read_bytes(path);
  const IdxArray expected = read_idx(path);

  for (std::size_t position = 0; position < whole.size(); ++position)
    for (const unsigned flipped : {0x01U, 0x80U, 0xffU}) {
      CAPTURE(position, flipped);
      std::string changed = whole;
      changed[position] =
          static_cast<char>(static_cast<unsigned char>(changed[position]) ^ flipped);
      write_bytes(path, changed);
      try {
        const IdxArray array = read_idx(path);  // the time stamp, for one, does not matter
        CHECK(array.shape == expected.shape);
        CHECK(array.bytes == expected.bytes);
      } catch (const FileError&) {
        SUCCEED();
      }
    }
}

TEST_CASE("read_idx: what is wrong with a file is said", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const std::string start = "kfac::io::read_idx: '" + path.string() + "' ";

  CHECK(reading_fails_with(path) == start + "cannot be opened: No such file or directory");
  CHECK(message_of<FileError>([&] { read_idx(folder.path()); }) ==
        "kfac::io::read_idx: '" + folder.path().string() + "' cannot be read: Is a directory");

  write_bytes(path, "ab");
  CHECK(reading_fails_with(path) == start + "has 2 bytes, expected at least 4");

  write_bytes(path, "PNG, not IDX");
  CHECK(reading_fails_with(path) ==
        start +
            "begins with 0x504e472c, expected 0x000008 and the number of axes: it is not an "
            "IDX file");

  write_bytes(path, idx({1}, "abcd", '\x0d'));
  CHECK(reading_fails_with(path) ==
        start +
            "begins with 0x00000d01, expected 0x000008 and the number of axes: only unsigned "
            "bytes are read");

  write_bytes(path, idx({}, ""));
  CHECK(reading_fails_with(path) == start + "has 0 axes, expected at least 1");

  write_bytes(path, idx({2, 3}, "").substr(0, 10));
  CHECK(reading_fails_with(path) == start + "ends after 10 bytes, expected 12 for its 2 axes");

  write_bytes(path, idx({2, 3}, "abcde"));
  CHECK(reading_fails_with(path) == start + "holds 5 bytes of data, expected 6 (2x3)");

  write_bytes(path, idx({2, 3}, "abcdefg"));
  CHECK(reading_fails_with(path) ==
        start + "goes on after its data, expected it to end after 6 bytes (2x3)");

  write_gzip(path, kImages);
  std::string bad_checksum = read_bytes(path);
  bad_checksum[bad_checksum.size() - 8] ^= 1;
  write_bytes(path, bad_checksum);
  CHECK(reading_fails_with(path) == start + "is not intact as a gzip file (" + path.string() +
                                        ": incorrect data check), expected a whole one");
}

TEST_CASE("read_idx: absurd axes are an error, not an allocation", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const std::string start = "kfac::io::read_idx: '" + path.string() + "' ";
  constexpr std::uint32_t kMost = 0xffffffffU;

  write_bytes(path, idx({kMost, kMost, kMost}, "abc"));
  CHECK(reading_fails_with(path) == start +
                                        "is 4294967295x4294967295x4294967295, expected at most "
                                        "9223372036854775807 entries");
  write_bytes(path, idx({kMost, kMost, 0, kMost}, ""));
  CHECK(reading_fails_with(path) == start +
                                        "is 4294967295x4294967295x0x4294967295, expected at most "
                                        "9223372036854775807 entries");
  write_bytes(path, idx({kMost, 0x7fffffffU}, "abc"));
  CHECK(reading_fails_with(path) == start +
                                        "holds 3 bytes of data, expected 9223372030412324865 "
                                        "(4294967295x2147483647)");
}

TEMPLATE_TEST_CASE("read_image_dataset: one column an image, from 0 to 1", "[io]", float, double) {
  const TemporaryFolder folder;
  write_bytes(folder / "images", kImages);
  write_gzip(folder / "labels.gz", kLabels);

  const kfac::Dataset<TestType, kfac::Labels> data =
      read_image_dataset<TestType>(folder / "images", folder / "labels.gz");
  kfac::Matrix<TestType> inputs(4, 3);
  inputs.col(0) << TestType(0), TestType(51), TestType(102), TestType(255);
  inputs.col(1) << TestType(1), TestType(2), TestType(3), TestType(4);
  inputs.col(2) << TestType(5), TestType(6), TestType(7), TestType(8);
  CHECK(data.inputs == inputs / TestType(255));
  CHECK(data.inputs(3, 0) == TestType(1));
  CHECK(data.targets == (kfac::Labels(3) << 9, 0, 2).finished());
}

TEST_CASE("read_image_dataset: images and labels must fit", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path images = folder / "images";
  const std::filesystem::path labels = folder / "labels";
  const auto fails_with = [&](const std::string& image_bytes, const std::string& label_bytes,
                              int classes) {
    write_bytes(images, image_bytes);
    write_bytes(labels, label_bytes);
    return message_of<FileError>([&] { read_image_dataset<float>(images, labels, classes); });
  };
  const std::string start = "kfac::io::read_image_dataset: '";

  CHECK(fails_with(kImages, idx({2}, "\x01\x02"), 10) ==
        start + labels.string() + "' has 2 labels, expected 3, one for each image of '" +
            images.string() + "'");
  CHECK(fails_with(kImages, kLabels, 9) ==
        start + labels.string() + "' has label 9 at 0, expected 0 to 8");
  CHECK(fails_with(kImages, kLabels, 10) == "nothing was thrown");
  CHECK(fails_with(kLabels, kImages, 10) ==
        start + images.string() + "' is 3, expected images x rows x columns, at least 1 of each");
  CHECK(fails_with(idx({0, 2, 2}, ""), idx({0}, ""), 10) ==
        start + images.string() +
            "' is 0x2x2, expected images x rows x columns, at least 1 of each");
  CHECK(fails_with(kImages, kImages, 10) ==
        start + labels.string() + "' is 3x2x2, expected one axis of labels");
}

TEST_CASE("fashion_mnist: reads the four files, compressed or not", "[io]") {
  const TemporaryFolder folder;
  write_gzip(folder / "train-images-idx3-ubyte.gz", kImages);
  write_bytes(folder / "train-labels-idx1-ubyte", kLabels);
  write_bytes(folder / "t10k-images-idx3-ubyte", idx({1, 2, 2}, "abcd"));
  write_gzip(folder / "t10k-labels-idx1-ubyte.gz", idx({1}, "\x05"));

  const auto [train, test] = fashion_mnist<float>(folder.path());
  CHECK(train.inputs.cols() == 3);
  CHECK(train.targets.size() == 3);
  CHECK(test.inputs.cols() == 1);
  CHECK(test.targets(0) == 5);

  write_bytes(folder / "train-labels-idx1-ubyte", idx({3}, "\x01\x0a\x02"));
  CHECK(message_of<FileError>([&] { fashion_mnist<float>(folder.path()); }) ==
        "kfac::io::read_image_dataset: '" + (folder / "train-labels-idx1-ubyte").string() +
            "' has label 10 at 1, expected 0 to 9");
}

TEST_CASE("fashion_mnist: a missing file is named, with what to install", "[io][error]") {
  const TemporaryFolder folder;
  CHECK(message_of<FileError>([&] { fashion_mnist<double>(folder.path()); }) ==
        "kfac::io::fashion_mnist: '" + (folder / "train-images-idx3-ubyte.gz").string() +
            "' is missing, expected the files of Fashion-MNIST in '" + folder.path().string() +
            "'; on Debian and Ubuntu install them by 'apt-get install dataset-fashion-mnist'");
}

TEST_CASE("fashion_mnist: the published data, where it is installed", "[io][slow]") {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist")) {
    WARN("dataset-fashion-mnist is not installed, so it is not read");
    return;
  }
  const auto [train, test] = fashion_mnist<float>();
  CHECK(train.inputs.rows() == 784);
  CHECK(train.inputs.cols() == 60000);
  CHECK(train.targets.size() == 60000);
  CHECK(test.inputs.rows() == 784);
  CHECK(test.inputs.cols() == 10000);
  CHECK(test.targets.head(5) == (kfac::Labels(5) << 9, 2, 1, 1, 6).finished());
  // The published mean of the training pixels; every class comes equally often.
  CHECK(std::abs(train.inputs.cast<double>().mean() - 0.2860) < 5e-5);
  for (int label = 0; label < 10; ++label) CHECK((train.targets.array() == label).count() == 6000);
}
