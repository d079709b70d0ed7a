# A runner that cannot fail proves nothing: with a damping that is not that of the stored results,
# with arrays cut short, and with no case at all, it must exit non-zero and say so.
set(case "${FOLDER}/linear-mse-mean")

function(expect_failure said)
  execute_process(COMMAND "${RUNNER}" ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output)
  if(code EQUAL 0 OR NOT output MATCHES "${said}")
    message(FATAL_ERROR "expected a failure that says '${said}', got exit code ${code} and\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE "${FOLDER}")
file(COPY "${CASES}/linear-mse-mean" DESTINATION "${FOLDER}")
file(READ "${case}/case.json" json)
string(JSON spoiled SET "${json}" dampings 1 0.0100001)
file(WRITE "${case}/case.json" "${spoiled}")
expect_failure("FAIL  linear-mse-mean .* in l0\\.precond" "${FOLDER}")

file(WRITE "${case}/case.json" "${json}")
file(WRITE "${case}/case.safetensors" "cut short")
expect_failure("FAIL  linear-mse-mean .*case\\.safetensors" "${FOLDER}")

file(REMOVE_RECURSE "${case}")
expect_failure("0 passed" "${FOLDER}")
