"""`state.db`: what loads took, how fast models ran, which settings were the fastest. SQLite in the data directory.

Every method opens the file, works and closes it, and blocks: call it in a thread where an event loop runs. Several
processes may use it at once (write-ahead log). What is in it is worth a measurement and no more, so a file that is
damaged, or was written by a newer version, is put aside and begun anew.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import StartupFailed
from llmserve.planning.measurements import Knowledge, LoadMeasurement, RunMeasurement, TunedChoices
from llmserve.store.locks import locked
from llmserve.types import Engine, HardwareInfo, InstalledModel, ModelFormat, from_json, to_json

FILE_NAME = "state.db"
# Loads, and runs, remembered of one model on one machine.
KEPT = 20

_VERSION = 2
_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS load (
    id INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    model TEXT NOT NULL,
    build TEXT NOT NULL,
    measurement TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS load_of ON load (machine, model, build);
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    model TEXT NOT NULL,
    build TEXT NOT NULL,
    measurement TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS run_of ON run (machine, model, build);
CREATE TABLE IF NOT EXISTS tuned (
    machine TEXT NOT NULL,
    model TEXT NOT NULL,
    build TEXT NOT NULL,
    shape TEXT NOT NULL,
    choices TEXT NOT NULL,
    PRIMARY KEY (machine, model, build, shape)
);
"""
_UPGRADE = f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
_OF = "machine = ? AND model = ? AND build = ?"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What a measurement holds for: a machine, the digest of a model's file, and a build of an engine."""

    machine: str
    model: str
    build: str


def engine_for(model_format: ModelFormat) -> Engine:
    """The engine that runs models of this format."""
    return "llama.cpp" if model_format == "gguf" else "vllm"


def key_of(hardware: HardwareInfo, model: InstalledModel, engine: Engine) -> Key:
    """The key for `model` run by the installed `engine` on `hardware`."""
    info = next((info for info in hardware.engines if info.engine == engine), None)
    if info is None:
        return Key(fingerprint(hardware), model.sha256, f"{engine} none")
    facts = (engine, info.version or "unknown", ",".join(info.devices), ",".join(info.instruction_sets))
    return Key(fingerprint(hardware), model.sha256, " ".join(filter(None, facts)))


def fingerprint(hardware: HardwareInfo) -> str:
    """A digest of what makes a machine this machine: not what happens to be free, nor versions of drivers."""
    cpu, total = hardware.cpu, hardware.memory.total
    facts = (
        hardware.system,
        (cpu.architecture, cpu.model, cpu.physical_cores, cpu.usable_cpus, cpu.features),
        # The kernel keeps a different rest for itself after each update.
        None if total is None else round(total / 2**30),
        tuple((gpu.name, gpu.index, gpu.total_memory) for gpu in hardware.gpus),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


class StateDatabase:
    """The database at `path`, which is made when something is first written. Its directory must exist by then."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def in_home(cls, home: Path) -> StateDatabase:
        return cls(home / FILE_NAME)

    @property
    def path(self) -> Path:
        """Where it is, if anything was written yet."""
        return self._path

    def knowledge(self, key: Key) -> Knowledge:
        """Everything measured under `key`; nothing where there is no database, or it cannot be read."""
        if not self._path.exists():
            return Knowledge()
        place = (key.machine, key.model, key.build)
        try:
            with self._open() as database:
                loads = database.execute(f"SELECT measurement FROM load WHERE {_OF} ORDER BY id DESC", place)  # noqa: S608 - a constant
                tuned = database.execute(f"SELECT choices FROM tuned WHERE {_OF} ORDER BY shape", place)  # noqa: S608 - a constant
                runs = database.execute(f"SELECT measurement FROM run WHERE {_OF} ORDER BY id DESC", place)  # noqa: S608 - a constant
                return Knowledge(
                    loads=tuple(from_json(LoadMeasurement, text) for (text,) in loads),
                    tuned=tuple(from_json(TunedChoices, text) for (text,) in tuned),
                    runs=tuple(from_json(RunMeasurement, text) for (text,) in runs),
                )
        except (sqlite3.Error, ValueError) as error:
            logger.warning("what was measured on this machine cannot be read: %s", error)
            return Knowledge()

    def record_load(self, key: Key, load: LoadMeasurement) -> None:
        """Remember a load; the oldest of those under `key` are forgotten. A failure is logged and no more."""
        self._append("load", key, to_json(load))

    def record_run(self, key: Key, run: RunMeasurement) -> None:
        """Remember a run, as `record_load` does a load."""
        self._append("run", key, to_json(run))

    def _append(self, table: str, key: Key, measurement: str) -> None:
        place = (key.machine, key.model, key.build)
        self._write(
            (
                f"INSERT INTO {table} (machine, model, build, measurement) VALUES (?, ?, ?, ?)",  # noqa: S608
                (*place, measurement),
            ),
            (
                f"DELETE FROM {table} WHERE {_OF} AND id NOT IN "  # noqa: S608 - a constant
                f"(SELECT id FROM {table} WHERE {_OF} ORDER BY id DESC LIMIT {KEPT})",
                (*place, *place),
            ),
        )

    def record_tuned(self, key: Key, tuned: TunedChoices) -> None:
        """Remember the winner of one shape of load in place of an earlier one. Raises `StartupFailed` if it cannot."""
        statement = "INSERT OR REPLACE INTO tuned (machine, model, build, shape, choices) VALUES (?, ?, ?, ?, ?)"
        try:
            with self._open() as database, database:
                database.execute(statement, (key.machine, key.model, key.build, tuned.shape, to_json(tuned)))
        except (sqlite3.Error, OSError) as error:
            raise StartupFailed(f"what was measured cannot be kept in {FILE_NAME}: {error}") from error

    def forget(self, key: Key) -> None:
        """Forget everything measured under `key`."""
        place = (key.machine, key.model, key.build)
        self._write(*((f"DELETE FROM {table} WHERE {_OF}", place) for table in ("load", "run", "tuned")))  # noqa: S608

    def _write(self, *statements: tuple[str, tuple[str, ...]]) -> None:
        try:
            with self._open() as database, database:
                for statement, values in statements:
                    database.execute(statement, values)
        except (sqlite3.Error, OSError) as error:
            logger.warning("a measurement could not be kept: %s", error)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to a database of this version. Raises `sqlite3.Error` and `OSError`."""
        database = self._current()
        if database is None:
            with locked(self._path.with_suffix(".lock")):
                database = self._current()  # another may have made it meanwhile
                if database is None:
                    self._make_current()
                    database = _connect(self._path)
        with closing(database):
            database.execute("PRAGMA synchronous = NORMAL")
            yield database

    def _current(self) -> sqlite3.Connection | None:
        """A connection to the database, None where there is none of this version."""
        if not self._path.exists():
            return None
        database = _connect(self._path)
        try:
            is_current = _version(database) == _VERSION
        except sqlite3.OperationalError:
            is_current = True  # in use or not readable: the caller meets that too, and nothing is wrong with the file
        except sqlite3.DatabaseError:
            is_current = False
        if is_current:
            return database
        database.close()
        return None

    def _make_current(self) -> None:
        """Make the database, bring an older one up to date, put aside what is neither; one process at a time."""
        if self._path.exists():
            self._put_aside_if_unusable()
        if self._path.exists():
            with closing(_connect(self._path)) as database:
                database.executescript(_UPGRADE)
            return
        # Made whole under another name: of those who open one file at the same time and switch it to the write-ahead
        # log, SQLite turns some away at once, however long they are ready to wait.
        new = self._path.with_name(f"{FILE_NAME}.new")
        new.unlink(missing_ok=True)
        with closing(_connect(new)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_UPGRADE)
        new.replace(self._path)

    def _put_aside_if_unusable(self) -> None:
        try:
            with closing(_connect(self._path)) as database:
                if _version(database) <= _VERSION:
                    return
            why = "it was written by a newer version"
        except sqlite3.OperationalError:
            return
        except sqlite3.DatabaseError as error:
            why = str(error)
        logger.warning("%s is put aside and begun anew: %s", FILE_NAME, why)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        self._path.replace(self._path.with_name(f"{FILE_NAME}.unusable"))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS)


def _version(database: sqlite3.Connection) -> int:
    """Which version wrote the database. Raises `sqlite3.DatabaseError` for what is none, damaged tables among it."""
    # A SELECT, since a pragma alone reads no tables.
    return int(database.execute("SELECT user_version FROM pragma_user_version").fetchone()[0])
