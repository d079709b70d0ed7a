#!/bin/sh
# headers.sh CHECKOUT: the headers that include/CMakeLists.txt lists are those that exist.
cd "$1/include" || exit 2
wrong=0
for header in $(find kfac -name '*.hpp' | sort); do
  grep -q "^ *$header\$" CMakeLists.txt || { echo "$header is not listed"; wrong=1; }
done
for header in $(grep -o 'kfac/[a-z0-9_/]*\.hpp' CMakeLists.txt); do
  test -e "$header" || { echo "$header is listed but missing"; wrong=1; }
done
exit $wrong
