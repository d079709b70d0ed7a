#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include <kfac/core/state.hpp>

#include "support/catch.hpp"

namespace kfac::test {

/// An object's state in memory, by name: what a checkpoint would hold.
///
///     const SavedState before(optimizer);
///     optimizer.step(x, y);
///     before.restore(optimizer);
///     REQUIRE(SavedState(optimizer) == before);
class SavedState {
 public:
  template <class Number>
  struct Array {
    std::vector<Index> axes;
    std::vector<Number> values;

    bool operator==(const Array&) const = default;
  };
  using Entry = std::variant<Array<std::int64_t>, Array<float>, Array<double>>;

  template <class Object>
  explicit SavedState(Object& object) {
    Visitor visitor(entries_, false);
    object.visit_state(visitor);
  }

  /// Gives the object this state; every name, type and size must be as it was.
  template <class Object>
  void restore(Object& object) const {
    std::map<std::string, Entry> entries = entries_;
    Visitor visitor(entries, true);
    object.visit_state(visitor);
    REQUIRE(visitor.visited == entries_.size());
  }

  const std::map<std::string, Entry>& entries() const { return entries_; }
  bool operator==(const SavedState& other) const { return entries_ == other.entries_; }

 private:
  class Visitor : public StateVisitor {
   public:
    Visitor(std::map<std::string, Entry>& entries, bool reading)
        : entries_(entries), reading_(reading) {}
    std::size_t visited = 0;

   private:
    bool overwrites() const override { return reading_; }
    bool present(const std::string& path, bool now) override {
      return reading_ ? entries_.contains(path) : now;
    }
    void integers(const std::string& path, std::int64_t* data, Axes axes) override {
      exchange(path, data, axes);
    }
    void reals(const std::string& path, float* data, Axes axes) override {
      exchange(path, data, axes);
    }
    void reals(const std::string& path, double* data, Axes axes) override {
      exchange(path, data, axes);
    }

    template <class Number>
    void exchange(const std::string& path, Number* data, Axes axes) {
      CAPTURE(path);
      Index size = 1;
      for (const Index axis : axes) size *= axis;
      ++visited;
      if (!reading_) {
        const Array<Number> array{axes, {data, data + size}};
        REQUIRE(entries_.emplace(path, array).second);
        return;
      }
      REQUIRE(entries_.contains(path));
      const auto& array = std::get<Array<Number>>(entries_.at(path));
      REQUIRE(array.axes == std::vector<Index>(axes));
      std::copy(array.values.begin(), array.values.end(), data);
    }

    std::map<std::string, Entry>& entries_;
    bool reading_;
  };

  std::map<std::string, Entry> entries_;
};

}  // namespace kfac::test
