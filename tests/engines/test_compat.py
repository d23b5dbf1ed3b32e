"""What llama.cpp's build reads beside its own files, and what the compiler here makes of AMX's tile configuration."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llmserve.engines import build

COMPAT = Path(build.__file__).parent / "compat"

# As llama.cpp fills it: on the stack, and of no use but to be loaded.
TILES = """
#include <immintrin.h>
struct alignas(64) Tiles {
    unsigned char palette, start, reserved[14];
    unsigned short columns[16];
    unsigned char rows[16];
};
void configure(unsigned short columns) {
    Tiles tiles = {};
    tiles.palette = 1;
    tiles.columns[7] = columns;
    _tile_loadconfig(&tiles);
}
"""

# As llama-cpp-python and the llama.cpp in it ask for their parts.
BINDING = """
cmake_minimum_required(VERSION 3.21)
project(llama_cpp NONE)
option(LLAVA_BUILD "" ON)
set(LLAMA_BUILD_COMMON ON CACHE BOOL "" FORCE)
add_subdirectory(vendor)
message(STATUS "LLAVA_BUILD is ${LLAVA_BUILD}")
"""
LIBRARY = """
cmake_minimum_required(VERSION 3.14...3.28)
project("llama.cpp" NONE)
option(LLAMA_BUILD_COMMON "" OFF)
message(STATUS "LLAMA_BUILD_COMMON is ${LLAMA_BUILD_COMMON}")
message(STATUS "CMAKE_CXX_FLAGS is ${CMAKE_CXX_FLAGS}")
"""

# How ggml shares out the rows of flash attention.
PIECES = """
        const int64_t dr = (nr + nchunk - 1) / nchunk;

        static constexpr int64_t Q_TILE_SZ  = ggml_fa_tile_config::Q;
        const char * brackets = "[;] \\n";
"""
# Nearly the same, of another operation.
OTHER_PIECES = """
    const int64_t dr = (nr + nchunk - 1) / nchunk;

    int current_chunk = ith;
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="AMX is of x86-64")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no GCC")
def test_the_configuration_is_not_optimised_away(tmp_path: Path) -> None:
    source = tmp_path / "tiles.cpp"
    source.write_text(TILES)
    command = ("g++", "-O3", "-mamx-tile", "-include", COMPAT / "tile_config.h", "-S", "-o", "-", source)
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "ldtilecfg" in assembly
    # The argument, a number of columns, comes in this register.
    assert re.search(r"%e?di\b", assembly)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no CMake")
def test_the_library_alone_is_built_and_every_file_mends_amx(tmp_path: Path) -> None:
    source = tmp_path / "a source"
    (source / "vendor").mkdir(parents=True)
    (source / "CMakeLists.txt").write_text(BINDING)
    (source / "vendor/CMakeLists.txt").write_text(LIBRARY)
    included = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={COMPAT / 'llama_cpp.cmake'}"
    command = ("cmake", "-S", source, "-B", tmp_path / "build", "-DCMAKE_CXX_FLAGS=-O2", included)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "LLAVA_BUILD is OFF" in said
    assert "LLAMA_BUILD_COMMON is OFF" in said
    assert f'CMAKE_CXX_FLAGS is -O2 -include "{COMPAT / "tile_config.h"}"' in said


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no CMake")
def test_attention_is_shared_out_by_whole_tiles_and_nothing_else_changes(tmp_path: Path) -> None:
    kernels = tmp_path / "ggml/src/ggml-cpu/ops.cpp"
    kernels.parent.mkdir(parents=True)
    kernels.write_text(PIECES + OTHER_PIECES)
    (tmp_path / "CMakeLists.txt").write_text(LIBRARY)
    included = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={COMPAT / 'llama_cpp.cmake'}"
    command = ("cmake", "-S", tmp_path, "-B", tmp_path / "build", included)
    for _ in range(2):  # the second time there is nothing left to mend
        subprocess.run(command, check=True, capture_output=True)
        mended = kernels.read_text()
        size, unit, piece = (
            mended.index(part) for part in ("Q_TILE_SZ  = ", "unit = neq1 >= Q_TILE_SZ", "dr = ((nr + nchunk - 1)")
        )
        assert size < unit < piece
        assert mended.count("const int64_t dr = ") == 2
        assert mended.endswith('brackets = "[;] \\n";\n' + OTHER_PIECES)
