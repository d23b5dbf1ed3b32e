"""Sizes in words."""

from __future__ import annotations

import pytest

from llmserve.planning.formatting import counted, human_bytes, human_tokens, listed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (98_362_432, "94 MiB"),
        (377_487_360, "360 MiB"),
        (1023 * 2**20, "1023 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (int(1.2 * 2**30), "1.2 GiB"),
        (int(22.1 * 2**30), "22.1 GiB"),
        (503 * 2**30, "503 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512"), (1024, "1k"), (1536, "1.5k"), (16384, "16k"), (40960, "40k"), (12345, "12k")]
)
def test_human_tokens(count: int, text: str) -> None:
    assert human_tokens(count) == text


def test_counted_and_listed() -> None:
    assert [counted(1, "thread"), counted(8, "thread")] == ["1 thread", "8 threads"]
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
