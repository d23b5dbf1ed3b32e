"""Which server a command talks to: the one that runs already, or for an answer one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from llmserve import __version__
from llmserve.cli.terminal import warn
from llmserve.errors import Unavailable
from llmserve.settings import DEFAULT_HOST, DEFAULT_PORT, Settings

if TYPE_CHECKING:
    from llmserve.client import Gateway

# A server on this machine answers /health in milliseconds; one that takes longer is no better than none.
_HEALTH_SECONDS = 2.0


def gateway_at(settings: Settings) -> Gateway:
    """A client for the address in the settings; nothing is sent yet."""
    from llmserve.client import Gateway

    if settings.uds is not None:
        return Gateway.unix(settings.uds, api_key=settings.api_key)
    host = DEFAULT_HOST if settings.host is None else settings.host
    port = DEFAULT_PORT if settings.port is None else settings.port
    return Gateway.tcp(host, port, api_key=settings.api_key)


@contextmanager
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    """The server that runs at the address in the settings. Raises `Unavailable` where none does."""
    with gateway_at(settings) as gateway:
        health = gateway.health(timeout=_HEALTH_SECONDS)
        if health.version != __version__:
            warn(f"the server at {gateway.address} is llmserve {health.version}, this is {__version__}")
        yield gateway


@contextmanager
def any_gateway(settings: Settings) -> Iterator[Gateway]:
    """The running server, or else a private one that lives as long as the block."""
    from llmserve.cli.private import private_gateway

    with ExitStack() as stack:
        try:
            gateway = stack.enter_context(running_gateway(settings))
        except Unavailable:
            gateway = stack.enter_context(private_gateway(settings))
        yield gateway
