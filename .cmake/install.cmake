# find_package(kfac) after an install: kfac::kfac needs Eigen and threads; COMPONENTS io adds kfac::io.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Headers have no architecture, so the package description goes to share/.
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/kfac")

install(TARGETS kfac EXPORT kfacTargets FILE_SET HEADERS)
install(EXPORT kfacTargets NAMESPACE kfac:: DESTINATION "${package_dir}")
if(KFAC_IO)
  set_target_properties(kfac_io PROPERTIES EXPORT_NAME io)
  install(TARGETS kfac_io EXPORT kfacIoTargets FILE_SET HEADERS)
  install(EXPORT kfacIoTargets NAMESPACE kfac:: DESTINATION "${package_dir}")
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/kfacConfig.cmake.in" kfacConfig.cmake
                              INSTALL_DESTINATION "${package_dir}"
                              NO_SET_AND_CHECK_MACRO)
# Until 1.0 a minor version may break its users.
write_basic_package_version_file(kfacConfigVersion.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/kfacConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/kfacConfigVersion.cmake"
        DESTINATION "${package_dir}")
