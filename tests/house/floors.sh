#!/bin/sh
# floors.sh CHECKOUT: a header includes only from its own floor or below, and nothing includes the
# last floor.
cd "$1/include/kfac" || exit 2
find . -name '*.hpp' | sort | xargs awk '
  BEGIN {
    floor["version.hpp"] = 0
    floor["core"] = 1
    floor["linalg"] = 2
    floor["nn"] = floor["loss"] = floor["data"] = 3
    floor["curvature"] = 4
    floor["optim"] = floor["posterior"] = floor["attribution"] = 5
    floor["compression"] = floor["merging"] = floor["scientific"] = 5
    floor["kfac.hpp"] = 6
    floor["io"] = floor["mpi"] = floor["libtorch"] = floor["testing"] = last = 7
  }
  # The folder of a header, or the header itself where it stands in none.
  function room(path) { sub("/.*", "", path); return path }
  function complain(what) { print header " " what; wrong = 1 }

  FNR == 1 {
    header = substr(FILENAME, 3)
    own = room(header)
    if (!(own in floor)) complain("is on no floor")
  }
  /^ *# *include *"/ { complain("includes by quotes, expected <kfac/...>") }
  /^ *# *include *<kfac\// {
    included = $0
    sub(".*<kfac/", "", included)
    sub(">.*", "", included)
    other = room(included)
    if (!(other in floor)) complain("includes " included ", of no floor")
    else if (floor[other] > floor[own]) complain("includes " included ", of a higher floor")
    else if (floor[other] == last && other != own) complain("includes " included ", of the last floor")
  }
  END { exit wrong }
'
