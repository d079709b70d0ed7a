#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/core/errors.hpp>
#include <kfac/core/shape.hpp>
#include <kfac/core/types.hpp>
#include <kfac/io/element_type.hpp>

/// What a safetensors file holds; `kfac/io/safetensors.hpp` reads and writes the files.
namespace kfac::io {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must be the machine that reads them");

namespace detail {

/// JSON as an error message shows it: at most a line, whatever bytes came.
inline std::string json_text(const nlohmann::json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

/// An Eigen matrix expression of float or double, of any storage order.
template <class Derived>
concept RealMatrix = RealScalar<typename Derived::Scalar>;

/// One that is a row or a column whatever its size.
template <class Derived>
concept RealVector = RealMatrix<Derived> &&
    (Derived::RowsAtCompileTime == 1 || Derived::ColsAtCompileTime == 1);

class SafeTensorsReader;

}  // namespace detail

/// Named arrays, as read from a safetensors file or about to be written to one.
///
/// The format is row-major. `batch` and `add_batch` keep the bytes and turn the axes round: a
/// `[examples, ...]` array is a `features x examples` matrix. `matrix` and `add_matrix` keep the
/// indices: a `[outputs, inputs]` array is an `outputs x inputs` matrix.
///
/// Reals are converted to the scalar asked for: F64 is rounded to float, F16, BF16 and F32 are
/// exact. Integers are never turned into reals or back.
///
/// \code
/// kfac::io::SafeTensors tensors;
/// tensors.add_matrix("hidden.weight", weight);
/// tensors.add_vector("hidden.bias", bias);
/// kfac::io::write_safetensors("model.safetensors", tensors);
///
/// const kfac::io::SafeTensors file = kfac::io::read_safetensors("model.safetensors");
/// const kfac::Matrix<float> again = file.matrix<float>("hidden.weight");
/// \endcode
class SafeTensors {
 public:
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// Every tensor's name, in alphabetical order.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors_) result.push_back(name);
    return result;
  }

  /// The axes as stored, slowest first; none for a scalar. \throws FileError if there is no `name`.
  const std::vector<Index>& shape(std::string_view name) const { return find("shape", name).shape; }

  /// \throws FileError if there is no `name`.
  ElementType element_type(std::string_view name) const { return find("element_type", name).type; }

  /// The elements as stored, row-major. \throws FileError if there is no `name`.
  std::span<const std::byte> bytes(std::string_view name) const {
    return find("bytes", name).bytes;
  }

  /// The file's `__metadata__`: text by name.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// The only element of a tensor of reals, whatever its number of axes.
  /// \throws FileError if there is no `name`, or it is not one real.
  template <RealScalar S>
  S scalar(std::string_view name) const {
    const Tensor& tensor = find_real("scalar", name);
    if (tensor.elements() != 1) fail_shape("scalar", name, tensor, "one element");
    return reals<S>(tensor)(0);
  }

  /// All elements of a tensor of reals, in stored order, whatever its number of axes.
  /// \throws FileError if there is no `name`, or it does not hold reals.
  template <RealScalar S>
  Vector<S> vector(std::string_view name) const {
    return reals<S>(find_real("vector", name));
  }

  /// A `[rows, columns]` tensor of reals as a `rows x columns` matrix.
  /// \throws FileError if there is no `name`, or it does not hold reals on two axes.
  template <RealScalar S>
  Matrix<S> matrix(std::string_view name) const {
    const Tensor& tensor = find_real("matrix", name);
    if (tensor.shape.size() != 2) fail_shape("matrix", name, tensor, "two axes");
    Matrix<S> result(tensor.shape[0], tensor.shape[1]);
    // Nothing to copy: an assignment would still loop over the other axis, whatever its length.
    if (result.size() == 0) return result;
    const Vector<S> elements = reals<S>(tensor);
    result = Eigen::Map<const RowMajor<S>>(elements.data(), result.rows(), result.cols());
    return result;
  }

  /// A `[count, rows, columns]` tensor of reals as `count` matrices of `rows x columns`; none if
  /// an axis is 0.
  /// \throws FileError if there is no `name`, or it does not hold reals on three axes.
  template <RealScalar S>
  std::vector<Matrix<S>> matrices(std::string_view name) const {
    const Tensor& tensor = find_real("matrices", name);
    if (tensor.shape.size() != 3) fail_shape("matrices", name, tensor, "three axes");
    const Vector<S> elements = reals<S>(tensor);
    const Index rows = tensor.shape[1];
    const Index columns = tensor.shape[2];
    std::vector<Matrix<S>> result;
    for (Index offset = 0; offset < elements.size(); offset += rows * columns)
      result.emplace_back(Eigen::Map<const RowMajor<S>>(elements.data() + offset, rows, columns));
    return result;
  }

  /// An `[examples, ...]` tensor of reals as a `features x examples` matrix: the bytes as they are.
  /// \throws FileError if there is no `name`, or it does not hold reals on at least one axis.
  template <RealScalar S>
  Matrix<S> batch(std::string_view name) const {
    const Tensor& tensor = find_real("batch", name);
    if (tensor.shape.empty()) fail_shape("batch", name, tensor, "at least one axis");
    Index features = 1;
    for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) features *= tensor.shape[axis];
    Matrix<S> result(features, tensor.shape[0]);
    copy_reals(tensor, result.data());
    return result;
  }

  /// All elements of a tensor of integers (BOOL counts as 0 and 1), in stored order.
  /// \throws FileError if there is no `name`, or it does not hold integers.
  std::vector<std::int64_t> integers(std::string_view name) const {
    return integers_of(find_integer("integers", name));
  }

  /// All elements of a tensor of integers as labels, in stored order.
  /// \throws FileError if there is no `name`, it does not hold integers, or one does not fit `int`.
  Labels labels(std::string_view name) const {
    const std::vector<std::int64_t> values = integers_of(find_integer("labels", name));
    Labels result(static_cast<Index>(values.size()));
    for (std::size_t element = 0; element < values.size(); ++element) {
      const std::int64_t value = values[element];
      if (!std::in_range<int>(value))
        fail("labels", name,
             "has " + std::to_string(value) + " at " + std::to_string(element) +
                 ", expected labels that fit 'int'");
      result(static_cast<Index>(element)) = static_cast<int>(value);
    }
    return result;
  }

  /// Adds a `[]` tensor of F32 or F64.
  /// \throws ValueError if `name` is there already, is not UTF-8 or is `__metadata__`, which the
  ///         format reserves; so do all functions that add.
  template <RealScalar S>
  void add_scalar(std::string name, S value) {
    insert("add_scalar", std::move(name), {}, &value, 1);
  }
  /// The same of I64.
  void add_scalar(std::string name, std::int64_t value) {
    insert("add_scalar", std::move(name), {}, &value, 1);
  }

  /// Adds a vector of float or double as it is: `[size]`, or the row-major `shape` if given.
  /// \throws ShapeError if `shape` has another number of elements.
  template <detail::RealVector Derived>
  void add_vector(std::string name, const Eigen::MatrixBase<Derived>& values,
                  std::vector<Index> shape = {}) {
    const typename Derived::PlainObject stored = values;
    check_elements("add_vector", stored.size(), shape);
    insert("add_vector", std::move(name), std::move(shape), stored.data(), stored.size());
  }

  /// Adds a matrix of float or double as `[rows, columns]`.
  template <detail::RealMatrix Derived>
  void add_matrix(std::string name, const Eigen::MatrixBase<Derived>& values) {
    const RowMajor<typename Derived::Scalar> stored = values;
    insert("add_matrix", std::move(name), {stored.rows(), stored.cols()}, stored.data(),
           stored.size());
  }

  /// Adds a `features x examples` matrix of float or double as `[examples, features]`, or as
  /// `[examples, ...]` with the axes of one example.
  /// \throws ShapeError if `example` has another number of elements than there are features.
  template <detail::RealMatrix Derived>
  void add_batch(std::string name, const Eigen::MatrixBase<Derived>& values,
                 const Shape& example = {}) {
    const Matrix<typename Derived::Scalar> stored = values;
    std::vector<Index> shape{stored.cols()};
    for (int axis = 0; axis < example.rank(); ++axis) shape.push_back(example[axis]);
    if (example.rank() == 0)
      shape.push_back(stored.rows());
    else
      kfac::detail::check_size("kfac::io::SafeTensors::add_batch", "example", example.size(),
                               stored.rows(), "elements");
    insert("add_batch", std::move(name), std::move(shape), stored.data(), stored.size());
  }

  /// Adds integers as I64: `[size]`, or the row-major `shape` if given.
  /// \throws ShapeError if `shape` has another number of elements.
  void add_integers(std::string name, std::span<const std::int64_t> values,
                    std::vector<Index> shape = {}) {
    const auto size = static_cast<Index>(values.size());
    check_elements("add_integers", size, shape);
    insert("add_integers", std::move(name), std::move(shape), values.data(), size);
  }

  /// Adds labels as I64, the type in which PyTorch takes classes: `[size]`, or the row-major
  /// `shape` if given. \throws ShapeError if `shape` has another number of elements.
  void add_labels(std::string name, const Labels& labels, std::vector<Index> shape = {}) {
    check_elements("add_labels", labels.size(), shape);
    const std::vector<std::int64_t> stored(labels.begin(), labels.end());
    insert("add_labels", std::move(name), std::move(shape), stored.data(), labels.size());
  }

  /// Sets one entry of `__metadata__`, anew or again. \throws ValueError if it is not UTF-8.
  void set_metadata(const std::string& key, std::string value) {
    check_utf8("set_metadata", "key", key);
    check_utf8("set_metadata", "value", value);
    metadata_.insert_or_assign(key, std::move(value));
  }

 private:
  friend class detail::SafeTensorsReader;
  friend void write_safetensors(const std::filesystem::path& path, const SafeTensors& tensors);

  template <RealScalar S>
  using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  struct Tensor {
    ElementType type;
    std::vector<Index> shape;
    std::vector<std::byte> bytes;

    std::size_t elements() const { return bytes.size() / detail::element_bytes(type); }
  };

  template <RealScalar S>
  static void copy_reals(const Tensor& tensor, S* destination) {
    const std::byte* source = tensor.bytes.data();
    const std::size_t count = tensor.elements();
    if (tensor.type == ElementType::F64)
      detail::convert_elements<double>(source, count, destination);
    else if (tensor.type == ElementType::F32)
      detail::convert_elements<float>(source, count, destination);
    else if (tensor.type == ElementType::BF16)
      detail::convert_elements<Eigen::bfloat16>(source, count, destination);
    else
      detail::convert_elements<Eigen::half>(source, count, destination);
  }

  template <RealScalar S>
  static Vector<S> reals(const Tensor& tensor) {
    Vector<S> result(static_cast<Index>(tensor.elements()));
    copy_reals(tensor, result.data());
    return result;
  }

  static std::vector<std::int64_t> integers_of(const Tensor& tensor) {
    std::vector<std::int64_t> result(tensor.elements());
    const auto convert = [&]<class Stored>(std::type_identity<Stored>) {
      detail::convert_elements<Stored>(tensor.bytes.data(), result.size(), result.data());
    };
    switch (tensor.type) {
      case ElementType::I8:
        convert(std::type_identity<std::int8_t>{});
        break;
      case ElementType::U16:
        convert(std::type_identity<std::uint16_t>{});
        break;
      case ElementType::I16:
        convert(std::type_identity<std::int16_t>{});
        break;
      case ElementType::U32:
        convert(std::type_identity<std::uint32_t>{});
        break;
      case ElementType::I32:
        convert(std::type_identity<std::int32_t>{});
        break;
      case ElementType::I64:
        convert(std::type_identity<std::int64_t>{});
        break;
      default:
        convert(std::type_identity<std::uint8_t>{});  // U8 and BOOL
    }
    return result;
  }

  const Tensor& find(const char* function, std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    constexpr std::size_t kMostNames = 8;
    std::string known;
    std::size_t count = 0;
    for (const auto& [other, tensor] : tensors_)
      if (count++ < kMostNames) known += (known.empty() ? "'" : ", '") + other + '\'';
    if (count > kMostNames) known += ", ... (" + std::to_string(count) + " in all)";
    fail(function, name, "is missing, expected one of: " + (known.empty() ? "none" : known));
  }

  const Tensor& find_real(const char* function, std::string_view name) const {
    const Tensor& tensor = find(function, name);
    if (!detail::is_real(tensor.type))
      fail(function, name,
           "holds " + detail::element_name(tensor.type) + ", expected reals (F64, F32, BF16, F16)");
    return tensor;
  }

  const Tensor& find_integer(const char* function, std::string_view name) const {
    const Tensor& tensor = find(function, name);
    if (detail::is_real(tensor.type))
      fail(function, name, "holds " + detail::element_name(tensor.type) + ", expected integers");
    return tensor;
  }

  [[noreturn]] void fail_shape(const char* function, std::string_view name, const Tensor& tensor,
                               const char* expected) const {
    fail(function, name,
         "has shape " + detail::shape_text(tensor.shape) + ", expected " + expected);
  }

  [[noreturn]] void fail(const char* function, std::string_view name,
                         const std::string& problem) const {
    raise<FileError>("kfac::io::SafeTensors::" + std::string(function) + ": '" + std::string(name) +
                     "' " + problem + (origin_.empty() ? "" : " (file '" + origin_ + "')"));
  }

  /// Completes an empty `shape` to `[elements]`.
  static void check_elements(const char* function, Index elements, std::vector<Index>& shape) {
    if (shape.empty()) shape.push_back(elements);
    const std::optional<std::size_t> count = detail::element_count(shape, 1);
    if (count != static_cast<std::size_t>(elements))
      raise<ShapeError>("kfac::io::SafeTensors::" + std::string(function) + ": 'shape' is " +
                        detail::shape_text(shape) + ", expected " + std::to_string(elements) +
                        " elements");
  }

  static void check_utf8(const char* function, const char* argument, const std::string& text) {
    using nlohmann::json;
    const std::string valid = json(text).dump(-1, ' ', false, json::error_handler_t::ignore);
    if (json::parse(valid).get_ref<const std::string&>() == text) return;
    raise<ValueError>("kfac::io::SafeTensors::" + std::string(function) + ": '" + argument +
                      "' is " + json(text).dump(-1, ' ', true, json::error_handler_t::replace) +
                      ", expected UTF-8");
  }

  template <class Element>
  void insert(const char* function, std::string name, std::vector<Index> shape,
              const Element* elements, Index count) {
    const std::string where = "kfac::io::SafeTensors::" + std::string(function);
    check_utf8(function, "name", name);
    if (name == "__metadata__")
      raise<ValueError>(where + ": 'name' is '__metadata__', expected a name not reserved");
    if (contains(name))
      raise<ValueError>(where + ": 'name' is '" + name + "', expected one not yet in use");
    constexpr ElementType kType = std::is_same_v<Element, double>  ? ElementType::F64
                                  : std::is_same_v<Element, float> ? ElementType::F32
                                                                   : ElementType::I64;
    const auto bytes = std::as_bytes(std::span(elements, static_cast<std::size_t>(count)));
    tensors_.emplace(std::move(name),
                     Tensor{kType, std::move(shape), {bytes.begin(), bytes.end()}});
  }

  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
  std::string origin_;  // the file these were read from, for messages
};

}  // namespace kfac::io
