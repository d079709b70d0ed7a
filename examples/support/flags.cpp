#include "support/flags.hpp"

#include <cmath>
#include <limits>

#include <CLI/CLI.hpp>

namespace examples {

struct Flags::Parser {
  CLI::App app;
};

Flags::Flags(const std::string& description) : parser_(new Parser{CLI::App(description)}) {
  parser_->app.get_formatter()->column_width(34);
}
Flags::~Flags() = default;

void Flags::add(const std::string& name, kfac::Index& value, const std::string& help,
                kfac::Index least) {
  parser_->app.add_option(name, value, help)
      ->check(CLI::Range(least, std::numeric_limits<kfac::Index>::max())
                  .description(">= " + std::to_string(least)))
      ->capture_default_str();
}
void Flags::add(const std::string& name, std::uint64_t& value, const std::string& help) {
  parser_->app.add_option(name, value, help)->capture_default_str();
}
void Flags::add(const std::string& name, float& value, const std::string& help) {
  parser_->app.add_option(name, value, help)->capture_default_str();
}
void Flags::add(const std::string& name, std::optional<float>& value, const std::string& help) {
  parser_->app.add_option(name, value, help);
}
void Flags::add(const std::string& name, std::vector<double>& values, const std::string& help) {
  const CLI::Validator positive(
      [](const std::string& text) -> std::string {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value > 0 && std::isfinite(value)) return {};
        return "'" + text + "' is not a finite number > 0";
      },
      "> 0");
  parser_->app.add_option(name, values, help)
      ->delimiter(',')
      ->check(positive)
      ->capture_default_str();
}
void Flags::add(const std::string& name, std::string& value, const std::string& help) {
  parser_->app.add_option(name, value, help)->capture_default_str();
}
void Flags::add(const std::string& name, std::string& value, const std::string& help,
                const std::vector<std::string>& choices) {
  parser_->app.add_option(name, value, help)->check(CLI::IsMember(choices))->capture_default_str();
}

std::optional<int> Flags::parse(int argc, char** argv) {
  try {
    parser_->app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return parser_->app.exit(error);
  }
  return std::nullopt;
}

std::optional<std::string> peek(int argc, char** argv, const std::string& name) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with(name + '=')) return argument.substr(name.size() + 1);
    if (argument == name && i + 1 < argc) return argv[i + 1];
  }
  return std::nullopt;
}

}  // namespace examples
