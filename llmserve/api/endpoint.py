"""An endpoint as an ASGI application.

Starlette's own wrapper around endpoints puts a `send` of its own between response and server, to know whether the
response has started when it looks for an exception's handler. There are none here, errors are the envelope's; and who
holds the outermost `send` may write without it (`body_writer.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Endpoint:
    """Calls `function` with the request, and sends the response that it returns with the `send` it was given."""

    def __init__(self, function: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._function(Request(scope, receive, send))
        await response(scope, receive, send)


def unwrapped(route: Route) -> Route:
    """`route` without Starlette's wrapper around its endpoint, which is a coroutine function."""
    route.app = Endpoint(route.endpoint)
    return route
