"""Writing the pieces of a response's body without waiting for each.

An ASGI message for each piece costs a coroutine, a dictionary and the checks of every layer, several times what the
write itself does. So `GuardedProtocol` offers a way around as an extension in the scope; how a response starts and ends
stays a matter of ASGI messages. It is open only to who holds the outermost `send`: a layer that changes messages has to
see them all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from starlette.types import Scope, Send

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# The key of a `DirectWriter` in `scope["extensions"]`.
DIRECT_WRITER = "llmserve.direct_writer"


class BodyWriter(Protocol):
    """For one response without a Content-Length, between its start and its last message.

    Nothing here waits: ask `paused` after a write, and go on when `on_resume` is called.
    """

    on_resume: Callable[[], None] | None

    @property
    def paused(self) -> bool:
        """Whether the client reads more slowly than we write."""

    def write(self, piece: bytes) -> None:
        """Send `piece`, which is not empty; nothing if the client is gone. Raises what earlier pieces failed with."""

    async def flush(self) -> None:
        """Return when all pieces are handed to the connection. Raises what they failed with."""


def writer_for(scope: Scope, send: Send) -> BodyWriter:
    """The fastest writer that may stand for `send`."""
    direct: DirectWriter | None = scope.get("extensions", {}).get(DIRECT_WRITER)
    return direct if direct is not None and direct.stands_for == send else MessageWriter(send)


class DirectWriter:
    """Writes to the client's connection. `stands_for` is the `send` of the layer that only looks at starts."""

    def __init__(self, cycle: RequestResponseCycle, flow: FlowControl) -> None:
        self._cycle = cycle
        self._flow = flow
        self.stands_for: Send | None = None
        self.on_resume: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        return self._flow.write_paused

    def write(self, piece: bytes) -> None:
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def flush(self) -> None:
        """Nothing to do: what was written is on its way."""

    def resumed(self) -> None:
        """Called by the protocol when the client has read what waited."""
        if self.on_resume is not None:
            self.on_resume()


class MessageWriter:
    """Sends each piece as an ASGI message, in a task of its own."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pieces: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self.on_resume: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        return self._sending is not None

    def write(self, piece: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._pieces.append(piece)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def flush(self) -> None:
        if self._sending is not None:
            await asyncio.wait({self._sending})
        if self._failure is not None:
            raise self._failure

    async def _send_all(self) -> None:
        try:
            while self._pieces:
                await self._send({"type": "http.response.body", "body": self._pieces.popleft(), "more_body": True})
        except Exception as error:
            self._failure = error
        finally:
            self._sending = None
        if self.on_resume is not None:
            self.on_resume()
