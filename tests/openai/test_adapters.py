"""Names of models with an adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.errors import AdapterNotFound, InvalidRequest
from llmserve.openai.adapters import (
    named_with,
    refuse_adapter,
    require_adapter,
    split_adapter,
    with_each_adapter,
)
from llmserve.types import AdapterFile
from tests.api.fakes import MODEL

ADAPTED = replace(
    MODEL,
    adapters=(
        AdapterFile("/always.gguf", "0" * 64),
        AdapterFile("/polite.gguf", "1" * 64, name="polite"),
        AdapterFile("/terse.gguf", "2" * 64, name="terse", default=True),
    ),
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tiny:1m@polite", ("tiny:1m", "polite")),
        ("tiny@polite", ("tiny", "polite")),
        ("tiny@", ("tiny", "")),
        ("tiny@a@b", ("tiny", "a@b")),
        ("tiny:1m", ("tiny:1m", None)),
        # Revisions, paths and addresses.
        ("hf:owner/repo@main", ("hf:owner/repo@main", None)),
        ("owner/repo@main:file.gguf", ("owner/repo@main:file.gguf", None)),
        ("./a@b", ("./a@b", None)),
        ("a@b.GGUF", ("a@b.GGUF", None)),
        ("https://host/a@b.gguf", ("https://host/a@b.gguf", None)),
    ],
)
def test_an_adapter_is_what_follows_the_at_of_a_name(text: str, parts: tuple[str, str | None]) -> None:
    assert split_adapter(text) == parts


def test_a_model_is_listed_under_each_name_it_answers_to() -> None:
    names = [(model.name, model.aliases) for model in with_each_adapter(ADAPTED)]
    assert names == [("tiny:1m", ("tiny",)), ("tiny:1m@polite", ()), ("tiny:1m@terse", ())]
    assert with_each_adapter(MODEL) == [MODEL]
    assert named_with(MODEL, None) is MODEL


def test_only_what_has_a_name_can_be_asked_for() -> None:
    for adapter in (None, "none", "polite", "terse"):
        require_adapter(ADAPTED, adapter)
    for adapter in ("always", "", "Polite", "a@b", "x" * 500):
        with pytest.raises(AdapterNotFound) as missing:
            require_adapter(ADAPTED, adapter)
        assert missing.value.hint == "there is `tiny:1m@polite`, `tiny:1m@terse`"
        assert len(missing.value.message) < 120
    with pytest.raises(AdapterNotFound, match=r"has no adapter `\\n\\x1b`"):
        require_adapter(ADAPTED, "\n\x1b")


def test_a_model_that_vllm_runs_says_so() -> None:
    with pytest.raises(AdapterNotFound, match="cannot take adapters") as missing:
        require_adapter(replace(MODEL, format="safetensors"), "polite")
    assert "llama.cpp" in str(missing.value.hint)


def test_what_concerns_the_whole_model_is_refused_for_an_adapter() -> None:
    refuse_adapter("tiny:1m")
    refuse_adapter("hf:owner/repo@main")
    with pytest.raises(InvalidRequest, match="part of the model") as refused:
        refuse_adapter("tiny:1m@polite")
    assert refused.value.hint == "the model is `tiny:1m`"
