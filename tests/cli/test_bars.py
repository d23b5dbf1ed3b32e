"""The pictures of `plan`: in proportion, whole, and honest about what is over."""

from __future__ import annotations

import pytest

from llmserve.cli.bars import WIDTH, legend, memory_bar
from llmserve.types import DeviceMemory


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.cli.bars._has_blocks", lambda: False)


@pytest.mark.parametrize(
    ("memory", "bar"),
    [
        (DeviceMemory("ram", 24, 12, 6, 0, 48), "W" * 24 + "K" * 12 + "C" * 6 + " " * 6),
        (DeviceMemory("ram", 24, 12, 6, 2, 48, saved_prefixes=4), "W" * 24 + "K" * 12 + "C" * 6 + "oo" + "pppp"),
        (DeviceMemory("ram", 1, 2400, 0, 0, 4800), "W" + "K" * 23 + " " * 24),
        (DeviceMemory("ram", 60, 36, 0, 0, 48), "W" * 24 + "!" * 24),
        (DeviceMemory("ram", 24, 24, 0, 0, None), "W" * 24 + "K" * 24),
        (DeviceMemory("ram", 24, 0, 0, 6, 48, correction=6), "W" * 24 + "o" * 12 + " " * 12),
        (DeviceMemory("ram", 24, 0, 0, 6, 48, correction=-6), "W" * 24 + " " * 24),
        (DeviceMemory("ram", 0, 0, 0, 0, 0), " " * 48),
    ],
)
def test_a_bar(memory: DeviceMemory, bar: str) -> None:
    assert len(bar) == WIDTH
    assert memory_bar(memory) == f"[{bar}]"


def test_every_letter_is_explained() -> None:
    assert legend() == "W weights  K KV cache  C compute  o overhead  p prefixes"
