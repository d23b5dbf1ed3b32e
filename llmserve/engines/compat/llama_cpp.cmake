# Read by CMake right after llama.cpp's own `project()`, in its scope (CMAKE_PROJECT_<name>_INCLUDE).

# Mends what some compilers make of AMX; the header says what.
if (NOT MSVC)
    string(APPEND CMAKE_CXX_FLAGS " -include \"${CMAKE_CURRENT_LIST_DIR}/tile_config.h\"")
endif()

# llmserve calls the library alone. Compiling what its programs share, and their readers of images and sound, would
# take longer than compiling the library itself.
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF PARENT_SCOPE)

# Flash attention on a CPU computes rows by tiles of 64, but its threads share them out in pieces that end within tiles:
# 64 rows behind 3,000 tokens took 1.4 times as long as in whole tiles. A source that reads otherwise is left as it is.
set(_attention "${CMAKE_CURRENT_SOURCE_DIR}/ggml/src/ggml-cpu/ops.cpp")
if (EXISTS "${_attention}")
    set(_tile "        static constexpr int64_t Q_TILE_SZ  = ggml_fa_tile_config::Q;\n")
    set(_piece "        const int64_t dr = (nr + nchunk - 1) / nchunk;\n")
    set(_whole "        const int64_t unit = neq1 >= Q_TILE_SZ ? Q_TILE_SZ : 1;\n")
    string(APPEND _whole "        const int64_t dr = ((nr + nchunk - 1) / nchunk + unit - 1) / unit * unit;\n")
    file(READ "${_attention}" _source)
    string(REPLACE "${_piece}\n${_tile}" "${_tile}${_whole}" _mended "${_source}")
    if (NOT _mended STREQUAL _source)
        file(WRITE "${_attention}" "${_mended}")
    endif()
endif()
