"""The catalog against the Hub: filled in, and what is gone or differs is told."""

from __future__ import annotations

from llmserve.store.catalog_refresh import refresh
from tests.fake_hub import FakeHub
from tests.store.tiny_safetensors import files


def line(source: str, rest: str) -> str:
    return f'    {{ format = "gguf", quantization = "Q4_0", source = "hf:{source}", {rest} }},\n'


def test_sizes_and_digests_are_filled_in(hub: FakeHub, tiny_bytes: bytes, tiny_sha256: str) -> None:
    hub.commit("owner/m", {"a.gguf": tiny_bytes})
    hub.commit("owner/s", files())
    safetensors = '    { format = "safetensors", quantization = "BF16", source = "hf:owner/s" },\n'
    text = "# kept\n" + line("owner/m", 'file = "a.gguf"') + safetensors
    refreshed, problems = refresh(text)
    assert problems == ()
    known = f'file = "a.gguf", size = {len(tiny_bytes)}, sha256 = "{tiny_sha256}"'
    size = sum(map(len, files().values()))
    assert refreshed == "# kept\n" + line("owner/m", known) + safetensors.replace(" }", f", size = {size} }}")
    assert refresh(refreshed) == (refreshed, ())


def test_what_is_gone_or_differs_is_told_and_not_replaced(hub: FakeHub, tiny_bytes: bytes) -> None:
    hub.commit("owner/m", {"a.gguf": tiny_bytes})
    text = (
        line("owner/none", 'file = "a.gguf"')
        + line("owner/m", 'file = "b.gguf"')
        + line("owner/m", 'file = "a.gguf", size = 1')
    )
    refreshed, problems = refresh(text)
    assert refreshed == text
    assert len(problems) == 3
    assert "`size` is 1 in the catalog" in problems[2]
