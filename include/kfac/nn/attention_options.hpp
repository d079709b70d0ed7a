#pragma once

#include <kfac/core/errors.hpp>

namespace kfac {

struct AttentionOptions {
  Index features = 1;   ///< of every token, >= 1
  Index heads = 1;      ///< >= 1, a divisor of the features
  bool causal = false;  ///< each token attends to itself and those before it (self-attention only)
  bool bias = true;     ///< of the four linear maps
  /// Cross-attention: the first so many tokens of an input are queries, the others the memory that
  /// they attend to. 0: self-attention, each token attends to all. >= 0
  Index query_tokens = 0;

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::AttentionOptions";
    detail::check_option(features >= 1, kWhere, "features", features, ">= 1");
    detail::check_option(heads >= 1 && features % heads == 0, kWhere, "heads", heads,
                         "a divisor of 'features'");
    detail::check_option(query_tokens >= 0, kWhere, "query_tokens", query_tokens, ">= 0");
    detail::check_option(!causal || query_tokens == 0, kWhere, "causal", causal,
                         "false in cross-attention ('query_tokens' above 0)");
  }
};

}  // namespace kfac
