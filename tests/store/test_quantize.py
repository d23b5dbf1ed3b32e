"""Quantizing: what is refused before, and that the real llama.cpp makes a model of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.errors import Conflict, InsufficientStorage, InvalidModel, InvalidRequest
from llmserve.store.adoption import adopt
from llmserve.store.progress import PullProgress
from llmserve.store.quantize import plan_quantization, quantize
from llmserve.store.store import Store
from llmserve.store.verification import verify
from tests.store.conftest import leftovers


@pytest.fixture
def base(store: Store, tmp_path: Path, tiny_bytes: bytes) -> Store:
    file = tmp_path / "base.gguf"
    file.write_bytes(tiny_bytes)
    adopt(store, file)
    return store


@pytest.mark.parametrize("name", ["q9", "", "Q4_K_XXL", "../x"])
def test_a_type_that_is_none_is_refused(base: Store, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no type") as refused:
        plan_quantization(base, "base:local", name)
    assert "Q4_K_M" in str(refused.value.hint)


def test_the_plan(base: Store) -> None:
    wanted = plan_quantization(base, "base:local", "q8_0")
    assert (wanted.type, str(wanted.target), wanted.again) == ("Q8_0", "base-quantized:local-q8_0", False)
    with pytest.raises(Conflict):
        plan_quantization(base, "base:local", "q8_0", "base:local")


def test_the_disk_is_checked_first(base: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.store.files.free_bytes", lambda _: 1)
    with pytest.raises(InsufficientStorage):
        quantize(base, plan_quantization(base, "base:local", "Q8_0"))
    assert len(base.list()) == 1


@pytest.mark.engine
def test_llama_cpp_makes_a_model(base: Store) -> None:
    told: list[PullProgress] = []
    made = quantize(base, plan_quantization(base, "base:local", "q8_0", "small:v1"), told.append)
    assert (made.name, made.quantization) == ("small:v1", "Q8_0")
    assert made.source == f"quantized:Q8_0:{base.find('base:local').source}"
    assert base.find("small:v1") == made
    done = [progress.completed for progress in told if progress.stage == "quantizing"]
    assert done == sorted(done)
    assert len(done) > 5
    assert leftovers(base.home) == []
    assert plan_quantization(base, "small:v1", "q4_0", "x:v1").again
    Path(made.path).write_bytes(b"x")
    with pytest.raises(Conflict, match="was quantized here"):
        verify(base, "small:v1", repair=True)


@pytest.mark.engine
def test_what_llama_cpp_refuses_is_said(base: Store) -> None:
    wanted = plan_quantization(base, "base:local", "q8_0", "small:v1")
    Path(base.find("base:local").path).write_bytes(b"GGUF")
    with pytest.raises(InvalidModel):
        quantize(base, wanted)
    assert leftovers(base.home) == []
