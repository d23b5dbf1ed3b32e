"""Work that is told as lines of JSON while it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from starlette.types import Receive, Scope, Send

from llmserve.api.envelope import REQUEST_ID, as_answer
from llmserve.api.replies import json_headers
from llmserve.api.tasks import until_hang_up
from llmserve.openai.json import dump_json

Tell: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
Work: TypeAlias = Callable[[Tell], Awaitable[None]]
ErrorLine: TypeAlias = Callable[[Mapping[str, Any]], bytes]


class LineStream:
    """An ASGI response: the lines that `work` tells or, where it is not `streamed`, only the last of them.

    What fails before the first line is sent is raised, and so a real status; later it is a line that `error_line` makes
    of OpenAI's error fields. A client that hangs up cancels the work.
    """

    def __init__(self, work: Work, error_line: ErrorLine, *, streamed: bool) -> None:
        self._work = work
        self._error_line = error_line
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._lines(send, scope["state"][REQUEST_ID]) if self._streamed else self._last_line(send)
        await until_hang_up(receive, answer)

    async def _lines(self, send: Send, request_id: str) -> None:
        started = False

        async def tell(line: Mapping[str, Any]) -> None:
            nonlocal started
            if not started:
                started = True
                headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": dump_json(line) + b"\n", "more_body": True})

        last = b""
        try:
            await self._work(tell)
        except Exception as error:
            if not started:
                raise
            last = self._error_line(as_answer(error, request_id).body()["error"]) + b"\n"
        await send({"type": "http.response.body", "body": last})

    async def _last_line(self, send: Send) -> None:
        last: Mapping[str, Any] = {}

        async def tell(line: Mapping[str, Any]) -> None:
            nonlocal last
            last = line

        await self._work(tell)
        body = dump_json(last)
        await send({"type": "http.response.start", "status": 200, "headers": json_headers(body)})
        await send({"type": "http.response.body", "body": body})
