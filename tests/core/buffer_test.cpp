#include <functional>

#include <kfac/core/buffer.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"

using kfac::Buffer;
using kfac::MatrixMap;
using kfac::ShapeError;
using kfac::test::message_of;

TEMPLATE_TEST_CASE("Buffer: maps are matrices of the size asked for", "[core]", float, double) {
  Buffer<TestType> buffer;
  MatrixMap<TestType> map = buffer.map(3, 4);
  CHECK(map.rows() == 3);
  CHECK(map.cols() == 4);
  map.setConstant(TestType(2));
  CHECK(map.sum() == TestType(24));
  CHECK(map.data() == buffer.data());
}

TEST_CASE("Buffer: what fits takes no new memory, and the same size finds its contents", "[core]") {
  Buffer<double> buffer;
  const kfac::Matrix<double> values = kfac::Vector<double>::LinSpaced(24, 0, 23).reshaped(4, 6);
  buffer.map(4, 6) = values;
  const double* const memory = buffer.data();
  CHECK(buffer.map(6, 4).data() == memory);
  CHECK(buffer.map(2, 2).data() == memory);
  CHECK(buffer.map(0, 3).data() == memory);
  CHECK(buffer.map(4, 6) == values);
  CHECK(buffer.capacity() == 24);
}

TEST_CASE("Buffer: grows where a matrix does not fit", "[core]") {
  Buffer<float> buffer;
  buffer.map(2, 2).setZero();
  MatrixMap<float> map = buffer.map(100, 100);
  map.setOnes();  // the sanitizers see an entry outside
  CHECK(map.sum() == 10000);
}

TEST_CASE("Buffer: an unused one maps empty matrices", "[core]") {
  Buffer<float> buffer;
  CHECK(buffer.data() == nullptr);
  CHECK(buffer.map(0, 5).size() == 0);
}

TEST_CASE("Buffer: a copy has memory of its own", "[core]") {
  Buffer<double> original;
  original.map(2, 3).setConstant(1);
  Buffer<double> copy = original;
  CHECK(copy.map(2, 3) == original.map(2, 3));
  copy.map(2, 3).setConstant(5);
  CHECK((original.map(2, 3).array() == 1).all());
}

TEST_CASE("Buffer: of a given capacity it has its memory in itself, and refuses more", "[core]") {
  using Fixed = Buffer<double, 12>;
  Fixed buffer;
  CHECK(buffer.capacity() == 12);
  const double* const memory = buffer.map(3, 4).data();
  CHECK(std::greater_equal<const void*>{}(memory, &buffer));
  CHECK(std::less<const void*>{}(memory, &buffer + 1));
  buffer.map(3, 4).setConstant(1);
  CHECK(message_of<ShapeError>([&] { buffer.map(13, 1); }) ==
        "kfac::Buffer::map: 'rows' * 'columns' is 13, expected at most 12");
  Fixed copy = buffer;
  copy.map(3, 4).setConstant(5);
  CHECK((buffer.map(3, 4).array() == 1).all());
}
