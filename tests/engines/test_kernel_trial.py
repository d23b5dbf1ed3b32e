"""One product with each of llama.cpp's kernels for this processor, by the real libraries."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from llmserve.engines import kernel_trial
from llmserve.engines.kernel_trial import try_kernels
from llmserve.engines.native import function
from llmserve.hardware.failure import ProbeFailed


@pytest.fixture
def library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    names = (path for path in folder.iterdir() if path.suffix in {".so", ".dylib"} and "libllama" in path.name)
    found = ctypes.CDLL(str(next(names)))
    # A test before this one may have had its log written by a function that is gone.
    function(found, "llama_log_set", None, ctypes.c_void_p, ctypes.c_void_p)(None, None)
    return found


def test_every_layout_is_multiplied(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []

    def counted(library: ctypes.CDLL, tensor: int, count: int) -> list[float]:
        found = floats(library, tensor, count)
        products.append(len(found))
        return found

    floats = kernel_trial._floats
    monkeypatch.setattr(kernel_trial, "_floats", counted)
    try_kernels(library)
    assert products
    assert set(products) == {64 * 32}


@pytest.mark.parametrize(
    "block", [b"\x00\x3c" + b"\x88" * 16, b"\x00\x3c" + b"\xa9" * 16], ids=["zeros", "ones and twos"]
)
def test_a_wrong_product_is_told(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, block: bytes) -> None:
    monkeypatch.setattr(kernel_trial, "_BLOCK_OF_ONES", block)
    with pytest.raises(ProbeFailed, match="its kernels for CPU compute wrong results on this processor"):
        try_kernels(library)
