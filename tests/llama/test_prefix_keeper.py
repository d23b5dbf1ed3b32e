"""Prefixes over the disk, with the whole engine over the fake cache: what is written, read and thereby changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmserve.llama.batch import Restore
from llmserve.llama.engine import Engine
from llmserve.llama.generation import Delta, Failure, Generation, Job
from llmserve.llama.kv_cache import Limits, UnifiedCache
from llmserve.llama.prefix_archive import PrefixArchive
from llmserve.llama.prefix_keeper import PrefixKeeper
from llmserve.llama.prefix_uses import PrefixUses
from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.sequence import Sequence
from llmserve.llama.split_cache import SplitCache
from llmserve.llama.step_budget import StepBudget
from llmserve.llama.text_stream import TextStream
from tests.llama.fake_runner import FakeRunner
from tests.llama.schedule_bench import alone

BATCH = 32
LONGEST = 96


class Run:
    """One life of a worker over the archive in `folder`."""

    def __init__(
        self, folder: Path, *, split: bool, cuttable: bool = True, shelf: int = 400, adapters: int = 1
    ) -> None:
        slots, cells = (4, 4 * LONGEST) if split else (8, 256)
        limits = Limits(3, slots, cells, cells, cuttable=cuttable, shelf=shelf, worth_saving=10)
        self.runner = FakeRunner(slots, cells, BATCH, split=split, cuttable=cuttable)
        self.scheduler = Scheduler(SplitCache(limits) if split else UnifiedCache(limits), StepBudget(BATCH))
        self.loop = asyncio.get_running_loop()
        self.engine = Engine(self.runner, self.scheduler, lambda _: b"x", (), self.loop.call_soon_threadsafe, 0)
        archives = [
            PrefixArchive(folder / "prefixes" / "model", layout, 1 << 20, cuttable=cuttable)
            for layout in ("fake", *(f"fake adapter={n}" for n in range(1, adapters)))
        ]
        for archive in archives:
            archive.open(min(LONGEST, shelf))
        self.archive = archives[0]
        self.keeper = PrefixKeeper(self.engine, self.scheduler, self.runner, archives)
        self.engine.start()

    async def write(self, prompt: list[int], count: int, adapter: int = 0) -> Sequence:
        """`count` tokens after `prompt`, as a request gets them."""
        await self.keeper.bring(prompt, adapter)
        sequence = Sequence(list(prompt), len(prompt), LONGEST, adapter=adapter)
        generation = Generation(
            0, sequence, Sampler(SamplingParameters(temperature=0), prompt, 0), TextStream(()), count
        )
        over: asyncio.Future[None] = self.loop.create_future()

        def deliver(event: Delta | Failure) -> None:
            if isinstance(event, Failure):
                over.set_exception(event.error)
            elif event.finish_reason is not None:
                over.set_result(None)

        self.engine.submit(Job([generation], deliver))
        await over
        return sequence

    def close(self) -> None:
        self.keeper.close()
        self.engine.close()


@contextmanager
def run(
    folder: Path, *, split: bool = True, cuttable: bool = True, shelf: int = 400, adapters: int = 1
) -> Iterator[Run]:
    one = Run(folder, split=split, cuttable=cuttable, shelf=shelf, adapters=adapters)
    try:
        yield one
    finally:
        one.close()


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.prefix"))


def damage_the_last_byte(folder: Path) -> Path:
    (path,) = files(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


SYSTEM = [50 + n % 9 for n in range(40)]


@pytest.mark.parametrize("split", [False, True])
async def test_the_next_run_goes_on_from_what_the_last_one_computed(tmp_path: Path, split: bool) -> None:
    with run(tmp_path, split=split) as first:
        cold = await first.write([*SYSTEM, 1], 4)
        assert cold.cached == 0
    with run(tmp_path, split=split) as second:
        warm = await second.write([*SYSTEM, 2], 4)
        assert warm.cached == len(SYSTEM)
        assert warm.tokens == alone([*SYSTEM, 2], 4)
        assert (second.engine.restored_from_disk, second.engine.restored_from_ram) == (1, 0)
        again = await second.write([*SYSTEM, 3], 4)
        assert again.cached == len(SYSTEM)
        assert second.engine.restored_from_disk == 1, "what is resident is not read again"


@pytest.mark.parametrize("block", range(20))
async def test_restored_text_is_the_text_that_would_have_been_computed(tmp_path: Path, block: int) -> None:
    """Random conversations over three lives of a worker, with the pressure that drives prefixes to the shelf."""
    for seed in range(5 * block, 5 * block + 5):
        await _converse(random.Random(seed), tmp_path / str(seed))


async def _converse(rng: random.Random, folder: Path) -> None:
    split, cuttable, shelf = rng.random() < 0.5, rng.random() < 0.8, rng.choice([60, 400])
    adapters = rng.randrange(1, 3)
    stems = [[rng.randrange(50) for _ in range(rng.randrange(5, 40))] for _ in range(3)]
    told: list[Sequence] = []
    for _ in range(3):
        with run(folder, split=split, cuttable=cuttable, shelf=shelf, adapters=adapters) as life:
            for _ in range(4):
                prompts = [
                    [*(rng.choice([*stems, *(one.tokens[:60] for one in told)])), rng.randrange(50)]
                    for _ in range(rng.randrange(1, 4))
                ]
                counts = [rng.randrange(1, 20) for _ in prompts]
                asked = [rng.randrange(adapters) for _ in prompts]
                written = await asyncio.gather(*map(life.write, prompts, counts, asked))
                for sequence, prompt, count in zip(written, prompts, counts, strict=True):
                    assert sequence.tokens == alone(prompt, count, sequence.adapter)
                told += written
                if rng.random() < 0.3:
                    await asyncio.to_thread(life.keeper.write)


async def test_a_file_serves_its_own_adapter_alone(tmp_path: Path) -> None:
    with run(tmp_path, adapters=2) as first:
        await first.write([*SYSTEM, 1], 4, adapter=1)
    with run(tmp_path, adapters=2) as second:
        other = await second.write([*SYSTEM, 2], 4)
        own = await second.write([*SYSTEM, 2], 4, adapter=1)
    assert (other.cached, own.cached) == (0, len(SYSTEM))
    assert other.tokens == alone([*SYSTEM, 2], 4)
    assert own.tokens == alone([*SYSTEM, 2], 4, 1)


async def test_a_file_is_read_once_for_all_who_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run(tmp_path) as first:
        await first.write([*SYSTEM, 1], 1)
    reads = 0
    load = PrefixArchive.load

    def counted(self: PrefixArchive, entry: int) -> object:
        nonlocal reads
        reads += 1
        return load(self, entry)

    monkeypatch.setattr(PrefixArchive, "load", counted)
    with run(tmp_path) as second:
        warm = await asyncio.gather(*(second.write([*SYSTEM, n], 1) for n in range(5)))
    assert [sequence.cached for sequence in warm] == [len(SYSTEM)] * 5
    assert reads == 1


async def test_a_damaged_file_costs_nothing_but_the_time_it_would_have_saved(tmp_path: Path) -> None:
    with run(tmp_path) as first:
        await first.write([*SYSTEM, 1], 1)
    with run(tmp_path) as second:
        path = damage_the_last_byte(tmp_path)
        sequence = await second.write([*SYSTEM, 2], 4)
        assert sequence.cached == 0
        assert sequence.tokens == alone([*SYSTEM, 2], 4)
        assert path not in files(tmp_path)


async def test_who_hangs_up_while_a_file_is_read_does_not_end_it_for_others(tmp_path: Path) -> None:
    with run(tmp_path) as first:
        await first.write([*SYSTEM, 1], 1)
    with run(tmp_path) as second:
        leaving = asyncio.create_task(second.keeper.bring([*SYSTEM, 2]))
        staying = asyncio.create_task(second.write([*SYSTEM, 3], 1))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).cached == len(SYSTEM)


async def test_what_many_requests_share_is_written_once(tmp_path: Path) -> None:
    with run(tmp_path) as one:
        for n in range(4):
            await one.write([*SYSTEM, n, n], 2)
    assert len(files(tmp_path)) == 1


async def test_a_conversation_is_written_again_when_it_has_grown_by_a_third(tmp_path: Path) -> None:
    with run(tmp_path) as one:
        turn = await one.write([*SYSTEM, 1], 2)
        await asyncio.to_thread(one.keeper.write)
        (first,) = files(tmp_path)
        turn = await one.write([*turn.tokens, 5], 3)
        await asyncio.to_thread(one.keeper.write)
        assert files(tmp_path) == [first]
        await one.write([*turn.tokens, 5], 20)
        await asyncio.to_thread(one.keeper.write)
        (second,) = files(tmp_path)
        assert second != first


async def test_what_is_short_is_not_written(tmp_path: Path) -> None:
    with run(tmp_path) as one:
        await one.write([1, 2, 3], 2)
    assert files(tmp_path) == []


async def test_what_is_used_most_is_written_first(tmp_path: Path) -> None:
    with run(tmp_path) as one:
        for n in range(4):
            await one.write([*SYSTEM[:20], n], 1)
        await one.write([n % 7 for n in range(30)], 1)
        ranked = one.engine.call(one.scheduler.cache.worth_archiving).result(5)
    tokens, adapter = ranked[0]
    assert (tokens[:20], adapter) == (SYSTEM[:20], 0)


async def test_writing_stops_when_there_is_something_to_compute(tmp_path: Path) -> None:
    with run(tmp_path) as one:
        await one.write([*SYSTEM, 1], 1)
        await asyncio.to_thread(one.keeper.write, lambda: False)
        assert files(tmp_path) == []


def test_a_saved_state_needs_cells_for_all_of_it_before_it_is_cut() -> None:
    cache = UnifiedCache(Limits(2, 4, 64, 64, shelf=100, worth_saving=10))
    long = list(range(50))
    cache.keep(long, runner_state(long))
    busy, _ = cache.admit([60, 61])
    cache.extend(busy, [60] * 30)
    cache.take_operations()
    _, cached = cache.admit([*long[:20], 63])
    assert cached == 0
    assert not any(isinstance(operation, Restore) for operation in cache.take_operations())


def runner_state(tokens: list[int]) -> npt.NDArray[np.uint8]:
    runner = FakeRunner(1, 64, BATCH)
    runner.saved[0] = tokens
    return runner.saved_state(0)


class TestUses:
    def test_a_sequence_counts_what_went_on_from_any_of_its_prefixes(self) -> None:
        uses = PrefixUses()
        for prefix in ([1, 2], [1, 2], [1, 2, 3], [2, 2], [1, 2, 3, 4, 5]):
            uses.note(prefix)
        assert uses.of([1, 2, 3, 4]) == 3
        assert uses.of([1]) == 0
        assert uses.of([2, 2, 9]) == 1

    def test_only_the_latest_prefixes_are_remembered(self) -> None:
        uses = PrefixUses()
        uses.note([1])
        for number in range(2000):
            uses.note([2, number])
        assert uses.of([1, 1]) == 0
        assert uses.of([2, 1999]) == 1
