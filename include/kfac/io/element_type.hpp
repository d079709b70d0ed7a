#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <kfac/core/types.hpp>

namespace kfac::io {

/// What the elements of a tensor are, under the names of the format.
enum class ElementType { Bool, U8, I8, U16, I16, U32, I32, I64, F16, BF16, F32, F64 };

namespace detail {

struct ElementTypeInfo {
  std::string_view name;
  std::size_t bytes;
};

/// In the order of the enumerators.
inline constexpr std::array<ElementTypeInfo, 12> kElementTypes{{{"BOOL", 1},
                                                                {"U8", 1},
                                                                {"I8", 1},
                                                                {"U16", 2},
                                                                {"I16", 2},
                                                                {"U32", 4},
                                                                {"I32", 4},
                                                                {"I64", 8},
                                                                {"F16", 2},
                                                                {"BF16", 2},
                                                                {"F32", 4},
                                                                {"F64", 8}}};

inline std::string element_name(ElementType type) {
  return std::string(kElementTypes[static_cast<std::size_t>(type)].name);
}

inline std::size_t element_bytes(ElementType type) {
  return kElementTypes[static_cast<std::size_t>(type)].bytes;
}

inline bool is_real(ElementType type) {
  return type >= ElementType::F16;
}

/// Converts `count` elements of the type `Stored`, wherever they are aligned.
template <class Stored, class Result>
void convert_elements(const std::byte* source, std::size_t count, Result* destination) {
  for (std::size_t element = 0; element < count; ++element) {
    Stored value;
    std::memcpy(&value, source + element * sizeof(Stored), sizeof(Stored));
    if constexpr (std::is_arithmetic_v<Stored>)
      destination[element] = static_cast<Result>(value);  // NOLINT(bugprone-signed-char-misuse)
    else
      destination[element] = static_cast<Result>(static_cast<float>(value));  // 16-bit floats
  }
}

/// The number of elements of a tensor, unless its size in bytes does not fit an Index. Zeros count
/// as ones for that, so that the product of any of the axes fits too.
inline std::optional<std::size_t> element_count(const std::vector<Index>& shape,
                                                std::size_t bytes_each) {
  Index bound = std::numeric_limits<Index>::max() / static_cast<Index>(bytes_each);
  Index count = 1;
  for (const Index axis : shape) {
    bound /= std::max<Index>(axis, 1);
    if (axis < 0 || bound == 0) return std::nullopt;
    count *= axis;
  }
  return static_cast<std::size_t>(count);
}

/// Such as "[3, 4]".
inline std::string shape_text(const std::vector<Index>& shape) {
  std::string text;
  for (const Index axis : shape) text += (text.empty() ? "" : ", ") + std::to_string(axis);
  return '[' + text + ']';
}

}  // namespace detail
}  // namespace kfac::io
