"""Adapters in the real engine: they change what is written, for those who ask for them and nobody beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmserve.types import KvLayout
from tests.llama.conftest import CONTEXT, NAME, WorkerProcess, running, tiny_plan
from tests.llama.ties import assert_same_but_for_ties
from tests.tiny_gguf import EMBEDDING_LENGTH, FEED_FORWARD_LENGTH, write_adapter, write_tiny_adapter

PROMPT = "hello world, the world in the other world"
ADAPTERS = ("polite", "terse")
ASKED = ("m", "m@polite", "m@terse")


def written(model: Path, *arguments: str) -> str:
    """What a worker writes after a prompt at temperature 0."""
    with running(model, tiny_plan(), arguments=arguments) as [worker]:
        text: str = worker.complete("hello world", max_tokens=24)["choices"][0]["text"]
        return text


def scores(worker: WorkerProcess, prompt: str, model: str = "m", count: int = 48) -> dict[str, Any]:
    answer = worker.complete(prompt, model=model, max_tokens=count, logprobs=2)
    found: dict[str, Any] = answer["choices"][0]["logprobs"]
    return found


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


# --- one worker for several ---


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_tiny_adapter(folder / f"{name}.gguf", seed=seed) for seed, name in enumerate(ADAPTERS, 1)}


@pytest.fixture(scope="module")
def alone(tiny_model: Path, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What workers write that have no adapter, or a single one that is always on."""
    found = {}
    for asked, name in zip(ASKED, (None, *ADAPTERS), strict=True):
        arguments = () if name is None else ("--adapter", str(files[name]), "1.0")
        with running(tiny_model, tiny_plan(), arguments=arguments) as [worker]:
            found[asked] = scores(worker, PROMPT)
    texts = {"".join(one["tokens"]) for one in found.values()}
    assert len(texts) == len(ASKED), "each of them writes something else"
    return found


@pytest.fixture(scope="module", params=["unified", "split"])
def worker(request: pytest.FixtureRequest, tiny_model: Path, files: dict[str, Path]) -> Iterator[WorkerProcess]:
    layout: KvLayout = request.param
    cells = {"kv_cells": 8 * CONTEXT, "first_streams": 2} if layout == "split" else {}
    plan = tiny_plan(kv_layout=layout, saved_tokens=4096, **cells)
    arguments = tuple(part for name in ADAPTERS for part in ("--named-adapter", name, str(files[name]), "1.0"))
    with running(tiny_model, plan, arguments=arguments) as [worker]:
        yield worker


def test_each_adapters_text_is_that_of_a_worker_that_has_no_other(
    worker: WorkerProcess, alone: dict[str, dict[str, Any]]
) -> None:
    for asked in (*ASKED, *reversed(ASKED)):
        assert_same_but_for_ties(scores(worker, PROMPT, asked), alone[asked])


def test_so_it_is_for_all_of_them_at_once(worker: WorkerProcess, alone: dict[str, dict[str, Any]]) -> None:
    """More than the cache has places for at first, so that it grows meanwhile, of one prompt whose prefix is no use."""
    asked = ASKED * 3
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda model: scores(worker, PROMPT, model), asked))
    for model, answer in zip(asked, together, strict=True):
        assert_same_but_for_ties(answer, alone[model])


def test_an_answer_says_which_adapter_it_was_written_with(worker: WorkerProcess) -> None:
    assert [worker.complete("hello", model=asked, max_tokens=1)["model"] for asked in ASKED] == [
        NAME,
        f"{NAME}@polite",
        f"{NAME}@terse",
    ]


def test_a_chat_has_the_adapter_too(worker: WorkerProcess) -> None:
    def said(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 16}
        answer = worker.client.post("/v1/chat/completions", json=body).json()
        text: str = answer["choices"][0]["message"]["content"]
        return text

    assert len({said(asked) for asked in ASKED}) == len(ASKED)
    assert said("m@none") == said("m")


def test_an_unknown_adapter_is_not_found(worker: WorkerProcess) -> None:
    response = worker.client.post("/v1/completions", json={"model": "m@rude", "prompt": "hello", "max_tokens": 1})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"].startswith(f"`{NAME}` has no adapter `rude`")
    assert f"`{NAME}@polite`, `{NAME}@terse`" in error["message"] + str(error.get("hint"))


def test_one_that_is_on_by_default_can_be_left_out(
    tiny_model: Path, files: dict[str, Path], alone: dict[str, dict[str, Any]]
) -> None:
    arguments = ("--named-adapter", "polite", str(files["polite"]), "1.0", "--default-adapter", "polite")
    with running(tiny_model, tiny_plan(), arguments=arguments) as [worker]:
        assert_same_but_for_ties(scores(worker, PROMPT), alone["m@polite"])
        assert_same_but_for_ties(scores(worker, PROMPT, "m@none"), alone["m"])


def test_one_that_is_always_on_is_so_beside_a_named_one(tiny_model: Path, files: dict[str, Path]) -> None:
    always = ("--adapter", str(files["polite"]), "1.0")
    with running(tiny_model, tiny_plan(), arguments=(*always, "--adapter", str(files["terse"]), "0.5")) as [both]:
        expected = scores(both, PROMPT)
    with running(
        tiny_model, tiny_plan(), arguments=(*always, "--named-adapter", "terse", str(files["terse"]), "0.5")
    ) as [worker]:
        assert_same_but_for_ties(scores(worker, PROMPT, "m@terse"), expected)


def test_many_that_change_every_matrix_fit_into_a_graph(tiny_model: Path, tmp_path: Path) -> None:
    """llama.cpp ends the process where a graph has more operations than it was opened for."""
    square, flat = (EMBEDDING_LENGTH, EMBEDDING_LENGTH), (EMBEDDING_LENGTH, EMBEDDING_LENGTH // 2)
    wide, narrow = (EMBEDDING_LENGTH, FEED_FORWARD_LENGTH), (FEED_FORWARD_LENGTH, EMBEDDING_LENGTH)
    matrices = {"attn_q": square, "attn_k": flat, "attn_v": flat, "attn_output": square}
    matrices |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": narrow}
    shapes = {f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in matrices.items()}
    files = [str(write_adapter(tmp_path / f"{n}.gguf", shapes, seed=n, size=0.1)) for n in range(16)]
    always = tuple(part for file in files[:14] for part in ("--adapter", file, "0.1"))
    named = tuple(part for n, file in enumerate(files[14:]) for part in ("--named-adapter", f"n{n}", file, "1.0"))
    with running(tiny_model, tiny_plan(), arguments=(*always, *named)) as [worker]:
        answers = [worker.complete(PROMPT, model=model, max_tokens=24) for model in ("m", "m@n0", "m@n1")]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 3


def test_prefixes_on_the_disk_are_each_adapters_own(
    tiny_model: Path, files: dict[str, Path], tmp_path: Path, alone: dict[str, dict[str, Any]]
) -> None:
    plan = tiny_plan(kv_cells=2048, context=1024, saved_tokens=4096, prefix_disk_bytes=1 << 26)
    named = tuple(part for name in ADAPTERS for part in ("--named-adapter", name, str(files[name]), "1.0"))
    arguments = (*named, "--prefixes", str(tmp_path / "prefixes" / "model"))
    prompt = "hello world in the other world " * 40
    with running(tiny_model, plan, arguments=arguments) as [first]:
        cold = scores(first, prompt, "m@polite", 12)
    with running(tiny_model, plan, arguments=arguments) as [second]:
        other = scores(second, prompt, "m", 12)
        assert second.stats()["restored_from_disk"] == 0
        warm = scores(second, prompt, "m@polite", 12)
        assert second.stats()["restored_from_disk"] == 1
    assert_same_but_for_ties(warm, cold)
    assert other["tokens"] != cold["tokens"]
