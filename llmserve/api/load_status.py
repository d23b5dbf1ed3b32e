"""What a stream tells of a model that is being loaded, to clients that ask for it with `X-LLMServe-Load-Status`.

`comments` are server-sent comments, which every parser drops. `events` are chunks without a choice, as the one with the
usage is, whose `event` Open WebUI shows under the model's name while it lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from starlette.types import Scope

from llmserve.errors import InvalidRequest
from llmserve.openai import sse

if TYPE_CHECKING:
    from llmserve.api.event_stream import EventStream
    from llmserve.api.gateway import Gateway
    from llmserve.api.upstream import Call
    from llmserve.fleet.status import ModelStatus

LoadStatusForm: TypeAlias = Literal["comments", "events"]

_HEADER = "X-LLMServe-Load-Status"
# Between two looks at the state of a load.
_LOOK_SECONDS = 0.5
_OBJECTS = {"/v1/chat/completions": "chat.completion.chunk", "/v1/completions": "text_completion"}


def read_form(scope: Scope) -> LoadStatusForm | None:
    """How the request of `scope` wants to be told; None where it does not. Raises `InvalidRequest`."""
    value = dict(scope["headers"]).get(_HEADER.lower().encode(), b"off")
    if value not in (b"off", b"comments", b"events"):
        raise InvalidRequest(f"{_HEADER} must be `off`, `comments` or `events`", param=_HEADER)
    return None if value == b"off" else cast("LoadStatusForm", value.decode())


def describe(status: ModelStatus | None, waited_seconds: float) -> str:
    """What a request has waited for so long whose model has this status."""
    waited = f"{waited_seconds:.0f} s"
    if status is None or status.state == "stopping":
        return f"queued, {waited}"
    if status.state == "ready":
        return "queued" if status.wait_seconds is None else f"queued, about {status.wait_seconds:.0f} s to go"
    if status.pid is None:
        # It has no worker yet: another model is loaded first, or memory is made free.
        return f"queued, {waited}"
    if status.phase is not None:
        return f"loading, {status.phase}"
    if status.progress is None:
        return f"starting the worker, {waited}"
    if status.progress >= 1:
        return f"warming up, {waited}"
    return f"loading weights, {status.progress:.0%}, {waited}"


class LoadStatus:
    """The news for one answer to `call`, in its form."""

    def __init__(self, gateway: Gateway, call: Call, form: LoadStatusForm) -> None:
        self._gateway = gateway
        self._call = call
        self._form = form
        self._began = time.perf_counter()
        self._told: str | None = None

    async def follow(self, stream: EventStream, opening: asyncio.Task[Any], waits: Callable[[], bool]) -> None:
        """Tell `stream` what `opening` waits for, as long as `waits` says so and `opening` has not ended."""
        model = self._gateway.own_name(self._call.model)
        while not opening.done():
            if waits():
                statuses = (status for status in self._gateway.fleet.status() if status.name == model)
                self._tell(stream, describe(next(statuses, None), time.perf_counter() - self._began))
            else:
                self._end(stream)
            await asyncio.wait({opening}, timeout=_LOOK_SECONDS)
        self._end(stream)

    def _tell(self, stream: EventStream, what: str) -> None:
        if what == self._told:
            return
        self._told = what
        text = f"{self._call.model}: {what}"
        if self._form == "comments":
            stream.remark(sse.comment(text))
        else:
            stream.write(self._event(text, done=False))

    def _end(self, stream: EventStream) -> None:
        """What was told is past: Open WebUI hides it. Comments need no end."""
        if self._told is not None and self._form == "events":
            stream.write(self._event(self._told, done=True))
        self._told = None

    def _event(self, text: str, *, done: bool) -> bytes:
        chunk = {
            **{"id": self._call.request_id, "object": _OBJECTS[self._call.path], "created": int(time.time())},
            **{"model": self._call.model, "choices": []},
        }
        data = {"description": text, "done": done, "hidden": done}
        return sse.event({**chunk, "event": {"type": "status", "data": data}})
