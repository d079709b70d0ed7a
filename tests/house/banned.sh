#!/bin/sh
# banned.sh CHECKOUT: no line of banned.txt matches the code (comments apart) of a header.
wrong=0
while IFS='	' read -r pattern reason; do
  case $pattern in '#'* | '') continue ;; esac
  if (cd "$1/include" && grep -rnE --include='*.hpp' "^([^/]|/[^/])*($pattern)" kfac); then
    echo "  banned: $reason"
    wrong=1
  fi
done <"$(dirname "$0")/banned.txt"
exit $wrong
