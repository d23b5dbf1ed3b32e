"""A response that nobody listens to: it ends once, whoever ends it."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from llmserve.api.background import BackgroundResponse
from llmserve.dialects.responses.answers import ResponseTranslation
from llmserve.dialects.responses.requests import ResponsesRequest
from llmserve.dialects.responses.response import new_response
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_request
from tests.dialects.streams import text_stream


class Keeper:
    """What happens at the end of a response: it takes until `may_end`, and is `done` only then."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.done = 0

    async def __call__(self) -> None:
        self.begun.set()
        await self.may_end.wait()
        self.done += 1


def background(pieces: list[bytes], *, hangs: bool) -> BackgroundResponse:
    asked = parse_request(ResponsesRequest, dump_json({"model": "m", "input": "hi", "background": True})).request
    translation = ResponseTranslation(new_response(asked, "resp_1", 1))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": translation.stream(piece), "more_body": True})
        if hangs:
            await asyncio.Event().wait()

    return BackgroundResponse(answer, translation, {"type": "http", "state": {"request_id": "req-1"}})


async def test_one_that_is_being_kept_is_kept_although_it_is_cancelled() -> None:
    response, keeper = background(text_stream(["Hel", "lo"]), hangs=False), Keeper()
    response.start(keeper)
    await keeper.begun.wait()
    cancelling = [asyncio.create_task(response.cancel()) for _ in range(2)]
    await asyncio.wait(cancelling, timeout=0.05)
    assert not any(task.done() for task in cancelling), "it returns when the response is kept"
    keeper.may_end.set()
    await asyncio.gather(*cancelling)
    assert (keeper.done, response.response["status"]) == (1, "completed")


async def test_one_that_is_cancelled_twice_is_kept_once() -> None:
    response, keeper = background(text_stream(["Hel", "lo"])[:2], hangs=True), Keeper()
    response.start(keeper)
    first = asyncio.create_task(response.cancel())
    await keeper.begun.wait()
    second = asyncio.create_task(response.cancel())
    await asyncio.wait({second}, timeout=0.05)
    keeper.may_end.set()
    await asyncio.gather(first, second)
    assert (keeper.done, response.response["status"]) == (1, "cancelled")
