// kfac_golden DIR...: compares the library with reference cases of an independent implementation.
// Each DIR is a case or a folder of cases (FORMAT.md). One line a case: PASS, FAIL or SKIP, its
// name, and the worst relative error with the array it is in, or why it is skipped. Exits non-zero
// if any case fails, or if there are none.

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "golden_case.hpp"
#include "network.hpp"

namespace {

using Json = nlohmann::json;

kfac::Shape example_shape(const Json& spec) {
  kfac::Shape shape;
  for (std::size_t axis = 1; axis < spec["input_shape"].size(); ++axis)
    shape.push_back(spec["input_shape"][axis].get<kfac::Index>());
  return shape;
}

/// From the arrays `l{i}` + suffix.
void set_weights(golden::Model& model, const kfac::io::SafeTensors& file,
                 const std::string& suffix) {
  const auto layers = golden::curved_layers(model);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string name = "l" + std::to_string(i) + suffix;
    const golden::Matrix weight = file.matrix<double>(name);
    const kfac::KroneckerStructure& sizes = *layers[i].kronecker;
    if (weight.rows() != sizes.outputs || weight.cols() != sizes.columns())
      throw std::runtime_error(name + " has another shape than its layer");
    kfac::VectorMap<double> parameters = layers[i].parameters;
    parameters = weight.reshaped();
  }
}

void run_case(const std::filesystem::path& folder, golden::Comparison& comparison) {
  std::ifstream stream(folder / "case.json");
  const Json json = Json::parse(stream);
  const kfac::io::SafeTensors file = kfac::io::read_safetensors(folder / "case.safetensors");
  const Json& spec = json["spec"];

  golden::Model model;
  try {
    model = make_network(spec["layers"]);
  } catch (const kfac::FileError& error) {
    throw golden::Skip(error.what());
  }
  const kfac::Shape shape = example_shape(spec);
  const golden::Loss loss(spec["loss"], model.output_shape(shape).back());
  const bool steps = json["kind"] == "steps";
  set_weights(model, file, steps ? ".W0" : ".W");
  const golden::Case golden{json, file, model, loss, shape};
  if (steps)
    run_steps(golden, comparison);
  else
    run_curvature(golden, comparison);
}

std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "case.json")) return {folder};
  std::vector<std::filesystem::path> cases;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (std::filesystem::exists(entry.path() / "case.json")) cases.push_back(entry.path());
  std::sort(cases.begin(), cases.end());
  return cases;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: kfac_golden DIR...\n"
                 "  each DIR a case (case.json, case.safetensors) or a folder of cases\n";
    return 2;
  }
  int passed = 0, failed = 0, skipped = 0;
  for (int argument = 1; argument < argc; ++argument) {
    std::vector<std::filesystem::path> cases;
    try {
      cases = find_cases(argv[argument]);
    } catch (const std::exception& error) {
      std::cerr << error.what() << '\n';
      return 2;
    }
    for (const std::filesystem::path& folder : cases) {
      const std::string name = folder.filename().string();
      golden::Comparison comparison;
      try {
        run_case(folder, comparison);
        (comparison.passed() ? passed : failed) += 1;
        std::cout << (comparison.passed() ? "PASS  " : "FAIL  ") << name << "  "
                  << comparison.worst_error() << " in " << comparison.worst_array() << " ("
                  << comparison.count() << " arrays)\n";
      } catch (const golden::Skip& reason) {
        ++skipped;
        std::cout << "SKIP  " << name << "  " << reason.what() << '\n';
      } catch (const std::exception& error) {
        ++failed;
        std::cout << "FAIL  " << name << "  " << error.what() << '\n';
      }
    }
  }
  std::cout << passed << " passed, " << failed << " failed, " << skipped << " skipped\n";
  return failed == 0 && passed > 0 ? 0 : 1;
}
