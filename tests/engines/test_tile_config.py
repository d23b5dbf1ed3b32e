"""What the compiler here makes of AMX's tile configuration."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llmserve.engines import toolchain

# As llama.cpp fills it: on the stack, and of no use but to be loaded.
SOURCE = """
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
HEADER = Path(toolchain.__file__).parent / "compat" / "tile_config.h"


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="AMX is of x86-64")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no GCC")
def test_the_configuration_is_not_optimised_away(tmp_path: Path) -> None:
    source = tmp_path / "tiles.cpp"
    source.write_text(SOURCE)
    command = ("g++", "-O3", "-mamx-tile", "-include", HEADER, "-S", "-o", "-", source)
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "ldtilecfg" in assembly
    # The argument, a number of columns, comes in this register.
    assert re.search(r"%e?di\b", assembly)
