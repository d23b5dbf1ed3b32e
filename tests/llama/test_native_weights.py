"""Which models' weights are not to be laid out for AMX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest

from llmserve.llama import native_weights
from llmserve.llama.native_metadata import metadata_value
from llmserve.llama.native_model import load_model, log_warnings_only
from llmserve.llama.native_weights import multiplies_stacks, needs_plain_weights
from tests.llama.conftest import CONTEXT, tiny_plan
from tests.tiny_gguf import write_tiny_model
from tests.tiny_kinds import write_tiny_recurrent_model, write_tiny_windowed_model

Loaded = Callable[[Path], Any]


@pytest.fixture
def loaded() -> Any:
    models: list[Any] = []
    # A test before this one may have had llama.cpp's log written by a function that is gone.
    log = log_warnings_only()

    def load(path: Path) -> Any:
        models.append(load_model(path, tiny_plan(), lambda _: None))
        return models[-1]

    yield load
    for model in models:
        llama_cpp.llama_model_free(model)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)
    del log


@pytest.mark.parametrize(
    ("write", "stacks"),
    [(write_tiny_model, False), (write_tiny_windowed_model, False), (write_tiny_recurrent_model, True)],
)
def test_a_recurrent_state_is_a_stack(tmp_path: Path, loaded: Loaded, write: Callable[..., Path], stacks: bool) -> None:
    model = loaded(write(tmp_path / "tiny.gguf", context=CONTEXT))
    assert multiplies_stacks(model) == stacks
    compiled_in = b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()
    assert needs_plain_weights(model) == (stacks and compiled_in)


@pytest.mark.parametrize(
    ("metadata", "stacks"),
    [
        ({"general.architecture": "llama"}, False),
        ({"general.architecture": "gemma3n"}, True),
        ({"general.architecture": "deepseek2", "deepseek2.attention.kv_lora_rank": "512"}, True),
        ({}, False),
    ],
)
def test_weights_that_are_stacks_are_known_by_the_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: Loaded, metadata: dict[str, str], stacks: bool
) -> None:
    model = loaded(write_tiny_model(tmp_path / "tiny.gguf", context=CONTEXT))
    monkeypatch.setattr(native_weights, "metadata_value", lambda _, key: metadata.get(key))
    assert multiplies_stacks(model) == stacks


def test_the_metadata_is_that_of_the_file(tmp_path: Path, loaded: Loaded) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", context=CONTEXT)
    model = loaded(path)
    field = gguf.GGUFReader(path).get_field("general.architecture")
    assert field is not None
    assert metadata_value(model, "general.architecture") == field.contents()
    assert metadata_value(model, "none.such") is None
