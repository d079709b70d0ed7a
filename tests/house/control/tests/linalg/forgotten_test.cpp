// A test that nobody lists.
TEST_CASE("a number outside [0, 1)", "[linalg]") {}
