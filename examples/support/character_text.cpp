#include "support/character_text.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace examples {
namespace {

using kfac::Index;

constexpr std::array<const char*, 7> kLicences{"Apache-2.0", "Artistic", "CC0-1.0", "GFDL-1.3",
                                               "GPL-3",      "LGPL-2.1", "MPL-2.0"};

std::string read(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream)
    throw std::runtime_error(file + ": cannot be read (it comes with Debian's package base-files)");
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// One white space where there are several, and none of what is not ASCII.
std::string normalised(const std::string& text) {
  std::string result;
  int lines = 0;
  bool spaces = false;
  for (const char character : text) {
    const auto code = static_cast<unsigned char>(character);
    if (code >= 128) continue;
    if (std::isspace(code)) {
      spaces = true;
      lines += character == '\n' ? 1 : 0;
      continue;
    }
    if (spaces && !result.empty()) result += lines > 1 ? '\n' : ' ';
    spaces = false;
    lines = 0;
    result += character;
  }
  return result + '\n';
}

/// `count` characters from `first` on, and what follows each, as window i.
void put(const std::vector<int>& text, Index first, Index i, Windows& into) {
  const Index context = into.characters.rows();
  for (Index t = 0; t < context; ++t) {
    into.characters(t, i) = static_cast<float>(text[static_cast<std::size_t>(first + t)]);
    into.next(i * context + t) = text[static_cast<std::size_t>(first + t + 1)];
  }
}

}  // namespace

CharacterText::CharacterText(const std::string& folder) {
  std::string train, test;
  for (const char* licence : kLicences) {
    const std::string text = normalised(read(folder + '/' + licence));
    const std::size_t held_out = text.size() / 10;
    train += text.substr(0, text.size() - held_out);
    test += text.substr(text.size() - held_out);
  }
  symbols_ = train + test;
  std::sort(symbols_.begin(), symbols_.end());
  symbols_.erase(std::unique(symbols_.begin(), symbols_.end()), symbols_.end());
  train_ = numbers(train);
  test_ = numbers(test);
}

std::vector<int> CharacterText::numbers(const std::string& text) const {
  std::vector<int> result;
  result.reserve(text.size());
  for (const char character : text) {
    const std::size_t number = symbols_.find(character);
    if (number == std::string::npos)
      throw std::runtime_error(std::string("'") + character + "' does not occur in the text");
    result.push_back(static_cast<int>(number));
  }
  return result;
}

void CharacterText::draw(Index context, kfac::Rng& rng, Windows& into) const {
  for (Index i = 0; i < into.characters.cols(); ++i)
    put(train_, rng.below(train_size() - context), i, into);
}

Windows CharacterText::held_out(Index context) const {
  const Index count = (test_size() - 1) / context;
  Windows windows{kfac::Matrix<float>(context, count), kfac::Labels(context * count)};
  for (Index i = 0; i < count; ++i) put(test_, i * context, i, windows);
  return windows;
}

}  // namespace examples
