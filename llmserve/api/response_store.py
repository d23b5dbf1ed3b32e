"""Responses that are kept: a table in SQLite, used from one thread of its own and never from the event loop."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmserve.errors import InvalidRequest, NotFound
from llmserve.openai.json import dump_json

T = TypeVar("T")

FILE_NAME = "responses.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    kept_at REAL NOT NULL,
    previous_id TEXT,
    response BLOB NOT NULL,
    input BLOB NOT NULL,
    size_bytes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (kept_at);
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: what is older goes, then the oldest until the rest is within the other bounds.

    `turns` is how many responses one conversation may go back.
    """

    seconds: float = 30 * 86_400.0
    responses: int = 10_000
    size_bytes: int = 512 * 1024 * 1024
    turns: int = 1024


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response as the API shows it, and the items that were its input."""

    response: dict[str, Any]
    input: list[dict[str, Any]]


class ResponseStore:
    """The responses in the file at `path`, which the first use makes. Use it on the event loop; `close` it once."""

    def __init__(self, path: Path, bounds: Bounds | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="responses")
        self._opened: sqlite3.Connection | None = None

    async def keep(self, kept: KeptResponse) -> None:
        """Keep a response, in place of one with its id. Raises `sqlite3.Error` where the disk does not take it."""
        await self._in_thread(lambda: self._keep(kept))

    async def find(self, id: str) -> KeptResponse:
        """Raises `NotFound`."""
        return await self._in_thread(lambda: self._find(id))

    async def conversation(self, id: str) -> list[dict[str, Any]]:
        """The items of the response and of all it went on from, the oldest first. Raises `NotFound`."""
        return await self._in_thread(lambda: self._conversation(id))

    async def delete(self, id: str) -> None:
        """Raises `NotFound`."""
        await self._in_thread(lambda: self._delete(id))

    async def close(self) -> None:
        """Harmless when repeated."""
        if self._opened is not None:
            await self._in_thread(self._opened.close)
            self._opened = None
        self._thread.shutdown(wait=False)

    # --- in the thread ---

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            # Closed by another task of the event loop, but always in this thread.
            self._opened = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
            self._opened.execute("PRAGMA journal_mode = WAL")
            self._opened.execute("PRAGMA synchronous = NORMAL")
            self._opened.executescript(_SCHEMA)
        return self._opened

    def _keep(self, kept: KeptResponse) -> None:
        response, items = dump_json(kept.response), dump_json(kept.input)
        row = (
            kept.response["id"],
            self._clock(),
            kept.response["previous_response_id"],
            response,
            items,
            len(response) + len(items),
        )
        connection = self._connection()
        connection.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?)", row)
        self._forget(connection)

    def _forget(self, connection: sqlite3.Connection) -> None:
        bounds = self._bounds
        connection.execute("DELETE FROM responses WHERE kept_at < ?", (self._clock() - bounds.seconds,))
        count, size = connection.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM responses").fetchone()
        while count > bounds.responses or (size > bounds.size_bytes and count > 1):
            oldest, freed = connection.execute(
                "SELECT id, size_bytes FROM responses ORDER BY kept_at, rowid LIMIT 1"
            ).fetchone()
            connection.execute("DELETE FROM responses WHERE id = ?", (oldest,))
            count, size = count - 1, size - freed

    def _find(self, id: str) -> KeptResponse:
        with closing(
            self._connection().execute(
                "SELECT response, input FROM responses WHERE id = ? AND kept_at >= ?",
                (id, self._clock() - self._bounds.seconds),
            )
        ) as rows:
            row = rows.fetchone()
        if row is None:
            raise not_found()
        return KeptResponse(json.loads(row[0]), json.loads(row[1]))

    def _conversation(self, id: str) -> list[dict[str, Any]]:
        turns: list[list[dict[str, Any]]] = []
        following: str | None = id
        while following is not None:
            if len(turns) == self._bounds.turns:
                raise InvalidRequest(
                    f"the conversation is longer than {self._bounds.turns} responses", param="previous_response_id"
                )
            kept = self._find(following)
            turns.append([*kept.input, *kept.response["output"]])
            following = kept.response["previous_response_id"]
        return [item for turn in reversed(turns) for item in turn]

    def _delete(self, id: str) -> None:
        if self._connection().execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount == 0:
            raise not_found()


def not_found() -> NotFound:
    """There is no such response, or no longer."""
    return NotFound("there is no response with this id, or it is not kept any more", code="response_not_found")
