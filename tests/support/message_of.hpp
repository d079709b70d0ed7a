#pragma once

#include <string>

namespace kfac::test {

/// What the `Error` thrown by `body` says, or "nothing was thrown".
template <class Error, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace kfac::test
