# Runs PROGRAM with its default flags, drawing into FOLDER: the medians over ten seeds must be as
# good as the README says, and the files complete.
set(csv "${FOLDER}/two_moons.csv")
set(plot "${FOLDER}/two_moons.svg")
file(REMOVE "${csv}" "${plot}")
execute_process(COMMAND "${PROGRAM}" --csv "${csv}" --plot "${plot}"
                OUTPUT_VARIABLE printed ECHO_OUTPUT_VARIABLE COMMAND_ERROR_IS_FATAL ANY)

if(NOT printed MATCHES "Medians over seeds 0 to 9.* K-FAC +[0-9.]+ +25 +[0-9.e-]+ +([0-9.]+) +([0-9.]+)")
  message(FATAL_ERROR "no line of K-FAC's medians after 25 steps")
endif()
set(loss "${CMAKE_MATCH_1}")
set(accuracy "${CMAKE_MATCH_2}")
if(loss GREATER 0.02 OR accuracy LESS 0.98)
  message(FATAL_ERROR "K-FAC has loss ${loss} and accuracy ${accuracy}, expected 0.02 and 0.98")
endif()

file(STRINGS "${csv}" rows)
list(LENGTH rows count)
math(EXPR expected "1 + 3 * 10 * 26")  # a title; optimizers, seeds and steps from 0 to 25
if(NOT count EQUAL expected)
  message(FATAL_ERROR "${csv} has ${count} rows, expected ${expected}")
endif()
file(READ "${plot}" drawing)
if(NOT drawing MATCHES "</svg>")
  message(FATAL_ERROR "${plot} is not a whole drawing")
endif()
