"""Pulls for clients: one for each model however many ask, told to each as a stream of events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from llmserve.api.event_stream import EventStream
from llmserve.api.tasks import until_hang_up
from llmserve.errors import InvalidRequest, LlmserveError
from llmserve.openai import sse
from llmserve.settings import Settings

if TYPE_CHECKING:
    from llmserve.store.store import Store
    from llmserve.types import HardwareInfo, InstalledModel

Event = dict[str, Any]
Tell = Callable[[Event], Awaitable[None]]


class _Left(Exception):
    """Nobody listens to the pull any more."""


@dataclass(slots=True)
class _Pull:
    """A pull in progress. `latest` is its last event: who is slow misses those between, never the last."""

    task: asyncio.Task[InstalledModel] = field(init=False)
    latest: Event | None = None
    listeners: set[asyncio.Event] = field(default_factory=set)
    left: threading.Event = field(default_factory=threading.Event)

    def tell(self, event: Event | None = None) -> None:
        if event is not None:
            self.latest = event
        for listener in self.listeners:
            listener.set()


class Pulls:
    """The pulls of one gateway. Use it on its event loop only."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._running: dict[str, _Pull] = {}

    async def follow(self, name: str, tell: Tell) -> InstalledModel:
        """Pull `name`, or join the pull in progress, and `tell` each event. Raises what `Store.pull` raises.

        Who is cancelled leaves, and the last who leaves ends the pull; what came waits for the next. Paths and
        addresses are for the command line: a client must not make the server read its files or ask other hosts.
        """
        from llmserve.store.names import is_path, parse_url

        if is_path(name) or parse_url(name):
            raise InvalidRequest(
                "only names of the catalog, the Hub and PyPI can be pulled here",
                param="model",
                hint="`llmserve pull` takes paths and addresses too",
            )
        pull = self._running.get(name) or self._start(name)
        news = asyncio.Event()
        pull.listeners.add(news)
        told: Event | None = None
        try:
            while not pull.task.done():
                await news.wait()
                news.clear()
                if pull.latest is not None and pull.latest is not told:
                    told = pull.latest
                    await tell(told)
            return pull.task.result()
        finally:
            pull.listeners.discard(news)
            if not pull.listeners:
                pull.left.set()
                if self._running.get(name) is pull:
                    del self._running[name]

    def _start(self, name: str) -> _Pull:
        pull = self._running[name] = _Pull()
        loop = asyncio.get_running_loop()

        def report(event: Event) -> None:
            if pull.left.is_set():
                raise _Left
            loop.call_soon_threadsafe(pull.tell, event)

        def ended(task: asyncio.Task[InstalledModel]) -> None:
            if self._running.get(name) is pull:
                del self._running[name]
            if not task.cancelled():
                task.exception()  # seen, even where nobody is left to hear it
            pull.tell()

        pull.task = asyncio.create_task(asyncio.to_thread(self._pull, name, report))
        pull.task.add_done_callback(ended)
        return pull

    def _pull(self, name: str, report: Callable[[Event], None]) -> InstalledModel:
        """Blocking; `report` raises where nobody listens."""
        from llmserve.store.options import PullOptions

        @cache
        def machine() -> HardwareInfo:
            from llmserve.engines.machine import probe_for

            return probe_for(self._settings)

        options = PullOptions(machine=machine)
        if (choice := self._store.wanted(name, options).choice) is not None:
            report({"stage": "choosing", "option": choice.taken, "reason": choice.reason, "fits": choice.fits})
        return self._store.pull(name, lambda progress: report(_event(asdict(progress))), options)


class PullStream:
    """An ASGI response: the events of the pull of `name` as they come, the model in the last.

    What fails before the first event is a real status; later it is an error event.
    """

    def __init__(self, pulls: Pulls, name: str, keep_alive_seconds: float) -> None:
        self._pulls = pulls
        self._name = name
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_hang_up(receive, self._stream(scope, send))

    async def _stream(self, scope: Scope, send: Send) -> None:
        async with EventStream(scope, send, [], self._keep_alive_seconds) as stream:

            async def tell(event: Event) -> None:
                await stream.start()
                stream.write(sse.event(event))

            try:
                model = await self._pulls.follow(self._name, tell)
            except LlmserveError as error:
                if not stream.started:
                    raise
                await stream.end(sse.error_event(error))
                return
            await tell({"stage": "done", "model": asdict(model)})
            await stream.end(sse.DONE)


def _event(progress: dict[str, Any]) -> Event:
    """The event of a `PullProgress`, without what it does not say."""
    return {key: value for key, value in progress.items() if key != "free" or value is not None}
