// A test that nobody lists.
