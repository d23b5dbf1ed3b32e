"""What is measured is found again under the same key, by other processes too, and a bad file does no harm."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.planning.measurements import Choices, DeviceBytes, Knowledge, LoadMeasurement, TunedChoices
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.state.database import KEPT, Key, StateDatabase, fingerprint, key_of
from llmserve.store.locks import locked
from llmserve.types import InstalledModel, LoadShape
from tests.planning.machines import machine
from tests.planning.models import SMOLLM2_135M

KEY = Key("machine", "model", "build")
PLAN = plan(machine("laptop_no_gpu"), SMOLLM2_135M, Settings())


def load(size: int) -> LoadMeasurement:
    return LoadMeasurement(PLAN.memory, (DeviceBytes("ram", size),), 1.5)


def tuned(shape: LoadShape, speed: float = 100.0) -> TunedChoices:
    return TunedChoices(shape, 16, Choices.of(PLAN), speed, 90.0)


@pytest.fixture
def database(tmp_path: Path) -> StateDatabase:
    return StateDatabase.in_home(tmp_path)


def test_nothing_is_known_and_nothing_is_made_at_first(database: StateDatabase, tmp_path: Path) -> None:
    assert database.knowledge(KEY) == Knowledge()
    assert list(tmp_path.iterdir()) == []


def test_what_was_recorded_is_found_again_latest_first(database: StateDatabase, tmp_path: Path) -> None:
    database.record_load(KEY, load(1))
    database.record_load(KEY, load(2))
    database.record_tuned(KEY, tuned("one-user"))
    again = StateDatabase.in_home(tmp_path).knowledge(KEY)
    assert again == Knowledge(loads=(load(2), load(1)), tuned=(tuned("one-user"),))


@pytest.mark.parametrize(
    "other", [Key("x", "model", "build"), Key("machine", "x", "build"), Key("machine", "model", "x")]
)
def test_another_machine_model_or_build_knows_nothing_of_it(database: StateDatabase, other: Key) -> None:
    database.record_load(KEY, load(1))
    database.record_tuned(KEY, tuned("one-user"))
    assert database.knowledge(other) == Knowledge()


def alter(path: Path, *statements: str) -> None:
    """Do to the database what no `StateDatabase` does."""
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_old_loads_are_forgotten_and_a_new_winner_takes_the_place_of_the_last(database: StateDatabase) -> None:
    for size in range(KEPT + 5):
        database.record_load(KEY, load(size))
    database.record_tuned(KEY, tuned("many-users", 100))
    database.record_tuned(KEY, tuned("many-users", 200))
    known = database.knowledge(KEY)
    assert [entry.taken[0].bytes for entry in known.loads] == list(range(KEPT + 4, 4, -1))
    assert known.tuned == (tuned("many-users", 200),)


def test_forget(database: StateDatabase) -> None:
    other = Key("machine", "other", "build")
    for key in (KEY, other):
        database.record_load(key, load(1))
        database.record_tuned(key, tuned("one-user"))
    database.forget(KEY)
    assert database.knowledge(KEY) == Knowledge()
    assert database.knowledge(other).loads


def test_many_write_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        StateDatabase.in_home(tmp_path).record_load(Key("machine", str(number), "build"), load(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(16)))
    database = StateDatabase.in_home(tmp_path)
    kept = [database.knowledge(Key("machine", str(number), "build")).loads for number in range(16)]
    assert kept == [(load(number),) for number in range(16)]


def test_a_database_that_another_is_making_is_waited_for(database: StateDatabase, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    StateDatabase.in_home(elsewhere).record_load(KEY, load(1))
    with ThreadPoolExecutor(1) as threads:
        with locked(tmp_path / "state.lock"):
            written = threads.submit(database.record_load, KEY, load(2))
            (elsewhere / "state.db").replace(tmp_path / "state.db")
        written.result()
    assert database.knowledge(KEY).loads == (load(2), load(1))


def test_a_damaged_file_is_put_aside(database: StateDatabase, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database" * 100)
    assert database.knowledge(KEY) == Knowledge()
    database.record_load(KEY, load(1))
    assert database.knowledge(KEY).loads == (load(1),)
    assert (tmp_path / "state.db.unusable").read_bytes().startswith(b"this is no database")


def test_so_is_one_whose_tables_make_no_sense(database: StateDatabase, tmp_path: Path) -> None:
    database.record_load(KEY, load(1))
    alter(
        tmp_path / "state.db",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'nonsense' WHERE name = 'load'",
    )
    database.record_load(KEY, load(2))
    assert database.knowledge(KEY).loads == (load(2),)
    assert (tmp_path / "state.db.unusable").exists()


def test_so_is_one_of_a_newer_version(database: StateDatabase, tmp_path: Path) -> None:
    alter(tmp_path / "state.db", "PRAGMA user_version = 99", "CREATE TABLE load (other TEXT)")
    database.record_load(KEY, load(1))
    assert database.knowledge(KEY).loads == (load(1),)
    assert (tmp_path / "state.db.unusable").exists()


def test_one_of_an_older_version_is_brought_up_to_date(database: StateDatabase, tmp_path: Path) -> None:
    database.record_load(KEY, load(1))
    alter(tmp_path / "state.db", "PRAGMA user_version = 1", "DROP TABLE run")
    database.record_load(KEY, load(2))
    assert database.knowledge(KEY) == Knowledge(loads=(load(2), load(1)))


def test_one_that_is_in_use_is_not_put_aside(
    database: StateDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.record_load(KEY, load(1))
    monkeypatch.setattr("llmserve.state.database._BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(tmp_path / "state.db")) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        database.record_load(KEY, load(2))
        assert database.knowledge(KEY) == Knowledge()
    assert database.knowledge(KEY).loads == (load(1),)


def test_each_use_opens_the_file_once(database: StateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    connect = sqlite3.connect

    def counted(path: Path, timeout: float) -> sqlite3.Connection:
        opened.append(path)
        return connect(path, timeout=timeout)

    database.record_load(KEY, load(1))
    monkeypatch.setattr(sqlite3, "connect", counted)
    assert database.knowledge(KEY).loads == (load(1),)
    assert opened == [database.path]
    database.record_load(KEY, load(2))
    database.record_tuned(KEY, tuned("one-user"))
    assert opened == [database.path] * 3


def test_a_row_that_makes_no_sense_costs_what_is_known_and_no_more(database: StateDatabase, tmp_path: Path) -> None:
    database.record_load(KEY, load(1))
    alter(tmp_path / "state.db", "UPDATE load SET measurement = '{}'")
    assert database.knowledge(KEY) == Knowledge()


def test_where_nothing_can_be_written_nothing_is_raised(tmp_path: Path) -> None:
    database = StateDatabase.in_home(tmp_path / "missing")
    database.record_load(KEY, load(1))
    assert database.knowledge(KEY) == Knowledge()


def test_the_fingerprint_is_that_of_the_machine_and_not_of_the_moment() -> None:
    hardware = machine("rtx_3060_12gb")
    gpu = hardware.gpus[0]
    busy = replace(
        hardware,
        memory=replace(hardware.memory, available=1),
        gpus=(replace(gpu, free_memory=1, driver_version="999.9"),),
        notes=(),
    )
    assert fingerprint(busy) == fingerprint(hardware)
    assert fingerprint(replace(hardware, gpus=())) != fingerprint(hardware)
    assert fingerprint(machine("rtx_4090_24gb")) != fingerprint(hardware)


def test_the_key_names_the_build() -> None:
    model = InstalledModel("m", (), "gguf", "Q4_0", "/m.gguf", 1, "digest", "file:/m.gguf", 0.0)
    key = key_of(machine("rtx_3060_12gb"), model, "llama.cpp")
    assert (key.model, key.build) == ("digest", "llama.cpp 0.3.36 cuda,cpu")
    hardware = machine("rtx_3090_engine_cpu_only")
    assert key_of(hardware, model, "llama.cpp").build == "llama.cpp 0.3.36 cpu"
    native = replace(
        hardware, engines=tuple(replace(one, instruction_sets=("avx2", "fma")) for one in hardware.engines)
    )
    assert key_of(native, model, "llama.cpp").build == "llama.cpp 0.3.36 cpu avx2,fma"
