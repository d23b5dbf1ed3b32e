"""The real decoder alone: what a cache holds can be taken to another one, of any number of streams."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmserve.llama.batch import Batch, Chunk, Keep, Operation, Restore, Save, Trim
from llmserve.llama.engine import Aborted
from llmserve.llama.native_context import NativeContext
from llmserve.llama.native_model import FILE_TYPE, row_tile
from llmserve.llama.runner import Runner
from llmserve.llama.sequence import Sequence
from llmserve.types import KvLayout
from tests.llama.conftest import CONTEXT, tiny_plan

TOKENS = [5 + number % 40 for number in range(64)]


def decode(
    runner: Runner, slot: int, tokens: Tokens[int], start: int, operations: Tokens[Operation] = ()
) -> npt.NDArray[np.float32]:
    """The logits behind the last of `tokens`, those before `start` being in the cache already."""
    sequence = Sequence(list(tokens), len(tokens), len(tokens) + 1)
    chunk = Chunk(sequence, slot, start, len(tokens) - start, sample=True)
    return runner.decode(Batch(list(operations), [chunk]))[0].copy()


def save(runner: Runner, slot: int) -> npt.NDArray[np.uint8]:
    runner.decode(Batch([Save(slot, 7)]))
    return runner.saved_state(7)


@pytest.mark.parametrize("slots", [2, 8])
@pytest.mark.parametrize("layout", ["unified", "split"])
@pytest.mark.parametrize("length", [64, 40], ids=["whole", "part"])
def test_another_run_goes_on_from_a_saved_state_to_the_bit(
    tiny_model: Path, layout: KvLayout, slots: int, length: int
) -> None:
    plan = tiny_plan(kv_layout=layout, kv_cells=8 * CONTEXT)
    first = Runner(tiny_model, plan, 4)
    decode(first, 3, TOKENS, 0)
    state = save(first, 3)
    second = Runner(tiny_model, plan, slots)
    assert first.state_layout(plan) == second.state_layout(plan)
    following = [*TOKENS[:length], 9]
    restored = decode(second, 1, following, length, [Keep(1, state), Restore(1, 1, length)])
    # Not computed anew for comparison: kernels round differently where a prompt comes in other pieces.
    cut = [Trim(3, length)] if length < len(TOKENS) else []
    np.testing.assert_array_equal(restored, decode(first, 3, following, length, cut))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """The calls of llama.cpp, each with slot and length of what it computed, as if the weights were in tiles."""
    seen: list[list[tuple[int, int]]] = []
    compute = NativeContext.compute

    def record(context: NativeContext, chunks: Tokens[Chunk]) -> npt.NDArray[np.float32]:
        seen.append([(chunk.slot, chunk.count) for chunk in chunks])
        return compute(context, chunks)

    monkeypatch.setattr(NativeContext, "compute", record)
    monkeypatch.setattr("llmserve.llama.runner.row_tile", lambda metadata: 4)
    return seen


def test_the_files_type_says_whether_weights_are_in_tiles() -> None:
    assert [row_tile({FILE_TYPE: number}) for number in ("2", "15", "3", "7")] == [4, 4, 1, 1]
    assert row_tile({}) == 1


def test_a_token_for_nobody_leaves_nothing_behind(tiny_model: Path, computed: list[list[tuple[int, int]]]) -> None:
    """Slots beside those that write hold what they held, and the rows are those of the writers."""
    runner = Runner(tiny_model, tiny_plan(kv_layout="split", kv_cells=8 * CONTEXT), 8)
    sequences = [Sequence(TOKENS[slot : slot + 21], 20, 22) for slot in range(8)]
    for slot, sequence in enumerate(sequences):
        runner.decode(Batch(chunks=[Chunk(sequence, slot, 0, 20, sample=False)]))
    before = [save(runner, slot) for slot in (3, 7)]
    everybody = [Chunk(sequence, slot, 20, 1, sample=True) for slot, sequence in enumerate(sequences)]
    logits = runner.decode(Batch(chunks=[chunk for chunk in everybody if chunk.slot not in (3, 7)])).copy()
    assert computed[-1] == [(slot, 1) for slot in range(8)]
    for state, slot in zip(before, (3, 7), strict=True):
        np.testing.assert_array_equal(save(runner, slot), state)
    whole = runner.decode(Batch([Trim(slot, 20) for slot in range(8) if slot not in (3, 7)], everybody))
    np.testing.assert_array_equal(logits, np.delete(whole, (3, 7), axis=0))


def test_tokens_for_nobody_behind_a_prompt_leave_nothing_behind(
    tiny_model: Path, computed: list[list[tuple[int, int]]]
) -> None:
    runner = Runner(tiny_model, tiny_plan(kv_layout="split", kv_cells=8 * CONTEXT), 8)
    filled = decode(runner, 1, TOKENS[:23], 0)
    assert computed == [[(1, 23), (1, 1)]]
    following = decode(runner, 1, TOKENS[:24], 23)
    # All 24 at once, in one call without any.
    scored = Chunk(Sequence(TOKENS[:24], 24, 25), 2, 0, 24, sample=True, scored=True)
    rows = runner.decode(Batch(chunks=[scored]))
    assert computed[-1] == [(2, 24)]
    np.testing.assert_allclose([filled, following], rows[22:], rtol=0, atol=1e-3)
    assert np.abs(rows[22] - rows[23]).max() > 0.01


@pytest.mark.parametrize("layout", ["unified", "split"])
def test_a_step_that_was_given_up_leaves_nothing_behind(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, layout: KvLayout
) -> None:
    runner = Runner(tiny_model, tiny_plan(kv_layout=layout, kv_cells=8 * CONTEXT), 4)
    decode(runner, 0, TOKENS[:20], 0)
    decode(runner, 1, TOKENS[:20], 0)
    with monkeypatch.context() as patch:
        patch.setattr(NativeContext, "resume", lambda _: None)  # so that it stops wherever it is asked first
        runner.abort()
        for start in (20, 20):
            with pytest.raises(Aborted):
                decode(runner, 0, TOKENS, start)
    np.testing.assert_array_equal(decode(runner, 0, TOKENS, 20), decode(runner, 1, TOKENS, 20))


def test_moving_to_a_larger_context_keeps_every_slot_to_the_bit(tiny_model: Path) -> None:
    plan = tiny_plan(kv_layout="split", kv_cells=8 * CONTEXT)
    runner = Runner(tiny_model, plan, 2)
    texts = {0: TOKENS[:50], 1: TOKENS[10:]}
    for slot, tokens in texts.items():
        decode(runner, slot, tokens, 0)
    states = {slot: save(runner, slot) for slot in texts}
    cells = runner.cells
    runner.move_to(runner.open_context(8))
    assert runner.cells == 4 * cells
    for slot, tokens in texts.items():
        np.testing.assert_array_equal(save(runner, slot), states[slot])
        decode(runner, slot + 4, tokens, 0)
        np.testing.assert_array_equal(
            decode(runner, slot, [*tokens, 9], len(tokens)), decode(runner, slot + 4, [*tokens, 9], len(tokens))
        )
