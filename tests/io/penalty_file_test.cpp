#include <limits>

#include <kfac/io/penalty_file.hpp>
#include <kfac/kfac.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/merge_models.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::penalty_file_test {

namespace {

using Penalty = LaplacePenalty<double>;

std::vector<PenaltyOptions> all_options() {
  return {{.compression = PenaltyCompression::KeepAll},
          {.compression = PenaltyCompression::FactorSum},
          {.compression = PenaltyCompression::Nearest},
          {.centre = PenaltyCentre::EachTask}};
}

/// Three tasks of a network with all kinds of blocks.
struct Course {
  Candidates tasks;
  AnyModel model;

  explicit Course(CurvatureStructure structure = CurvatureStructure::Kronecker) {
    Rng rng(0);
    add_random(tasks, 3, structure, rng);
    model = tasks.networks.back();
  }
  void take(Penalty& penalty) const {
    for (std::size_t t = 0; t < 3; ++t)
      penalty.add_task(tasks.estimates[t], tasks.models[t].parameters);
  }
};

}  // namespace

TEST_CASE("Penalty files: all that earlier tasks left comes back bit for bit") {
  const TemporaryFolder folder;
  for (const CurvatureStructure structure :
       {CurvatureStructure::Kronecker, CurvatureStructure::Diagonal}) {
    Course course(structure);
    for (const PenaltyOptions& options : all_options()) {
      Penalty penalty(course.model, options);
      Penalty untouched(course.model, options);
      io::save_penalty(folder / "none.safetensors", penalty);
      io::load_penalty(folder / "none.safetensors", untouched);
      CHECK(SavedState(untouched) == SavedState(penalty));

      course.take(penalty);
      io::save_penalty(folder / "penalty.safetensors", penalty);
      Penalty loaded(course.model, options);
      io::load_penalty(folder / "penalty.safetensors", loaded);
      CHECK(SavedState(loaded) == SavedState(penalty));
      CHECK(loaded.tasks() == 3);
    }
  }
}

TEST_CASE("Penalty files: what is one product for all tasks is read as curvature too") {
  const TemporaryFolder folder;
  Course course;
  Penalty penalty(course.model, {.loss_scale = 1});
  course.take(penalty);
  io::save_penalty(folder / "penalty.safetensors", penalty);
  const Estimates estimate = io::load_curvature(folder / "penalty.safetensors", course.model);
  CHECK(estimate.record.loss_scale == 1);
  Penalty again(course.model, {.loss_scale = 1});
  again.add_task(estimate, course.tasks.models.back().parameters);
  Rng rng(1);
  const Vector<double> v = test::random_matrix(course.model.parameter_count(), 1, rng);
  CHECK(again.product(v) == penalty.product(v));
}

TEST_CASE("Penalty files: those of other penalties are refused, and change nothing") {
  const TemporaryFolder folder;
  Course course;
  const auto path = folder / "penalty.safetensors";
  Penalty all(course.model, {.compression = PenaltyCompression::KeepAll});
  course.take(all);
  io::save_penalty(path, all);
  const std::string file = " (file '" + path.string() + "')";

  Penalty nearest(course.model);
  course.take(nearest);
  const SavedState before(nearest);
  CHECK(message_of<FileError>([&] { io::load_penalty(path, nearest); }) ==
        "kfac::LaplacePenalty::set_state: 'terms' has 3 terms, expected 1" + file);
  Penalty each(course.model, {.centre = PenaltyCentre::EachTask});
  CHECK(message_of<FileError>([&] { io::load_penalty(path, each); }) ==
        "kfac::LaplacePenalty::set_state: 'quadratics' has 1 quadratics, expected 4" + file);
  Rng rng(2);
  AnyModel other;
  append_linear(other, {3, 2}, rng, true);
  Penalty elsewhere(other);
  CHECK(message_of<FileError>([&] {
          io::load_penalty(path, elsewhere);
        }).find("kfac::io::load_penalty: 'estimate' has ") == 0);
  io::save_curvature(path, course.tasks.estimates[0]);
  CHECK(message_of<FileError>([&] { io::load_penalty(path, nearest); }).find("'kfac.penalty'") !=
        std::string::npos);
  PenaltyState<double> state = nearest.state();
  state.quadratics[0].centre(2) = std::numeric_limits<double>::quiet_NaN();
  Penalty broken(course.model);
  broken.set_state(state);
  io::save_penalty(path, broken);
  CHECK(message_of<FileError>([&] { io::load_penalty(path, nearest); }) ==
        "kfac::io::load_penalty: 'penalty/0/centre' is not finite, expected finite numbers" + file);
  CHECK(SavedState(nearest) == before);
}

}  // namespace kfac::test::penalty_file_test
