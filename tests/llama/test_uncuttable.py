"""Models whose memory cannot be cut at a token: what they keep is bounded as planned, and never makes a wrong text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp
import pytest

from llmserve.llama.batch import Batch, Chunk
from llmserve.llama.runner import Runner
from llmserve.llama.sequence import Sequence
from tests.llama.conftest import CONTEXT, WorkerProcess, running, tiny_plan
from tests.llama.test_worker import complete, post
from tests.tiny_kinds import WINDOW, write_tiny_recurrent_model, write_tiny_windowed_model

WRITERS = {"windowed": write_tiny_windowed_model, "recurrent": write_tiny_recurrent_model}
PARALLEL = 3


@pytest.fixture(scope="module", params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("uncuttable") / "tiny.gguf", context=CONTEXT)


@pytest.fixture(scope="module", params=[0, 2000], ids=["no shelf", "shelf"])
def worker(request: pytest.FixtureRequest, model: Path) -> Iterator[WorkerProcess]:
    plan = tiny_plan(parallel=PARALLEL, kv_cells=PARALLEL * CONTEXT, saved_tokens=request.param)
    with running(model, plan) as [started]:
        yield started


def prompts(count: int, length: int) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(260) for _ in range(length)] for _ in range(count)]


def text(answer: dict[str, object]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]  # type: ignore[attr-defined]


def cached(answer: dict[str, object]) -> int:
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]  # type: ignore[index]
    return found


def test_a_sliding_window_keeps_what_it_looks_at(tmp_path: Path) -> None:
    runner = Runner(write_tiny_windowed_model(tmp_path / "tiny.gguf", context=CONTEXT), tiny_plan(), 4)
    tokens = prompts(1, 400)[0]
    sequence = Sequence(tokens, len(tokens), CONTEXT)
    for start in range(0, len(tokens), 100):
        runner.decode(Batch(chunks=[Chunk(sequence, 0, start, 100, sample=True)]))
    memory = runner._context._memory
    # The first position that every layer still has.
    assert llama_cpp.llama_memory_seq_pos_min(memory, 0) >= len(tokens) - WINDOW - 256
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == len(tokens) - 1


def test_there_is_memory_for_no_more_sequences_than_planned(model: Path, tiny_model: Path) -> None:
    plan = tiny_plan(parallel=PARALLEL)
    assert Runner(model, plan, 20).slots == PARALLEL
    assert Runner(tiny_model, plan, 20).slots == 20


def test_the_next_turn_goes_on_from_a_whole_sequence(worker: WorkerProcess) -> None:
    question, following = prompts(2, 120)
    alone = post(worker, complete(question + following))
    assert cached(alone) == 0
    post(worker, complete(question, max_tokens=1))
    turn = post(worker, complete(question + following))
    assert cached(turn) == len(question)
    assert text(turn) == text(alone)


def test_a_prefix_that_would_have_to_be_cut_off_is_computed_again(worker: WorkerProcess) -> None:
    first, second = prompts(2, 90)
    alone = post(worker, complete(first[:80] + second))
    post(worker, complete(first))
    again = post(worker, complete(first[:80] + second))
    assert text(again) == text(alone)
    assert cached(again) == 0


def test_each_of_many_at_once_writes_what_it_does_alone(worker: WorkerProcess) -> None:
    asked = [complete(prompt) for prompt in prompts(5, 60)]
    alone = [text(post(worker, body)) for body in asked]
    with ThreadPoolExecutor(10) as pool:
        assert [text(answer) for answer in pool.map(lambda body: post(worker, body), asked * 2)] == alone * 2
    choices = text(post(worker, {**asked[0], "n": 3}))
    assert choices == alone[0] * 3


def test_who_makes_way_for_others_writes_all_the_same(model: Path) -> None:
    plan = tiny_plan(parallel=PARALLEL, kv_cells=256, context=200, saved_tokens=1000)
    with running(model, plan) as [small]:
        with ThreadPoolExecutor(6) as pool:
            bodies = [complete(prompt, max_tokens=120) for prompt in prompts(6, 40)]
            together = list(pool.map(lambda body: post(small, body), bodies))
        assert {answer["usage"]["completion_tokens"] for answer in together} == {120}
        assert small.stats()["preemptions"] > 0
