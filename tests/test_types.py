"""The JSON form of frozen types: what goes out comes back, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmserve.types import AdapterFile, CpuInfo, GpuInfo, InstalledModel, InvalidJson, MemoryInfo, from_json, to_json
from tests.cli.fakes import installed

MEMORY = MemoryInfo(total=8, available=None, limit=2**60)
MODEL = replace(
    installed("ünï:1b", aliases=("a", "b")), pulled_at=0.25, adapters=(AdapterFile("/a.gguf", "cd" * 32, 0.5),)
)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_value_comes_back(indent: int | None) -> None:
    for value in (MEMORY, MODEL):
        assert from_json(type(value), to_json(value, indent=indent)) == value
    assert from_json(tuple[InstalledModel, ...], to_json((MODEL, MODEL), indent=indent)) == (MODEL, MODEL)


def test_the_text_is_compact_or_indented() -> None:
    assert to_json(MEMORY) == '{"total":8,"available":null,"limit":1152921504606846976}'
    assert to_json(MEMORY, indent=2).splitlines()[1] == '  "total": 8,'


def test_what_a_later_version_adds_is_passed_over() -> None:
    text = json.dumps({"total": 8, "available": None, "limit": 2**60, "colour": "red"})
    assert from_json(MemoryInfo, text) == MEMORY


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ('{"total":1,"available":2}', "limit", "missing"),
        ('{"total":"much","available":2,"limit":3}', "total", "got `str`"),
        ("[]", "", "got `array`"),
        ("", "", ""),
        ('{"total":1', "", ""),
        (b"\xff", "", "malformed"),
        ("[" * 100_000, "", ""),
        ('{"x":' * 100_000, "", "nested"),
    ],
)
def test_what_is_wrong_is_named(text: str | bytes, path: str, reason: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        from_json(MemoryInfo, text)
    assert caught.value.path == path
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_place_within_is_named_whole() -> None:
    with pytest.raises(InvalidJson, match=r"^`\[0\].device`: ") as caught:
        from_json(tuple[GpuInfo, ...], '[{"device":"abacus"}]')
    assert caught.value.path == "[0].device"
    with pytest.raises(InvalidJson, match=r"^`features\[1\]`: "):
        from_json(
            CpuInfo,
            '{"architecture":"x","model":null,"physical_cores":1,"logical_cpus":1,"usable_cpus":1,'
            '"quota":null,"features":["a",2]}',
        )
