# Installs the tree of BUILD and moves what was installed once, to INSTALLED: it is relocatable.
set(before "${INSTALLED}-before")
file(REMOVE_RECURSE "${before}" "${INSTALLED}")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${before}"
                COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${before}" "${INSTALLED}")
