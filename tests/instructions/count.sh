#!/usr/bin/env bash
# count.sh VALGRIND PROGRAM NAME COMPILER COUNTS: how many instructions the program's function
# counted_steps takes, against what COUNTS has for that name and compiler. Fails at 5 % more; says
# so at 5 % less, where the record wants to be brought up to date. Exits 77 without a record.
set -euo pipefail
valgrind=$1 program=$2 name=$3 compiler=$4 counts=$5

profile=$(mktemp)
trap 'rm -f "$profile"' EXIT
"$valgrind" --tool=callgrind --toggle-collect=counted_steps --callgrind-out-file="$profile" \
  "$program" 2> /dev/null
counted=$(awk '$1 == "summary:" { print $2 }' "$profile")
if [[ ! $counted =~ ^[0-9]+$ || $counted == 0 ]]; then
  echo "no instructions were counted in $program"
  exit 1
fi

recorded=$(awk -v name="$name" -v compiler="$compiler" \
  '$1 == name && $2 == compiler { print $3 }' "$counts")
echo "$name $compiler $counted"
if [[ -z $recorded ]]; then
  echo "no record in $counts: the line above is one"
  exit 77
fi
echo "recorded: $recorded"
if ((counted * 100 > recorded * 105)); then
  echo "more than 5 % above the record"
  exit 1
fi
if ((counted * 100 < recorded * 95)); then
  echo "more than 5 % below the record: put the first line into $counts"
fi
