"""Responses on the disk: what is kept, for how long, and how much of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmserve.api.response_store import Bounds, KeptResponse, ResponseStore
from llmserve.errors import InvalidRequest, NotFound


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def kept(id: str, previous: str | None = None, text: str = "x") -> KeptResponse:
    response: dict[str, Any] = {
        "id": id,
        "previous_response_id": previous,
        "output": [{"id": f"out {id}", "text": text}],
    }
    return KeptResponse(response, [{"id": f"in {id}"}])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ResponseStore]:
    store = ResponseStore(tmp_path / "sub" / "responses.db", Bounds(100, 3, 10_000, 2), Clock())
    yield store
    await store.close()


async def test_what_is_kept_is_found_and_replaced(store: ResponseStore) -> None:
    await store.keep(kept("a"))
    await store.keep(kept("a", text="y"))
    assert await store.find("a") == kept("a", text="y")
    await store.delete("a")
    for missing in (store.find("a"), store.delete("a")):
        with pytest.raises(NotFound):
            await missing


async def test_nobody_else_can_read_the_file(store: ResponseStore, tmp_path: Path) -> None:
    await store.keep(kept("a"))
    assert (tmp_path / "sub" / "responses.db").stat().st_mode & 0o077 == 0


async def test_it_survives_the_process(store: ResponseStore, tmp_path: Path) -> None:
    await store.keep(kept("a"))
    await store.close()
    again = ResponseStore(tmp_path / "sub" / "responses.db", clock=Clock())
    assert await again.find("a") == kept("a")
    await again.close()


async def test_a_conversation_is_in_order(store: ResponseStore) -> None:
    await store.keep(kept("a"))
    await store.keep(kept("b", "a"))
    assert [item["id"] for item in await store.conversation("b")] == ["in a", "out a", "in b", "out b"]
    await store.keep(kept("c", "b"))
    with pytest.raises(InvalidRequest, match="longer than 2"):
        await store.conversation("c")
    await store.delete("a")
    with pytest.raises(NotFound):
        await store.conversation("b")


async def test_what_is_old_goes(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.keep(kept("a"))
    monkeypatch.setattr(Clock, "seconds", 1101.0)
    with pytest.raises(NotFound):
        await store.find("a")


async def test_the_oldest_go_when_there_are_too_many(store: ResponseStore) -> None:
    for id in "abcde":
        await store.keep(kept(id))
    assert await store.find("c") == kept("c")
    with pytest.raises(NotFound):
        await store.find("b")


async def test_the_oldest_go_when_they_are_too_large(store: ResponseStore) -> None:
    await store.keep(kept("a"))
    await store.keep(kept("b", text="x" * 20_000))
    assert (await store.find("b")).response["id"] == "b"
    with pytest.raises(NotFound):
        await store.find("a")
