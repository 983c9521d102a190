# External libraries, all from Debian packages (deploy/apt-packages.txt), as imported targets.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
foreach(dep "ucx" "grpc" "libprotobuf-c" "libuv" "jansson" "yaml-0.1" "libpcre2-8" "libutf8proc" "libxxhash" "libsodium"
            "sqlite3" "openblas" "lapacke" "liburing" "hwloc")
  pkg_check_modules(${dep} REQUIRED IMPORTED_TARGET GLOBAL ${dep})
endforeach()
if(FS_TESTS)
  pkg_check_modules(cmocka REQUIRED IMPORTED_TARGET GLOBAL cmocka)
endif()
find_program(PROTOC_C protoc-c REQUIRED)
