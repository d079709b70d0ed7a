#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include <kfac/core/random.hpp>

namespace kfac {

/// Walks an object's state part by part, to write it down or to read it back: what checkpoints are
/// made of. An object offers `visit_state(StateVisitor&)`, which visits each part once, under names
/// and in an order that its construction alone decides:
///
///     void visit_state(StateVisitor& visitor) {
///       visitor.visit("steps", steps_);
///       visitor.visit("velocity", velocity_);
///       visitor.visit_optional("inverse", inverse_, size(), size());  // or still empty
///       visitor.in("rng", rng_);                                      // has a visit_state too
///     }
class StateVisitor {
 public:
  StateVisitor() = default;
  StateVisitor(const StateVisitor&) = delete;
  StateVisitor& operator=(const StateVisitor&) = delete;
  virtual ~StateVisitor() = default;
  /// Whether the visited parts take on what is stored.
  virtual bool overwrites() const = 0;

  /// A number that counts or says yes or no.
  template <std::integral I>
  void visit(const std::string& name, I& value) {
    auto stored = static_cast<std::int64_t>(value);
    integers(prefix_ + name, &stored, {});
    if (overwrites()) value = static_cast<I>(stored);
  }
  template <RealScalar S>
  void visit(const std::string& name, S& value) {
    reals(prefix_ + name, &value, {});
  }
  /// A matrix or vector, of the size it has.
  template <class Dense>
  void visit(const std::string& name, Eigen::PlainObjectBase<Dense>& value) {
    dense<Dense>(name, value.data(), value.rows(), value.cols());
  }
  template <RealScalar S>
  void visit(const std::string& name, VectorMap<S> value) {
    reals(prefix_ + name, value.data(), {value.size()});
  }
  template <RealScalar S>
  void visit(const std::string& name, MatrixMap<S> value) {
    reals(prefix_ + name, value.data(), {value.rows(), value.cols()});
  }
  /// A matrix or vector that is empty, or of the given size.
  template <class Dense>
  void visit_optional(const std::string& name, Eigen::PlainObjectBase<Dense>& value, Index rows,
                      Index columns = 1) {
    const bool there = present(prefix_ + name, value.size() > 0);
    if (overwrites())
      value.resize(there ? rows : 0, there || Dense::IsVectorAtCompileTime ? columns : 0);
    if (there) dense<Dense>(name, value.data(), rows, columns);
  }
  void visit(const std::string& name, Rng& rng) {
    std::array<std::int64_t, 4> stored{};
    for (std::size_t i = 0; i < stored.size(); ++i)
      stored[i] = static_cast<std::int64_t>(rng.state()[i]);
    integers(prefix_ + name, stored.data(), {4});
    if (!overwrites()) return;
    for (std::size_t i = 0; i < stored.size(); ++i)
      rng.state()[i] = static_cast<std::uint64_t>(stored[i]);
  }

  /// The state of a part that has its own `visit_state(visitor, sizes...)`, under `name` and a
  /// slash.
  template <class Part, class... Sizes>
  void in(const std::string& name, Part& part, Sizes... sizes) {
    under(name + '/', [&] { part.visit_state(*this, sizes...); });
  }
  /// What `body()` visits, with `prefix` before its names.
  template <class Body>
  void under(const std::string& prefix, Body&& body) {
    const std::size_t outer = prefix_.size();
    prefix_ += prefix;
    body();
    prefix_.resize(outer);
  }

 protected:
  /// How long the axes of an array are: none for a number, one for a vector, two for a matrix.
  using Axes = std::initializer_list<Index>;

 private:
  /// Whether a part that may be empty is not: `now`, or as it was stored.
  virtual bool present(const std::string& path, bool now) = 0;
  virtual void integers(const std::string& path, std::int64_t* data, Axes axes) = 0;
  /// Column by column. `data` may be null where nothing is overwritten or written down.
  virtual void reals(const std::string& path, float* data, Axes axes) = 0;
  virtual void reals(const std::string& path, double* data, Axes axes) = 0;

  template <class Dense, RealScalar S>
  void dense(const std::string& name, S* data, Index rows, Index columns) {
    if constexpr (Dense::IsVectorAtCompileTime) {
      reals(prefix_ + name, data, {rows * columns});
    } else {
      static_assert(!Dense::IsRowMajor, "column by column");
      reals(prefix_ + name, data, {rows, columns});
    }
  }

  std::string prefix_;
};

}  // namespace kfac
