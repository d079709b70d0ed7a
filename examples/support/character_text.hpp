#pragma once

#include <string>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>

namespace examples {

/// Pieces of a text for a model that predicts each character from those before it.
struct Windows {
  kfac::Matrix<float> characters;  ///< `context x windows`, the numbers of symbols
  kfac::Labels next;               ///< what follows each of them
};

/// A text as numbers of symbols, one for every character that occurs.
class CharacterText {
 public:
  /// The licences that every Debian system has (package base-files), without those that repeat
  /// others. White space is one space, or one new line at the end of a paragraph; the last tenth of
  /// each is held out. \throws std::runtime_error if one is missing from the folder
  explicit CharacterText(const std::string& folder);

  kfac::Index symbols() const { return static_cast<kfac::Index>(symbols_.size()); }
  kfac::Index train_size() const { return static_cast<kfac::Index>(train_.size()); }
  kfac::Index test_size() const { return static_cast<kfac::Index>(test_.size()); }

  char symbol(kfac::Index number) const { return symbols_[static_cast<std::size_t>(number)]; }
  /// The numbers of such characters, all of which must occur in the text.
  std::vector<int> numbers(const std::string& text) const;

  /// From random places of the text to train on.
  void draw(kfac::Index context, kfac::Rng& rng, Windows& into) const;
  /// The text held out, one window after another; what is left at its end is left out.
  Windows held_out(kfac::Index context) const;

 private:
  std::string symbols_;
  std::vector<int> train_, test_;
};

}  // namespace examples
