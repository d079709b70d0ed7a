#!/bin/sh
# listed.sh CHECKOUT: include/CMakeLists.txt lists the headers that exist, tests/CMakeLists.txt the
# tests.
cd "$1" || exit 2
wrong=0
for header in $(cd include && find kfac -name '*.hpp' | sort); do
  grep -q "^ *$header\$" include/CMakeLists.txt || { echo "$header is not listed"; wrong=1; }
done
for header in $(grep -o 'kfac/[a-z0-9_/]*\.hpp' include/CMakeLists.txt); do
  test -e "include/$header" || { echo "$header is listed but missing"; wrong=1; }
done
for test in tests/*/*_test.cpp; do
  grep -q "^ *$(basename "$test")\$" tests/CMakeLists.txt || { echo "$test is not listed"; wrong=1; }
done
exit $wrong
