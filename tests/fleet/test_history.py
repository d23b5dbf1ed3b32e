"""What loads took and how fast models ran is kept, and later loads are planned with it and with what was tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmserve.fleet.history import History
from llmserve.fleet.record import Instance
from llmserve.planning.measurements import Choices, DeviceBytes, Knowledge, RunMeasurement, TunedChoices
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.state.database import Key, StateDatabase, key_of
from llmserve.types import Device, EnginePlan, HardwareInfo, InstalledModel
from tests.fleet.fakes import GIB, World, until
from tests.planning.machines import machine, with_engines, with_free_gpu_memory, with_ram
from tests.planning.models import LLAMA31_8B, LLAMA31_8B_BF16, SMOLLM2_135M

MODEL = InstalledModel("m", (), "gguf", "Q4_0", "/m", 1, "digest", "file:/m", 0.0)
KEY = Key("machine", "digest", "build")


@pytest.fixture
def database(tmp_path: Path) -> StateDatabase:
    return StateDatabase.in_home(tmp_path)


def instance(decided: EnginePlan, *, resident_bytes: int | None = None, **counts: float) -> Instance:
    worker: Any = None
    made = Instance(MODEL, decided, worker, key=KEY, load_seconds=2.5, resident_bytes=resident_bytes)
    if counts:
        made.speed.note(0, counts)
    return made


def on_gpu() -> tuple[HardwareInfo, EnginePlan]:
    hardware = machine("rtx_3060_12gb")
    return hardware, plan(hardware, LLAMA31_8B, Settings())


def test_a_load_is_kept_with_what_it_took_of_each_device(database: StateDatabase) -> None:
    hardware, decided = on_gpu()
    free = hardware.gpus[0].free_memory or 0
    History(database).note_load(instance(decided, resident_bytes=3 * GIB), with_free_gpu_memory(hardware, free - GIB))
    (load,) = database.knowledge(KEY).loads
    assert load.taken == (DeviceBytes("ram", 3 * GIB), DeviceBytes("cuda:0", GIB))
    assert (load.estimated, load.load_seconds) == (decided.memory, 2.5)


def test_a_split_cache_is_not_expected_to_be_open_as_a_whole(database: StateDatabase) -> None:
    hardware = machine("xeon_amx")
    decided = plan(hardware, SMOLLM2_135M, Settings())
    ram = decided.memory[0]
    assert (decided.kv_layout, decided.first_streams, decided.parallel) == ("split", 2, 16)
    expected = ram.weights + ram.kv_cache // 8 + ram.compute + ram.overhead
    History(database).note_load(instance(decided, resident_bytes=expected + 7 * 2**20), hardware)
    assert database.knowledge(KEY).correction("ram") == 7 * 2**20


@pytest.mark.parametrize(("built_for", "device"), [("cuda", "cuda:0"), ("cpu", "ram")])
def test_a_load_of_vllm_corrects_the_next_plan(database: StateDatabase, built_for: Device, device: str) -> None:
    hardware = with_ram(with_engines(machine("a100_80gb_x2"), llama=["cpu"], vllm=[built_for]), 52 * GIB)
    free = hardware.gpus[0].free_memory or 0
    decided = plan(hardware, LLAMA31_8B_BF16, Settings())
    planned = {entry.device: entry.total for entry in decided.memory}
    extra = GIB
    after = with_free_gpu_memory(hardware, free - planned.get("cuda:0", 0) - extra, hardware.gpus[1].free_memory)
    History(database).note_load(instance(decided, resident_bytes=planned["ram"] + extra), after)
    again = plan(hardware, LLAMA31_8B_BF16, Settings(), database.knowledge(KEY))
    corrected = next(entry for entry in again.memory if entry.device == device)
    assert corrected.correction == extra
    # The pool makes room for what was missing.
    assert again.kv_cells < decided.kv_cells
    assert again.fits


def test_where_nothing_is_told_nothing_is_kept(database: StateDatabase, tmp_path: Path) -> None:
    hardware, decided = on_gpu()
    History(database).note_load(instance(decided), hardware)
    History(database).note_run(instance(decided))
    History(database).note_run(instance(decided, steps=0, step_seconds=0.0, generated_tokens=0))
    assert database.knowledge(KEY) == Knowledge()


def test_a_run_is_kept_and_later_plans_tell_its_speed(database: StateDatabase) -> None:
    hardware, decided = on_gpu()
    run = instance(decided, steps=120, step_seconds=4.0, prompt_tokens=50, generated_tokens=300)
    History(database).note_run(run)
    known = database.knowledge(KEY)
    assert known.runs == (RunMeasurement(Choices.of(decided), decided.gpu_layers, 120, 4.0, 50, 300),)
    again = plan(hardware, LLAMA31_8B, Settings(), known)
    assert again.reason.endswith("; its latest runs here wrote 75 tokens per second")
    assert "latest runs" not in plan(hardware, LLAMA31_8B, Settings(gpu_layers=3), known).reason


def test_a_few_tokens_are_no_speed(database: StateDatabase) -> None:
    _, decided = on_gpu()
    History(database).note_run(instance(decided, steps=9, step_seconds=0.1, generated_tokens=9))
    assert database.knowledge(KEY).speed(decided) is None


# --- through the fleet ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept(world: World) -> StateDatabase:
    """The database of the world's fleet, which is made with it."""
    home = world.folder / "home"
    home.mkdir()
    database = StateDatabase.in_home(home)
    world.history = History(database)
    return database


def key(world: World) -> Key:
    return key_of(world.machine(), world.store.find("alpha"), "llama.cpp")


async def test_a_load_is_kept_when_it_has_ended(world: World, kept: StateDatabase) -> None:
    await world.load("alpha")
    await until(lambda: bool(kept.knowledge(key(world)).loads))
    (load,) = kept.knowledge(key(world)).loads
    (taken,) = load.taken
    assert taken.device == "ram"
    assert 2**20 < taken.bytes < GIB


async def test_what_a_worker_computed_is_kept_at_its_end(
    world: World, kept: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve.fleet.meter.POLL_SECONDS", 0.02)
    lease = await world.lease("alpha")
    prompt = json.dumps({"tokens": 150})
    answer = await lease.client.post("/v1/completions", json={"prompt": prompt, "stream": True})
    assert answer.status_code == 200
    world.clock.advance(1)
    lease.release()
    instance = world.fleet._registry.ready()[0]
    await until(lambda: instance.speed.counts.get("generated_tokens") == 150)
    await world.fleet.stop("alpha")
    await until(lambda: bool(kept.knowledge(key(world)).runs))
    (run,) = kept.knowledge(key(world)).runs
    assert (run.generated_tokens, run.steps, run.choices) == (150, 150, Choices.of(instance.plan))


async def test_a_load_takes_what_was_tuned(world: World, kept: StateDatabase) -> None:
    kept.record_tuned(key(world), TunedChoices("many-users", 16, Choices(threads=1, speculation=False), 120.0, 100.0))
    await world.load("alpha")
    plan = world.status("alpha").plan
    assert plan is not None
    assert (plan.threads, plan.speculation) == (1, False)
    assert "1 thread, no drafts: the fastest measured here for 16 users at once" in plan.reason


async def test_a_load_takes_nothing_of_another_model(world: World, kept: StateDatabase) -> None:
    place = key(world)
    for other in (
        Key("other", place.model, place.build),
        Key(place.machine, "other", place.build),
        Key(place.machine, place.model, "other"),
    ):
        kept.record_tuned(other, TunedChoices("many-users", 16, Choices(threads=1), 120.0, 100.0))
    await world.load("alpha")
    plan = world.status("alpha").plan
    assert plan is not None
    assert plan.threads == 2
