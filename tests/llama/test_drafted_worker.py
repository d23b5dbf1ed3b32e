"""Answers that are drafted ahead are the answers that would have been written without: the real engine, on and off."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmserve.types import KvLayout
from tests.llama.conftest import CONTEXT, WorkerProcess, running, tiny_plan
from tests.llama.ties import assert_same_but_for_ties


@pytest.fixture(scope="module", params=["unified", "split"])
def workers(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """One that drafts and one that does not, of the same cache layout."""
    layout: KvLayout = request.param
    cells = {"kv_cells": 8 * CONTEXT} if layout == "split" else {}
    plans = [tiny_plan(kv_layout=layout, speculation=speculation, **cells) for speculation in (True, False)]
    with running(tiny_model, *plans) as [drafting, plain]:
        yield drafting, plain


def scores(worker: WorkerProcess, prompt: str) -> dict[str, Any]:
    found: dict[str, Any] = worker.complete(prompt, logprobs=2)["choices"][0]["logprobs"]
    return found


PROMPTS = [
    f"hello world {'the world in the world ' * times}{end}" for times in (1, 3) for end in ("", "hello", "in the")
]


def test_the_text_is_the_same_and_steps_are_saved(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    drafting, plain = workers
    for prompt in PROMPTS:
        assert_same_but_for_ties(scores(drafting, prompt), scores(plain, prompt))
    with_drafts, without = drafting.stats(), plain.stats()
    assert without["drafted_tokens"] == 0
    assert 0 < with_drafts["accepted_tokens"] <= with_drafts["drafted_tokens"]
    assert with_drafts["steps"] < without["steps"]


def test_so_it_is_for_several_at_once(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    drafting, plain = workers
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: scores(drafting, prompt), PROMPTS[:4]))
    for prompt, answer in zip(PROMPTS[:4], together, strict=True):
        assert_same_but_for_ties(answer, scores(plain, prompt))


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_draft_never_goes_beyond_the_asked_length(
    workers: tuple[WorkerProcess, WorkerProcess], max_tokens: int
) -> None:
    answer = workers[0].complete(PROMPTS[1], max_tokens=max_tokens)
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_inside_a_draft_ends_the_text_there(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    _, plain = workers
    whole = plain.complete(PROMPTS[2])["choices"][0]["text"]
    stop = whole[len(whole) // 2 :][:6]
    for worker in workers:
        answer = worker.complete(PROMPTS[2], stop=[stop])["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert answer["text"] == whole[: whole.index(stop)]


def test_a_choice_is_kept_to(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    for worker in workers:
        answer = worker.complete(PROMPTS[4], structured_outputs={"choice": ["hello world", "the world"]})
        assert answer["choices"][0]["text"] in {"hello world", "the world"}
