#!/bin/sh
# errors_documented.sh CHECKOUT: each row of docs/errors.md names, in its last column, a test that
# exists.
cd "$1" || exit 2
grep '^|.*`[^`]*` |$' docs/errors.md | {
  wrong=0
  rows=0
  while read -r row; do
    rows=$((rows + 1))
    name=$(echo "$row" | sed 's/.*`\([^`]*\)` |$/\1/')
    grep -rqF --include="*.cpp" "\"$name\"" tests || { echo "no such test: $name"; wrong=1; }
  done
  [ "$rows" -gt 0 ] || { echo "docs/errors.md: no rows"; wrong=1; }
  exit $wrong
}
