"""Whose turn it is, and who makes way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.fleet.fair_queue import FairQueue


@dataclass(frozen=True)
class Entry:
    client: str
    number: int
    background: bool = False


def filled(*entries: Entry) -> FairQueue[Entry]:
    queue: FairQueue[Entry] = FairQueue()
    for entry in entries:
        queue.add(entry)
    return queue


def drained(queue: FairQueue[Entry]) -> list[Entry]:
    return [queue.pop() for _ in range(len(queue))]


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    flood = [Entry("flood", number) for number in range(4)]
    others = [Entry("one", 0), Entry("two", 0), Entry("one", 1)]
    order = drained(filled(*flood, *others))
    assert [entry.client for entry in order] == ["flood", "one", "two", "flood", "one", "flood", "flood"]
    assert [entry for entry in order if entry.client == "flood"] == flood


def test_a_client_that_comes_while_a_flood_is_served_is_next() -> None:
    queue = filled(*(Entry("flood", number) for number in range(1000)))
    queue.pop()
    queue.add(Entry("late", 0))
    assert [queue.pop().client for _ in range(2)] == ["flood", "late"]


def test_background_waits_for_all_others() -> None:
    queue = filled(Entry("batch", 0, background=True), Entry("person", 0), Entry("batch", 1))
    assert drained(queue) == [Entry("person", 0), Entry("batch", 1), Entry("batch", 0, background=True)]


def test_nobody_waits() -> None:
    with pytest.raises(LookupError):
        filled().pop()
    assert filled().remove(Entry("x", 0)) is False


@pytest.mark.parametrize(
    ("waiting", "newcomer", "displaced"),
    [
        pytest.param([Entry("a", 0), Entry("a", 1)], Entry("b", 0), Entry("a", 1), id="the latest of who crowds"),
        pytest.param([Entry("a", 0), Entry("b", 0)], Entry("c", 0), None, id="nobody crowds"),
        pytest.param([Entry("a", 0), Entry("a", 1), Entry("b", 0)], Entry("b", 1), None, id="it would have as many"),
        pytest.param([Entry("a", 0, True)], Entry("a", 1), Entry("a", 0, True), id="background makes way"),
        pytest.param([Entry("a", 0)] * 9, Entry("b", 0, True), None, id="and displaces nobody"),
        pytest.param([Entry(c, n) for c in "abcdefgh" for n in (0, 1)], Entry("z", 0), None, id="many with a few each"),
        pytest.param([], Entry("a", 0), None, id="nobody waits"),
    ],
)
def test_who_makes_way_in_a_full_queue(waiting: list[Entry], newcomer: Entry, displaced: Entry | None) -> None:
    assert filled(*waiting).crowder(newcomer) == displaced


ENTRIES = st.lists(st.builds(Entry, st.sampled_from("abc"), st.integers(0, 10**6), st.booleans()), unique=True)


@given(ENTRIES)
def test_what_goes_in_comes_out_once(entries: list[Entry]) -> None:
    queue = filled(*entries)
    assert set(queue) == set(entries)
    gone = entries[: len(entries) // 2]
    assert all(queue.remove(entry) for entry in gone)
    assert not any(queue.remove(entry) for entry in gone)
    assert sorted(drained(queue), key=str) == sorted(set(entries) - set(gone), key=str)


@given(ENTRIES)
def test_no_client_gets_two_turns_while_another_waits(entries: list[Entry]) -> None:
    queue = filled(*(entry for entry in entries if not entry.background))
    previous = None
    while len(queue):
        waiting = {entry.client for entry in queue}
        client = queue.pop().client
        assert client != previous or waiting == {client}
        previous = client
