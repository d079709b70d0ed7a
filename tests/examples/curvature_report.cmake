# Runs PROGRAM on a small network, drawing into FOLDER: K-FAC has to print errors, the exact block
# none, and the picture has to be whole.
set(plot "${FOLDER}/curvature_report.svg")
file(REMOVE "${plot}")
execute_process(COMMAND "${PROGRAM}" --channels 2 --epochs 0 --examples 50 --damping 0.1,0.01
                        --plot "${plot}"
                OUTPUT_VARIABLE printed ECHO_OUTPUT_VARIABLE COMMAND_ERROR_IS_FATAL ANY)
if(NOT printed MATCHES "6 Linear +190 +0\\.000 +0\\.[0-9]+ +0\\.[0-9]+")
  message(FATAL_ERROR "no line of the last layer's errors")
endif()
file(READ "${plot}" drawing)
if(NOT drawing MATCHES "</svg>")
  message(FATAL_ERROR "${plot} is not a whole drawing")
endif()
