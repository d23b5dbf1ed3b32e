"""`serve`: one gateway in one process, from the bound socket to the last worker's end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import uvicorn

from llmserve.api import listener
from llmserve.api.app import build_app
from llmserve.api.gateway import Gateway
from llmserve.api.limits import Limits
from llmserve.api.protocol import bounded
from llmserve.api.systemd import Notifier
from llmserve.settings import Settings

DRAIN_SECONDS = 30.0
# What is left to say once the workers are gone: error events, the ends of answers.
_FAREWELL_SECONDS = 3
_KEEP_ALIVE_SECONDS = 15


class Server(uvicorn.Server):
    """uvicorn's server, leaving the signals to `serve`: it would raise them again after a clean end.

    `on_started` is called when it accepts connections.
    """

    on_started: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_started is not None:
            self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, models: Sequence[str] = (), *, resumes_batches: bool = True) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Loads `models` in the background.

    `resumes_batches`: go on with the unfinished batches of earlier servers.

    The first signal drains: no new generation starts, running ones have `DRAIN_SECONDS`, then the workers end and the
    exit code is 0. A second signal ends everything at once, with 128 + its number.
    Raises `SettingsError` for an address off this machine without a key, `StartupFailed` when it cannot be bound.
    """
    from llmserve.api.logs import log_to_stderr

    addresses = listener.addresses(settings)
    exposed = [listener.check_exposure(address) for address in addresses]
    with ExitStack() as bound:
        socks = [bound.enter_context(listener.bound(address)) for address in addresses]
        log_to_stderr()
        if any(exposed):
            _say("warning: anybody on the network can use this server, because it has no API key")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(settings, models, socks, resumes_batches))


def make_server(gateway: Gateway) -> Server:
    """A server for `gateway`; the caller awaits `serve(sockets=[...])`. Raises `SettingsError`."""
    config = uvicorn.Config(
        build_app(gateway),
        http=bounded(gateway.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FAREWELL_SECONDS,
    )
    return Server(config)


async def _serve(
    settings: Settings, models: Sequence[str], socks: Sequence[socket.socket], resumes_batches: bool
) -> int:
    from llmserve.fleet.fleet import Fleet
    from llmserve.store.serving import serving_store

    store = serving_store(settings)
    fleet = Fleet(store, settings)
    gateway = Gateway(fleet, store, settings, Limits(), resumes_batches=resumes_batches)
    logging.getLogger().addHandler(gateway.problems)
    server = make_server(gateway)
    notifier = Notifier(os.environ)

    def started() -> None:
        # What is there by now stays. A collection that walks over it too, once in a thousand requests, stops every
        # stream for up to 80 ms.
        gc.freeze()
        notifier.ready()

    server.on_started = started
    stop = _Stop(gateway, server, notifier)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    gateway.preload(list(dict.fromkeys([*models, *fleet.rules.preloaded()])))
    first, *more = map(listener.shown_address, socks)
    _say(f"llmserve listens on {first}")
    for address in more:
        _say(f"Ollama's clients find it on {address}")
    try:
        await server.serve(sockets=list(socks))
    finally:
        await gateway.close()
        notifier.close()
    return stop.exit_code


class _Stop:
    """What a signal does: the first one drains, the second ends."""

    def __init__(self, gateway: Gateway, server: Server, notifier: Notifier) -> None:
        self.exit_code = 0
        self._notifier = notifier
        self._gateway = gateway
        self._server = server
        self._draining: asyncio.Task[None] | None = None

    def __call__(self, number: int) -> None:
        if self._draining is None:
            self._notifier.stopping()
            self._draining = asyncio.create_task(self._drain())
        else:
            self.exit_code = 128 + number
            self._server.should_exit = self._server.force_exit = True

    async def _drain(self) -> None:
        try:
            await self._gateway.drain(DRAIN_SECONDS)
        finally:
            self._server.should_exit = True


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (talk for the person who started the server)
