# Read by CMake right after llama.cpp's own `project()`, in its scope (CMAKE_PROJECT_<name>_INCLUDE).

# Mends what some compilers make of AMX; the header says what.
if (NOT MSVC)
    string(APPEND CMAKE_CXX_FLAGS " -include \"${CMAKE_CURRENT_LIST_DIR}/tile_config.h\"")
endif()

# llmserve calls the library alone. Compiling what its programs share, and their readers of images and sound, would
# take longer than compiling the library itself.
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF PARENT_SCOPE)
