"""Adapters in the real engine: they change what is written, by their scale, and one that does not fit is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.llama.conftest import WorkerProcess, running, tiny_plan
from tests.tiny_gguf import write_tiny_adapter


def written(model: Path, *arguments: str) -> str:
    """What a worker writes after a prompt at temperature 0."""
    with running(model, tiny_plan(), arguments=arguments) as [worker]:
        text: str = worker.complete("hello world", max_tokens=24)["choices"][0]["text"]
        return text


def test_an_adapter_changes_the_text_by_its_scale(tiny_model: Path, tmp_path: Path) -> None:
    adapter = str(write_tiny_adapter(tmp_path / "adapter.gguf"))
    plain = written(tiny_model)
    assert written(tiny_model, "--adapter", adapter, "1.0") != plain
    assert written(tiny_model, "--adapter", adapter, "0.0") == plain


def test_what_is_no_adapter_is_refused_in_words(tiny_model: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llm") as folder:
        worker = WorkerProcess(Path(folder), tiny_model, tiny_plan(), "--adapter", str(tiny_model), "1.0")
        assert worker.process.wait(timeout=60) != 0
        worker.close()
    assert "error: llama.cpp refused the adapter tiny.gguf" in worker.last_words
