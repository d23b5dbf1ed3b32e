"""Where requests wait for a place: clients take turns. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

# The part of a queue that is too much for one client.
_CROWD = 4


class Waiting(Protocol):
    """What can wait: it belongs to a client, and may be one that has time."""

    @property
    def client(self) -> str: ...

    @property
    def background(self) -> bool: ...


E = TypeVar("E", bound=Waiting)


class FairQueue(Generic[E]):
    """Each client's entries in their order, one of each client in turn, background entries behind all others.

    So a client with a thousand requests delays another's next one by a single place.
    """

    def __init__(self) -> None:
        # By background or not, then by client; the client whose turn is next stands first.
        self._classes: tuple[dict[str, deque[E]], dict[str, deque[E]]] = ({}, {})

    def __len__(self) -> int:
        return sum(len(entries) for clients in self._classes for entries in clients.values())

    @property
    def in_foreground(self) -> int:
        """How many of them are not in the background; while there are any, the next is one of these."""
        return sum(len(entries) for entries in self._classes[0].values())

    def __iter__(self) -> Iterator[E]:
        for clients in self._classes:
            for entries in clients.values():
                yield from entries

    def add(self, entry: E) -> None:
        self._classes[entry.background].setdefault(entry.client, deque()).append(entry)

    def pop(self) -> E:
        """Take out whose turn it is. Raises `LookupError` when nobody waits."""
        clients = self._classes[0] or self._classes[1]
        client = next(iter(clients), None)
        if client is None:
            raise LookupError("nobody waits")
        entries = clients.pop(client)
        entry = entries.popleft()
        if entries:
            clients[client] = entries  # behind all others
        return entry

    def remove(self, entry: E) -> bool:
        """Take out `entry`; False if it does not wait."""
        clients = self._classes[entry.background]
        entries = clients.get(entry.client)
        if entries is None or entry not in entries:
            return False
        entries.remove(entry)
        if not entries:
            del clients[entry.client]
        return True

    def crowder(self, newcomer: E) -> E | None:
        """Whom `newcomer` may displace from a full queue: the latest entry of the client that crowds it.

        Anybody may displace what is in the background. Otherwise a client crowds the queue if more than a quarter of it
        is its own, and it would still have as many entries as the newcomer's client, so that two never displace each
        other in turn. None if nobody does: who has waited shall not be refused for a small difference.
        """
        if not newcomer.background and self._classes[1]:
            return max(self._classes[1].values(), key=len)[-1]
        clients = self._classes[newcomer.background]
        longest = max(clients.values(), key=len, default=None)
        own = len(clients.get(newcomer.client, ()))
        if longest is None or len(longest) <= own + 1 or _CROWD * len(longest) <= len(self):
            return None
        return longest[-1]
