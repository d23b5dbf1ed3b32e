"""A mixture of experts in the real engine: what the inspector says of it, and that its experts can be put elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmserve.store.inspection import inspect_model
from tests.llama.conftest import CONTEXT, running, tiny_plan
from tests.tiny_gguf import EMBEDDING_LENGTH, FEED_FORWARD_LENGTH, write_tiny_model

EXPERTS = 4


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("mixture") / "mixture.gguf", context=CONTEXT, experts=EXPERTS)


def answer(model: Path, experts_in_ram: int) -> Any:
    with running(model, tiny_plan(experts_in_ram=experts_in_ram)) as [worker]:
        return worker.complete("hello world", max_tokens=16)["choices"][0]["text"]


def test_the_inspector_tells_experts_from_the_rest_of_a_layer(mixture: Path) -> None:
    model = inspect_model(mixture)
    matrices = 3 * EXPERTS * EMBEDDING_LENGTH * FEED_FORWARD_LENGTH
    assert [layer.expert_bytes for layer in model.layers] == [2 * matrices] * 2
    assert all(layer.weight_bytes > layer.expert_bytes for layer in model.layers)


def test_where_the_experts_are_does_not_change_the_answer(mixture: Path) -> None:
    assert answer(mixture, 0) == answer(mixture, 1) == answer(mixture, 2) != ""
