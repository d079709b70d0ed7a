#include <iostream>

#include <kfac/io/idx.hpp>

int main() {
  try {
    kfac::io::read_idx("there-is-no-such-file");
  } catch (const kfac::FileError& error) {
    std::cout << error.what() << '\n';
    return 0;
  }
  return 1;
}
