# Runs PROGRAM, kfac_bench, for a few steps of each workload, writing into FOLDER: its JSON must be
# whole, and the operations that the floor is made of counted here.

# check(<workload> <unit> <operations>...), these rounded to multiples of the unit.
function(check workload unit)
  set(file "${FOLDER}/kfac_bench_${workload}.json")
  file(REMOVE "${file}")
  execute_process(COMMAND "${PROGRAM}" --workload ${workload} --schedule 1/2 --steps 3
                          --json "${file}" COMMAND_ERROR_IS_FATAL ANY)
  file(READ "${file}" json)
  string(JSON steps GET "${json}" steps)
  if(NOT steps EQUAL 4)
    message(FATAL_ERROR "${workload}: ${steps} steps, expected 4: whole periods of two")
  endif()
  foreach(field "ms;best" "ms;median" "ms;cpu" floor_ms ratio sgd_ms "bytes;expected"
                "bytes;predicted" "product_gflops;best" "breakdown_ms;forward"
                "breakdown_ms;update")
    string(JSON value GET "${json}" ${field})
    if(NOT value GREATER 0)
      message(FATAL_ERROR "${workload}: ${field} is ${value}, expected > 0")
    endif()
  endforeach()

  # Without a sanitizer the heap is measured, and is to be as predicted: of W1, whose objects are as
  # large as its matrices, within half.
  string(JSON kind TYPE "${json}" bytes peak)
  if(kind STREQUAL NUMBER)
    string(JSON predicted GET "${json}" bytes predicted_ratio)
    set(least 0.9)
    set(most 1.1)
    if(workload STREQUAL W1)
      set(least 0.5)
      set(most 1.5)
    endif()
    if(predicted LESS least OR predicted GREATER most)
      message(FATAL_ERROR "${workload}: predicted / peak memory is ${predicted}, expected from "
                          "${least} to ${most}")
    endif()
  endif()

  string(JSON forward GET "${json}" operations forward)
  string(JSON backward GET "${json}" operations backward)
  string(REGEX REPLACE "[.].*" "" forward "${forward}")
  string(REGEX REPLACE "[.].*" "" backward "${backward}")
  math(EXPR gradient "${forward} + ${backward}")
  set(found "${gradient}")
  foreach(part factors inverses precondition)
    string(JSON value GET "${json}" operations ${part})
    string(REGEX REPLACE "[.].*" "" value "${value}")
    list(APPEND found "${value}")
  endforeach()
  foreach(value expected IN ZIP_LISTS found ARGN)
    math(EXPR rounded "(${value} + ${unit} / 2) / ${unit}")
    if(NOT rounded EQUAL expected)
      message(FATAL_ERROR "${workload}: ${value} operations, expected ${expected} x ${unit}")
    endif()
  endforeach()
endfunction()

# Counted by hand from the networks' sizes: forward + backward, factors, inverses, precondition.
check(W1 10000 4 14 7 1)
check(W2 10000000 82 43 102 159)
check(W3 10000000 790 332 554 900)
check(W4 10000000 286 312 432 11)

# refuse(<message> <argument>...): a mistake exits with 2 and a message that says it.
function(refuse message)
  execute_process(COMMAND "${PROGRAM}" ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE printed
                  ERROR_VARIABLE printed)
  if(NOT code EQUAL 2)
    message(FATAL_ERROR "${ARGN}: exit code ${code}, expected 2")
  endif()
  if(NOT printed MATCHES "${message}")
    message(FATAL_ERROR "${ARGN}: '${printed}', expected '${message}'")
  endif()
endfunction()
refuse("--workload" --workload W5)
refuse("--schedule" --schedule 10)
refuse("--schedule" --schedule 0/1)
refuse("--fisher" --fisher true)
refuse("--threads" --threads 0)
refuse("--steps" --steps -1)
refuse("--seconds" --seconds x)
refuse("--json" --json "${FOLDER}/missing/file.json")
refuse("--speed" --speed 2)
