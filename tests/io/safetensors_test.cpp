#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/core/random.hpp>
#include <kfac/io/safetensors.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

using kfac::FileError;
using kfac::Index;
using kfac::Labels;
using kfac::Matrix;
using kfac::Vector;
using kfac::io::ElementType;
using kfac::io::read_safetensors;
using kfac::io::SafeTensors;
using kfac::io::write_safetensors;
using kfac::test::message_of;
using kfac::test::read_bytes;
using kfac::test::TemporaryFolder;
using kfac::test::write_bytes;

namespace {

/// The folder with the golden cases.
std::filesystem::path golden_cases() {
#if defined(KFAC_TEST_DATA)
  return std::filesystem::path(KFAC_TEST_DATA) / "golden" / "cases";
#else
  return std::filesystem::path(__FILE__).parent_path().parent_path() / "golden" / "cases";
#endif
}

std::vector<std::filesystem::path> golden_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& folder : std::filesystem::directory_iterator(golden_cases()))
    files.push_back(folder.path() / "case.safetensors");
  return files;
}

template <class Element>
std::string bytes_of(const std::vector<Element>& elements) {
  std::string bytes(elements.size() * sizeof(Element), '\0');
  std::memcpy(bytes.data(), elements.data(), bytes.size());
  return bytes;
}

/// A file with this header and data, whether they fit or not.
std::string file_of(const std::string& header, const std::string& data) {
  return bytes_of<std::uint64_t>({header.size()}) + header + data;
}

/// Reads a file of one tensor 't' of the given type, shape and data.
SafeTensors one_tensor(const TemporaryFolder& folder, const std::string& type,
                       const std::string& shape, const std::string& data) {
  write_bytes(folder / "file",
              file_of(R"({"t":{"dtype":")" + type + R"(","shape":)" + shape +
                          R"(,"data_offsets":[0,)" + std::to_string(data.size()) + "]}}",
                      data));
  return read_safetensors(folder / "file");
}

/// Whether two matrices have the same size and the same entries.
template <kfac::RealScalar S>
bool same(const Matrix<S>& actual, const Matrix<S>& expected) {
  return actual.rows() == expected.rows() && actual.cols() == expected.cols() && actual == expected;
}

/// Asks for everything in every way; what does not fit raises a FileError and nothing else.
void use_everything(const SafeTensors& file) {
  for (const std::string& name : file.names()) {
    file.shape(name);
    file.element_type(name);
    message_of<FileError>([&] { file.scalar<float>(name); });
    message_of<FileError>([&] { file.vector<float>(name); });
    message_of<FileError>([&] { file.matrix<double>(name); });
    message_of<FileError>([&] { file.matrices<float>(name); });
    message_of<FileError>([&] { file.batch<double>(name); });
    message_of<FileError>([&] { file.integers(name); });
    message_of<FileError>([&] { file.labels(name); });
  }
}

}  // namespace

TEMPLATE_TEST_CASE("safetensors: what is written is read again, bit for bit", "[io]", float,
                   double) {
  using S = TestType;
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "model.safetensors";
  kfac::Rng rng(1);
  Matrix<S> matrix(3, 5);
  rng.fill_normal(matrix);
  matrix(0, 0) = std::numeric_limits<S>::denorm_min();
  matrix(1, 0) = -std::numeric_limits<S>::infinity();
  const Labels labels = (Labels(3) << 4, 0, -100).finished();
  const std::vector<std::int64_t> integers{std::numeric_limits<std::int64_t>::min(), 0, 7, 8};

  SafeTensors tensors;
  tensors.add_matrix("matrix", matrix);
  tensors.add_matrix("transposed", matrix.transpose());
  tensors.add_matrix("sum", matrix + matrix);
  tensors.add_batch("batch", matrix);
  tensors.add_batch("images", matrix.transpose(), {1, 5});
  tensors.add_vector("vector", matrix.col(1));
  tensors.add_vector("row", matrix.row(1));
  tensors.add_vector("cube", matrix.col(2), {3, 1, 1});
  tensors.add_scalar("scalar", S(0.1));
  tensors.add_scalar("integer", std::int64_t{-5});
  tensors.add_labels("labels", labels);
  tensors.add_integers("integers", integers, {2, 2});
  tensors.add_matrix("nothing", Matrix<S>(0, 4));
  tensors.add_vector("\xc3\xa9\n\"", matrix.col(0));  // any UTF-8 is a name
  tensors.set_metadata("epoch", "3");
  tensors.set_metadata("epoch", "4");
  write_safetensors(path, tensors);

  const SafeTensors file = read_safetensors(path);
  CHECK(file.names() == std::vector<std::string>{"batch", "cube", "images", "integer", "integers",
                                                 "labels", "matrix", "nothing", "row", "scalar",
                                                 "sum", "transposed", "vector", "\xc3\xa9\n\""});
  CHECK(file.contains("matrix"));
  CHECK_FALSE(file.contains("matri"));
  CHECK(file.element_type("matrix") ==
        (sizeof(S) == sizeof(double) ? ElementType::F64 : ElementType::F32));
  CHECK(file.element_type("labels") == ElementType::I64);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"epoch", "4"}});

  CHECK(file.shape("matrix") == std::vector<Index>{3, 5});
  CHECK(same<S>(file.matrix<S>("matrix"), matrix));
  CHECK(file.shape("transposed") == std::vector<Index>{5, 3});
  CHECK(same<S>(file.matrix<S>("transposed"), matrix.transpose()));
  CHECK(same<S>(file.matrix<S>("sum"), matrix + matrix));
  CHECK(file.shape("batch") == std::vector<Index>{5, 3});
  CHECK(same<S>(file.batch<S>("batch"), matrix));
  CHECK(same<S>(file.matrix<S>("batch"), matrix.transpose()));
  CHECK(file.shape("images") == std::vector<Index>{3, 1, 5});
  CHECK(same<S>(file.batch<S>("images"), matrix.transpose()));
  CHECK(same<S>(file.vector<S>("vector"), matrix.col(1)));
  CHECK(file.shape("row") == std::vector<Index>{5});
  CHECK(same<S>(file.vector<S>("row"), matrix.row(1).transpose()));
  CHECK(file.shape("cube") == std::vector<Index>{3, 1, 1});
  CHECK(same<S>(file.vector<S>("cube"), matrix.col(2)));
  CHECK(file.shape("scalar").empty());
  CHECK(file.scalar<S>("scalar") == S(0.1));
  CHECK(same<S>(file.vector<S>("scalar"), Vector<S>::Constant(1, S(0.1))));
  CHECK(file.bytes("scalar").size() == sizeof(S));
  CHECK(std::memcmp(file.bytes("vector").data(), Vector<S>(matrix.col(1)).data(), 3 * sizeof(S)) ==
        0);
  CHECK(file.bytes("nothing").empty());
  CHECK(file.shape("integer").empty());
  CHECK(file.integers("integer") == std::vector<std::int64_t>{-5});
  CHECK(file.labels("labels") == labels);
  CHECK(file.shape("integers") == std::vector<Index>{2, 2});
  CHECK(file.integers("integers") == integers);
  CHECK(file.matrix<S>("nothing").rows() == 0);
  CHECK(file.matrix<S>("nothing").cols() == 4);
  CHECK(file.batch<S>("nothing").rows() == 4);
  CHECK(file.batch<S>("nothing").cols() == 0);
}

TEST_CASE("safetensors: the writer's bytes are those of the format", "[io]") {
  const TemporaryFolder folder;
  SafeTensors tensors;
  tensors.add_vector("a", (Vector<float>(1) << 1.0F).finished());
  tensors.add_matrix("b", (Matrix<double>(2, 1) << 2.0, 3.0).finished());
  write_safetensors(folder / "file", tensors);

  // The F64 come first, so that both are aligned.
  const std::string header = R"({"a":{"data_offsets":[16,20],"dtype":"F32","shape":[1]},)"
                             R"("b":{"data_offsets":[0,16],"dtype":"F64","shape":[2,1]}})";
  CHECK(read_bytes(folder / "file") ==
        file_of(header, bytes_of<double>({2, 3}) + bytes_of<float>({1})));

  // Spaces fill the header to a multiple of 8.
  write_safetensors(folder / "empty", {});
  CHECK(read_bytes(folder / "empty") == file_of("{}      ", ""));
  CHECK(read_safetensors(folder / "empty").names().empty());
}

TEST_CASE("safetensors: rows and columns are told apart", "[io]") {
  const TemporaryFolder folder;
  const SafeTensors flat = one_tensor(folder, "F64", "[2,3]", bytes_of<double>({1, 2, 3, 4, 5, 6}));
  CHECK(same<double>(flat.vector<double>("t"), (Vector<double>(6) << 1, 2, 3, 4, 5, 6).finished()));
  CHECK(same<double>(flat.matrix<double>("t"),
                     (Matrix<double>(2, 3) << 1, 2, 3, 4, 5, 6).finished()));
  CHECK(
      same<double>(flat.batch<double>("t"), (Matrix<double>(3, 2) << 1, 4, 2, 5, 3, 6).finished()));

  const SafeTensors cube =
      one_tensor(folder, "F64", "[2,1,3]", bytes_of<double>({1, 2, 3, 4, 5, 6}));
  const std::vector<Matrix<double>> slices = cube.matrices<double>("t");
  REQUIRE(slices.size() == 2);
  CHECK(same<double>(slices[0], (Matrix<double>(1, 3) << 1, 2, 3).finished()));
  CHECK(same<double>(slices[1], (Matrix<double>(1, 3) << 4, 5, 6).finished()));
  CHECK(same<double>(cube.batch<double>("t"), flat.batch<double>("t")));
}

TEST_CASE("safetensors: every element type is converted", "[io]") {
  const TemporaryFolder folder;
  using Integers = std::vector<std::int64_t>;
  const auto integers = [&](const std::string& type, const std::string& data) {
    return one_tensor(folder, type, "[2]", data).integers("t");
  };
  CHECK(integers("BOOL", bytes_of<std::uint8_t>({0, 1})) == Integers{0, 1});
  CHECK(integers("U8", bytes_of<std::uint8_t>({0, 255})) == Integers{0, 255});
  CHECK(integers("I8", bytes_of<std::int8_t>({-128, 127})) == Integers{-128, 127});
  CHECK(integers("U16", bytes_of<std::uint16_t>({0, 65535})) == Integers{0, 65535});
  CHECK(integers("I16", bytes_of<std::int16_t>({-32768, 3})) == Integers{-32768, 3});
  CHECK(integers("U32", bytes_of<std::uint32_t>({0, 4294967295U})) == Integers{0, 4294967295});
  CHECK(integers("I32", bytes_of<std::int32_t>({-3, 70000})) == Integers{-3, 70000});
  CHECK(integers("I64", bytes_of<std::int64_t>({-3, 1LL << 40})) == Integers{-3, 1LL << 40});

  const auto reals = [&](const std::string& type, const std::string& data) {
    return one_tensor(folder, type, "[2]", data);
  };
  const Vector<double> expected = (Vector<double>(2) << 1.5, -0.25).finished();
  CHECK(same<double>(reals("F16", bytes_of<std::uint16_t>({0x3e00, 0xb400})).vector<double>("t"),
                     expected));
  CHECK(same<double>(reals("BF16", bytes_of<std::uint16_t>({0x3fc0, 0xbe80})).vector<double>("t"),
                     expected));
  CHECK(same<double>(reals("F32", bytes_of<float>({1.5F, -0.25F})).vector<double>("t"), expected));
  CHECK(same<float>(reals("F64", bytes_of<double>({1.5, -0.25})).vector<float>("t"),
                    expected.cast<float>()));
  CHECK(reals("F64", bytes_of<double>({0.1, 0})).vector<float>("t")(0) == 0.1F);
}

TEST_CASE("safetensors: data need not be aligned", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "file", file_of(R"({"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]},)"
                                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                                       "x" + bytes_of<double>({0.1})));
  const SafeTensors file = read_safetensors(folder / "file");
  CHECK(file.scalar<double>("b") == 0.1);
  CHECK(file.integers("a") == std::vector<std::int64_t>{'x'});
}

TEST_CASE("safetensors: asking for what is not there is an error", "[io][error]") {
  const TemporaryFolder folder;
  SafeTensors tensors;
  const auto says = [](const auto& body) { return message_of<FileError>(body); };
  CHECK(says([&] { tensors.shape("w"); }) ==
        "kfac::io::SafeTensors::shape: 'w' is missing, expected one of: none");

  tensors.add_matrix("weight", Matrix<double>::Zero(2, 3));
  tensors.add_integers("label", std::vector<std::int64_t>{1, 1LL << 31});
  tensors.add_scalar("loss", 1.0);
  CHECK(says([&] { tensors.matrix<float>("wieght"); }) ==
        "kfac::io::SafeTensors::matrix: 'wieght' is missing, expected one of: 'label', 'loss', "
        "'weight'");

  write_safetensors(folder / "file", tensors);
  const SafeTensors file = read_safetensors(folder / "file");
  const std::string end = " (file '" + (folder / "file").string() + "')";
  CHECK(says([&] { file.scalar<float>("weight"); }) ==
        "kfac::io::SafeTensors::scalar: 'weight' has shape [2, 3], expected one element" + end);
  CHECK(says([&] { file.matrix<float>("loss"); }) ==
        "kfac::io::SafeTensors::matrix: 'loss' has shape [], expected two axes" + end);
  CHECK(says([&] { file.matrices<float>("weight"); }) ==
        "kfac::io::SafeTensors::matrices: 'weight' has shape [2, 3], expected three axes" + end);
  CHECK(says([&] { file.batch<float>("loss"); }) ==
        "kfac::io::SafeTensors::batch: 'loss' has shape [], expected at least one axis" + end);
  CHECK(says([&] { file.vector<double>("label"); }) ==
        "kfac::io::SafeTensors::vector: 'label' holds I64, expected reals (F64, F32, BF16, F16)" +
            end);
  CHECK(says([&] { file.integers("loss"); }) ==
        "kfac::io::SafeTensors::integers: 'loss' holds F64, expected integers" + end);
  CHECK(says([&] { file.labels("label"); }) ==
        "kfac::io::SafeTensors::labels: 'label' has 2147483648 at 1, expected labels that fit "
        "'int'" +
            end);

  for (int i = 0; i < 8; ++i) tensors.add_scalar("a" + std::to_string(i), 1.0F);
  CHECK(says([&] { tensors.element_type("w"); }) ==
        "kfac::io::SafeTensors::element_type: 'w' is missing, expected one of: 'a0', 'a1', 'a2', "
        "'a3', 'a4', 'a5', 'a6', 'a7', ... (11 in all)");
}

TEST_CASE("safetensors: what cannot be written is refused when it is added", "[io][error]") {
  SafeTensors tensors;
  const auto value_error = [](const auto& body) { return message_of<kfac::ValueError>(body); };
  const auto shape_error = [](const auto& body) { return message_of<kfac::ShapeError>(body); };
  const Vector<float> vector = Vector<float>::Zero(6);

  tensors.add_vector("v", vector);
  CHECK(value_error([&] { tensors.add_scalar("v", 1.0); }) ==
        "kfac::io::SafeTensors::add_scalar: 'name' is 'v', expected one not yet in use");
  CHECK(value_error([&] { tensors.add_vector("__metadata__", vector); }) ==
        "kfac::io::SafeTensors::add_vector: 'name' is '__metadata__', expected a name not "
        "reserved");
  CHECK(value_error([&] { tensors.add_matrix("\xff", vector); }) ==
        "kfac::io::SafeTensors::add_matrix: 'name' is \"\\ufffd\", expected UTF-8");
  CHECK(value_error([&] { tensors.set_metadata("\xff", ""); }) ==
        "kfac::io::SafeTensors::set_metadata: 'key' is \"\\ufffd\", expected UTF-8");
  CHECK(value_error([&] { tensors.set_metadata("", "\xff"); }) ==
        "kfac::io::SafeTensors::set_metadata: 'value' is \"\\ufffd\", expected UTF-8");

  CHECK(shape_error([&] {
          tensors.add_vector("w", vector, {2, 2});
        }) == "kfac::io::SafeTensors::add_vector: 'shape' is [2, 2], expected 6 elements");
  CHECK(shape_error([&] {
          tensors.add_integers("w", {}, {-1, 0});
        }) == "kfac::io::SafeTensors::add_integers: 'shape' is [-1, 0], expected 0 elements");
  CHECK(shape_error([&] { tensors.add_labels("w", Labels::Zero(2), {3}); }) ==
        "kfac::io::SafeTensors::add_labels: 'shape' is [3], expected 2 elements");
  CHECK(shape_error([&] {
          tensors.add_batch("w", vector, {2, 2});
        }) == "kfac::io::SafeTensors::add_batch: 'example' has 4 elements, expected 6");
  CHECK(tensors.names() == std::vector<std::string>{"v"});
}

TEST_CASE("safetensors: what is wrong with a file is said", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const std::string start = "kfac::io::read_safetensors: '" + path.string() + "' ";
  const auto says = [&] { return message_of<FileError>([&] { read_safetensors(path); }); };

  CHECK(says() == start + "cannot be opened: No such file or directory");
  CHECK(message_of<FileError>([&] { read_safetensors(folder.path()); }) ==
        "kfac::io::read_safetensors: '" + folder.path().string() +
            "' cannot be opened: Is a directory");
  write_bytes(path, "1234567");
  CHECK(says() == start + "has 7 bytes, expected at least 8");
  write_bytes(path, bytes_of<std::uint64_t>({3}) + "{}");
  CHECK(says() == start + "announces a header of 3 bytes, expected at most 2");
  write_bytes(path, std::string(8, '\xff') + "{}");
  CHECK(says() == start + "announces a header of 18446744073709551615 bytes, expected at most 2");
}

TEST_CASE("safetensors: what is wrong with a header is said", "[io][error]") {
  struct Case {
    std::string header;   // of a file with 8 bytes of data
    std::string problem;  // after the name of the file
  };
  const std::string entry = R"({"dtype":"F64","shape":[1],"data_offsets":[0,8]})";
  const std::string not_json =
      "has a header that is not a JSON object (2 bytes), expected tensors by name";
  const std::vector<Case> cases{
      {"{{", not_json},
      {"[]", not_json},
      {"{\xff", not_json},
      {std::string("{}\0 ", 4),
       "has a header that is not a JSON object (4 bytes), expected tensors by name"},
      {R"({"t":)" + entry + R"(,"t":)" + entry + "}",
       "has the key 't' twice in its header, expected it once"},
      {R"({"t":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,8]}})",
       "has the key 'dtype' twice in its header, expected it once"},
      {R"({"__metadata__":3})", "has '__metadata__' 3, expected an object of strings"},
      {R"({"__metadata__":{"epoch":3}})",
       "has '__metadata__' with 3 at 'epoch', expected a string"},
      {"{}", "has 8 bytes of data, expected 0 for the tensors in its header"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       "has 8 bytes of data, expected 4 for the tensors in its header"},
      {R"({"t":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})",
       "has 8 bytes of data, expected 16 for the tensors in its header"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "has tensor 't' with data from byte 4, expected from 0, where the one before ends"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("u":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}})",
       "has tensor 'u' with data from byte 3, expected from 4, where the one before ends"},
  };
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const auto reading = [&](const std::string& header) {
    write_bytes(path, file_of(header, std::string(8, '\0')));
    return message_of<FileError>([&] { read_safetensors(path); });
  };
  for (const Case& wrong : cases)
    CHECK(reading(wrong.header) ==
          "kfac::io::read_safetensors: '" + path.string() + "' " + wrong.problem);
  CHECK(reading(R"({"t":)" + entry + "}") == "nothing was thrown");
}

TEST_CASE("safetensors: what is wrong with a tensor is said", "[io][error]") {
  struct Case {
    std::string type, shape, offsets;  // of the only tensor in a file with 8 bytes of data
    std::string problem;               // after the name of the tensor
  };
  const std::string no_type =
      ", expected one of BOOL, U8, I8, U16, I16, U32, I32, I64, F16, BF16, F32, F64";
  const std::string no_shape = ", expected a list of integers of at least 0";
  const std::string too_large = ", expected at most 9223372036854775807 bytes";
  const std::string no_offsets = ", expected [begin, end]";
  const std::string long_text(100, 'x');
  std::vector<Case> cases{
      {"", "[1]", "[0,8]", "no 'dtype', expected one"},
      {"\"F64\"", "", "[0,8]", "no 'shape', expected one"},
      {"\"F64\"", "[1]", "", "no 'data_offsets', expected one"},
      {"\"F64\"", "[2]", "[0,8]", "data_offsets [0,8], expected 16 bytes for shape [2] of F64"},
      {"\"F64\"", "[]", "[0,0]", "data_offsets [0,0], expected 8 bytes for shape [] of F64"},
      {"\"F64\"", '"' + long_text + '"', "[0,8]",
       "shape \"" + long_text.substr(0, 59) + "..." + no_shape},
  };
  for (const std::string type : {"\"F8_E4M3\"", "\"f64\"", "64"})
    cases.push_back({type, "[1]", "[0,8]", "dtype " + type + no_type});
  for (const std::string shape : {"1", "[-1]", "[1.0]", "[\"1\"]", "[9223372036854775808]"})
    cases.push_back({"\"F64\"", shape, "[0,8]", "shape " + shape + no_shape});
  for (const std::string shape :
       {"[4294967296,4294967296]", "[9223372036854775807]", "[4294967296,0,4294967296]"})
    cases.push_back({"\"F64\"", shape, "[0,8]", "shape " + shape + too_large});
  for (const std::string offsets : {"8", "[8]", "[0,8,8]", "[8,0]", "[-8,0]", "[0.0,8.0]"})
    cases.push_back({"\"F64\"", "[1]", offsets, "data_offsets " + offsets + no_offsets});

  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const auto reading = [&](const std::string& tensor) {
    write_bytes(path, file_of("{\"t\":" + tensor + "}", std::string(8, '\0')));
    return message_of<FileError>([&] { read_safetensors(path); });
  };
  const std::string start =
      "kfac::io::read_safetensors: '" + path.string() + "' has tensor 't' with ";
  for (const Case& wrong : cases) {
    std::string tensor;
    const auto add = [&tensor](const std::string& key, const std::string& value) {
      if (value.empty()) return;
      tensor += tensor.empty() ? "{" : ",";
      tensor += '"' + key + "\":" + value;
    };
    add("dtype", wrong.type);
    add("shape", wrong.shape);
    add("data_offsets", wrong.offsets);
    CHECK(reading(tensor + "}") == start + wrong.problem);
  }
  CHECK(reading("[]") ==
        start + "header [], expected an object with 'dtype', 'shape' and 'data_offsets'");
}

TEST_CASE("safetensors: a deeply nested header does not exhaust the stack", "[io][error]") {
  constexpr std::size_t kDepth = 300'000;
  const auto repeated = [](const std::string& text) {
    std::string result;
    for (std::size_t i = 0; i < kDepth; ++i) result += text;
    return result;
  };
  const std::string array = repeated("[") + repeated("]");
  const std::string object = repeated("{\"a\":") + "0" + repeated("}");
  const TemporaryFolder folder;
  for (const std::string& deep : {array, object})
    for (const std::string& header :
         {deep, "{\"t\":" + deep + "}", "{\"__metadata__\":{\"a\":" + deep + "}}",
          R"({"t":{"dtype":)" + deep + R"(,"shape":[],"data_offsets":[0,0]}})",
          R"({"t":{"dtype":"F64","shape":)" + deep + R"(,"data_offsets":[0,0]}})", repeated("[")}) {
      write_bytes(folder / "file", file_of(header, ""));
      CHECK_THROWS_AS(read_safetensors(folder / "file"), FileError);
    }

  // What the format does not know is passed over.
  write_bytes(
      folder / "file",
      file_of(R"({"t":{"dtype":"F64","shape":[0],"data_offsets":[0,0],"more":)" + object + "}}",
              ""));
  CHECK(read_safetensors(folder / "file").vector<double>("t").size() == 0);
}

TEST_CASE("safetensors: empty tensors of any shape are harmless", "[io]") {
  const TemporaryFolder folder;
  for (const std::string shape :
       {"[0]", "[0,3]", "[3,0]", "[1000000000000000,0]", "[0,1000000000000000]",
        "[1000000000000000,0,0]", "[0,3,3]", "[0,0,0,0]"}) {
    CAPTURE(shape);
    const SafeTensors file = one_tensor(folder, "F64", shape, "");
    CHECK(file.vector<double>("t").size() == 0);
    use_everything(file);
  }
}

TEST_CASE("safetensors: a file cut off or changed anywhere never does harm", "[io][error]") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  SafeTensors tensors;
  tensors.add_matrix("a", (Matrix<double>(1, 2) << 0.5, 2.0).finished());
  tensors.add_labels("b", (Labels(2) << 1, 2).finished(), {1, 2, 1});
  tensors.add_scalar("c", 1.0F);
  tensors.set_metadata("k", "v");
  write_safetensors(path, tensors);
  const std::string whole = read_bytes(path);

  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    write_bytes(path, whole.substr(0, size));
    CHECK_THROWS_AS(read_safetensors(path), FileError);
  }
  write_bytes(path, whole + '\0');
  CHECK_THROWS_AS(read_safetensors(path), FileError);

  for (std::size_t position = 0; position < whole.size(); ++position)
    for (const char replacement : {'\0', '\xff', '"', '}', ']', '-', '0', '9', ' ', ','}) {
      std::string changed = whole;
      changed[position] = replacement;
      write_bytes(path, changed);
      message_of<FileError>([&] { use_everything(read_safetensors(path)); });
    }
  SUCCEED();
}

TEST_CASE("write_safetensors: a failure leaves an earlier file as it was", "[io][error]") {
  const TemporaryFolder folder;
  SafeTensors tensors;
  tensors.add_scalar("x", 1.0);
  write_safetensors(folder / "file", tensors);
  tensors.add_scalar("y", 2.0);
  write_safetensors(folder / "file", tensors);
  CHECK(read_safetensors(folder / "file").scalar<double>("y") == 2.0);
  CHECK_FALSE(std::filesystem::exists(folder / "file.partial"));

  const std::filesystem::path nowhere = folder.path() / "no such folder" / "file";
  CHECK(message_of<FileError>([&] { write_safetensors(nowhere, tensors); }) ==
        "kfac::io::write_safetensors: '" + nowhere.string() + "' cannot be written: '" +
            nowhere.string() + ".partial' cannot be opened");

  std::filesystem::create_directory(folder / "taken");
  CHECK(message_of<FileError>([&] { write_safetensors(folder / "taken", tensors); }) ==
        "kfac::io::write_safetensors: '" + (folder / "taken").string() +
            "' cannot be written: Is a directory");
  CHECK_FALSE(std::filesystem::exists(folder / "taken.partial"));

  // A disk that is full, where there is such a device.
  std::error_code error;
  std::filesystem::create_symlink("/dev/full", folder / "file.partial", error);
  if (!error && std::filesystem::exists("/dev/full")) {
    CHECK(message_of<FileError>([&] { write_safetensors(folder / "file", {}); }) ==
          "kfac::io::write_safetensors: '" + (folder / "file").string() +
              "' cannot be written to its end");
    CHECK_FALSE(std::filesystem::exists(std::filesystem::symlink_status(folder / "file.partial")));
    CHECK(read_safetensors(folder / "file").scalar<double>("y") == 2.0);
  }
  std::filesystem::remove(folder / "file.partial");

  // Opening the partial file fails, so the complete one stays.
  std::filesystem::create_directory(folder / "file.partial");
  CHECK_THROWS_AS(write_safetensors(folder / "file", {}), FileError);
  CHECK(read_safetensors(folder / "file").scalar<double>("y") == 2.0);
}

TEST_CASE("safetensors: a golden case reads as its description says", "[io][golden]") {
  const std::filesystem::path folder = golden_cases() / "linear-mse-mean";
  const nlohmann::json description = nlohmann::json::parse(read_bytes(folder / "case.json"));
  const SafeTensors file = read_safetensors(folder / "case.safetensors");
  CHECK(file.metadata().at("case") == "linear-mse-mean");

  // In the conventions of this library: output = W [input; 1], loss = mean of squares.
  const Matrix<double> input = file.batch<double>("input");
  const Matrix<double> weight = file.matrix<double>("l0.W");
  const Matrix<double> output = file.batch<double>("output");
  const Matrix<double> target = file.batch<double>("target");
  REQUIRE(input.rows() == 4);
  REQUIRE(input.cols() == 5);
  REQUIRE(weight.rows() == 3);
  REQUIRE(weight.cols() == 5);
  const Matrix<double> expected = weight.leftCols(4).lazyProduct(input).colwise() + weight.col(4);
  CHECK((output - expected).cwiseAbs().maxCoeff() < 1e-12);
  const double loss = (output - target).squaredNorm() / static_cast<double>(output.size());
  CHECK(std::abs(loss - file.scalar<double>("loss")) < 1e-12);
  CHECK(std::abs(loss - description["loss_value"].get<double>()) < 1e-12);

  const std::vector<Matrix<double>> directions =
      file.matrices<double>("l0.precond.type-2.expand.exact");
  REQUIRE(directions.size() == description["dampings"].size());
  CHECK(directions[0].rows() == 3);
  CHECK(directions[0].cols() == 5);
}

TEST_CASE("safetensors: every golden file is read whole", "[io][golden]") {
  const std::vector<std::filesystem::path> files = golden_files();
  CHECK(files.size() >= 17);
  for (const std::filesystem::path& path : files) {
    CAPTURE(path.string());
    const SafeTensors file = read_safetensors(path);
    CHECK(file.names().size() >= 10);
    for (const std::string& name : file.names()) {
      CAPTURE(name);
      if (file.element_type(name) == ElementType::I64)
        CHECK((file.labels(name).array() >= 0).all());
      else
        CHECK(file.vector<double>(name).allFinite());
    }
  }
}
