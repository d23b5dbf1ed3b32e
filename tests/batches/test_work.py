"""Lines on their way: how many at once, asked again how often, and what is kept when somebody ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llmserve.batches import work
from llmserve.batches.answers import Answer, Reply, answer_to
from llmserve.batches.journal import Journal
from llmserve.batches.lines import InputLine
from llmserve.batches.work import Work
from tests.batches.makers import line, reply


class Server:
    """Answers with what `script` has for a line, one after the other, and then 200, when `door` is open."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.out = 0
        self.most_out = 0
        self.script: dict[int, list[Reply | Exception]] = {}
        self.door = asyncio.Event()
        self.door.set()
        self.held: set[int] = set()

    async def ask(self, line: InputLine) -> Reply:
        self.asked.append(line.number)
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await asyncio.sleep(0)
            if line.number in self.held:
                await self.door.wait()
            scripted = self.script.get(line.number, [])
            answer = scripted.pop(0) if scripted else reply(text=f"answer {line.number}")
        finally:
            self.out -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", "key")


@pytest.fixture(autouse=True)
async def closed(journal: Journal) -> AsyncIterator[None]:
    yield
    journal.close()


def lines(count: int) -> list[InputLine]:
    return [line(number) for number in range(1, count + 1)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (what it waits for has no event)
            await asyncio.sleep(0.001)


async def test_every_line_gets_its_answer_a_few_at_a_time(journal: Journal) -> None:
    server = Server()
    told: list[int] = []
    server.held, server.door = set(range(1, 21)), asyncio.Event()
    running = asyncio.create_task(
        Work(server.ask, journal, lambda: 3, lambda: told.append(len(journal))).run(lines(20))
    )
    await until(lambda: server.out == 3)
    server.door.set()
    await running
    assert (sorted(server.asked), server.most_out) == (list(range(1, 21)), 3)
    assert len(journal) == told[-1] == 20


async def test_what_is_answered_is_not_asked(journal: Journal) -> None:
    await Work(Server().ask, journal, lambda: 4).run(lines(5))
    server = Server()
    await Work(server.ask, journal, lambda: 4).run(lines(8))
    assert sorted(server.asked) == [6, 7, 8]


async def test_a_busy_server_is_asked_again_for_as_long_as_it_is(journal: Journal) -> None:
    server = Server()
    server.script = {1: [reply(429, retry_after=0.001), *[reply(503, retry_after=0.001)] * 5]}
    await Work(server.ask, journal, lambda: 2).run(lines(2))
    assert (server.asked.count(1), journal.completed, journal.failed) == (7, 2, 0)


async def test_a_line_that_kills_workers_is_given_up(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reply, "retry_seconds", lambda self, tries: 0 if self.status == 502 and tries < 3 else None)
    server = Server()
    server.script = {1: [reply(502)] * 5, 2: [reply(400)]}
    await Work(server.ask, journal, lambda: 2).run(lines(3))
    assert (server.asked.count(1), server.asked.count(2)) == (3, 1)
    assert (journal.completed, journal.failed) == (1, 2)


async def test_a_stream_is_refused_without_asking(journal: Journal) -> None:
    server = Server()
    await Work(server.ask, journal, lambda: 1).run([line(1, stream=True)])
    assert (server.asked, journal.failed) == ([], 1)


async def test_nothing_begins_while_others_need_the_room(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_LOOK_SECONDS", 0.001)
    server, places, looked = Server(), [2], []
    server.held, server.door = {1, 2}, asyncio.Event()
    running = asyncio.create_task(
        Work(server.ask, journal, lambda: looked.append(1) or places[0]).run(lines(4))  # type: ignore[func-returns-value]
    )
    await until(lambda: server.out == 2)
    places[0] = 0
    server.door.set()
    await until(lambda: len(journal) == 2)
    looked.clear()
    await until(lambda: len(looked) > 3)
    assert server.asked == [1, 2]
    places[0] = 1
    await running
    assert len(journal) == 4


async def test_who_ends_it_keeps_what_has_come(journal: Journal) -> None:
    server = Server()
    server.held, server.door = {3}, asyncio.Event()
    running = asyncio.create_task(Work(server.ask, journal, lambda: 3).run(lines(3)))
    await until(lambda: server.out == 1 and len(server.asked) == 3)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert (server.out, [number in journal for number in (1, 2, 3)]) == (0, [True, True, False])


async def test_an_answer_that_is_being_written_down_is_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slowly(line: InputLine, reply: Reply) -> Answer:
        writing.set()
        assert go_on.wait(20)
        return answer_to(line, reply)

    monkeypatch.setattr(work, "answer_to", slowly)
    running = asyncio.create_task(Work(Server().ask, journal, lambda: 1).run(lines(2)))
    await until(writing.is_set)
    running.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.wait({running})
    assert (running.cancelled(), 1 in journal, 2 in journal) == (True, True, False)


async def test_what_the_server_raises_ends_it_and_the_rest_is_kept(journal: Journal) -> None:
    server = Server()
    server.held, server.door = {2}, asyncio.Event()
    server.script = {2: [RuntimeError("gone")]}
    running = asyncio.create_task(Work(server.ask, journal, lambda: 3).run(lines(3)))
    await until(lambda: len(journal) == 2)
    server.door.set()
    with pytest.raises(RuntimeError, match="gone"):
        await running
    assert [number in journal for number in (1, 2, 3)] == [True, False, True]


async def test_a_disk_that_fails_ends_it(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(answers: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(journal, "add", full)
    server = Server()
    with pytest.raises(OSError, match="no room"):
        await Work(server.ask, journal, lambda: 2).run(lines(9))
    assert server.out == 0
