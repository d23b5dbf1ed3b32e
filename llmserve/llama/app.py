"""The worker's HTTP side: the internal protocol as a Starlette app."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmserve.errors import LlmserveError, Unavailable, WrongModelKind
from llmserve.llama.embedding_routes import embedding_routes
from llmserve.llama.embedding_service import EmbeddingService
from llmserve.llama.generation import Delta
from llmserve.llama.loader import Loader
from llmserve.llama.output.events import Content, OutputEvent, Reasoning, ToolCallArguments, ToolCallStart
from llmserve.llama.service import Answer, Service
from llmserve.openai import sse
from llmserve.openai.adapters import split_adapter, with_adapter
from llmserve.openai.json import dump_json
from llmserve.openai.logprobs import TokenLogprob
from llmserve.openai.parse import parse_chat, parse_completion
from llmserve.openai.requests import ChatRequest, CompletionRequest
from llmserve.openai.responses import (
    ChatChunks,
    Choice,
    CompletionChunks,
    FinishReason,
    chat_completion,
    text_completion,
)

_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def create_app(loader: Loader) -> Starlette:
    """Routes over the model that `loader` is bringing up."""

    async def health(_: Request) -> Response:
        if loader.service is not None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "loading", "progress": loader.progress}, status_code=503)

    async def chat(request: Request) -> Response:
        parsed = parse_chat(await request.body()).request
        answer = await _service(loader).chat(parsed)
        return _respond(request, parsed, answer, _served(loader, parsed.model), chat=True)

    async def complete(request: Request) -> Response:
        parsed = parse_completion(await request.body()).request
        answer = await _service(loader).complete(parsed)
        return _respond(request, parsed, answer, _served(loader, parsed.model), chat=False)

    async def stats(_: Request) -> Response:
        if isinstance(loader.service, EmbeddingService):
            return JSONResponse(loader.service.stats())
        engine = _service(loader).engine
        counters = engine.counters
        return JSONResponse(
            {
                "running": engine.running,
                "waiting": engine.waiting,
                "slots": engine.slots,
                "cells_used": engine.cells_used,
                "preemptions": engine.preemptions,
                "restored_from_ram": engine.restored_from_ram,
                "restored_from_disk": engine.restored_from_disk,
                "steps": counters.steps,
                "step_seconds": round(counters.step_seconds, 6),
                "prompt_tokens": counters.prompt_tokens,
                "cached_tokens": counters.cached_tokens,
                "generated_tokens": counters.generated_tokens,
                "drafted_tokens": counters.drafted_tokens,
                "accepted_tokens": counters.accepted_tokens,
                "cancelled": counters.cancelled,
                "aborted_steps": counters.aborted_steps,
            }
        )

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/stats", stats),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            *embedding_routes(loader),
        ],
        exception_handlers={LlmserveError: _error_response},
    )


def _service(loader: Loader) -> Service:
    if loader.service is None:
        raise Unavailable("the model is loading", retry_after=1)
    if isinstance(loader.service, EmbeddingService):
        raise WrongModelKind.of(loader.service.model.name, "rank" if loader.service.model.ranks else "embed")
    return loader.service


def _served(loader: Loader, asked: str) -> str:
    """The name of what answers: the model's own, with the adapter that was asked for."""
    return with_adapter(_service(loader).model.name, split_adapter(asked)[1])


async def _error_response(_: Request, error: Exception) -> Response:
    if not isinstance(error, LlmserveError):
        raise error
    headers = {"retry-after": str(max(1, round(error.retry_after)))} if error.retry_after else None
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def _respond(
    request: Request, parsed: ChatRequest | CompletionRequest, answer: Answer, model: str, *, chat: bool
) -> Response:
    """The response object that owns `answer` from here on."""
    identity = request.headers.get("x-request-id") or f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
    created = int(time.time())
    if parsed.stream:
        kind = ChatChunks if chat else CompletionChunks
        return EventStream(answer, kind(identity, model, created, parsed.include_usage), parsed.include_usage)
    build = chat_completion if chat else text_completion

    def finish(choices: list[Choice]) -> bytes:
        return dump_json(build(identity, model, created, choices, answer.usage(), timings=answer.timings()))

    return WholeAnswer(answer, finish)


class _AnswerResponse(Response):
    """A response that owns an answer: closed however the sending ends, and at once when the client hangs up."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        hang_up = asyncio.ensure_future(_until_disconnect(receive))
        try:
            await asyncio.wait({writing, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            self._answer.close()
            for task in (writing, hang_up):
                task.cancel()
            await asyncio.gather(writing, hang_up, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        raise NotImplementedError


class EventStream(_AnswerResponse):
    """The answer as server-sent events; everything one engine step brings leaves in one write."""

    def __init__(self, answer: Answer, chunks: ChatChunks | CompletionChunks, include_usage: bool) -> None:
        super().__init__(answer)
        self._chunks = chunks
        self._include_usage = include_usage

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        try:
            await self._write_deltas(send)
        except LlmserveError as error:
            await send({"type": "http.response.body", "body": sse.error_event(error)})
        else:
            tail = sse.DONE
            if self._include_usage:
                tail = self._chunks.usage(self._answer.usage(), timings=self._answer.timings()) + tail
            await send({"type": "http.response.body", "body": tail})

    async def _write_deltas(self, send: Send) -> None:
        started: set[int] = set()
        unfinished = self._answer.choices
        async for batch in self._answer.deltas():
            events: list[bytes] = []
            for delta in batch:
                if delta.index not in started:
                    started.add(delta.index)
                    events.append(self._chunks.start(delta.index))
                events += self._of(delta)
                if delta.finish_reason is not None:
                    unfinished -= 1
                    last = not unfinished and not self._include_usage
                    timings = self._answer.timings() if last else None
                    reason = self._answer.outputs[delta.index].finish_reason(delta.finish_reason)
                    stop_string = self._answer.stop_string(delta.index)
                    events.append(self._chunks.finish(delta.index, reason, timings, stop_string))
            if events:
                await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})

    def _of(self, delta: Delta) -> Iterator[bytes]:
        """The events for a delta's text."""
        for event, logprobs in self._answer.outputs[delta.index].take_delta(delta):
            yield _chunk(self._chunks, delta.index, event, logprobs)


def _chunk(
    chunks: ChatChunks | CompletionChunks, index: int, event: OutputEvent, logprobs: Sequence[TokenLogprob]
) -> bytes:
    if isinstance(event, Content):
        return chunks.text(index, event.text, logprobs)
    if not isinstance(chunks, ChatChunks):
        raise TypeError("a text completion is nothing but text")
    match event:
        case Reasoning(text):
            return chunks.reasoning(index, text)
        case ToolCallStart(call, identity, name):
            return chunks.tool_call(index, call, identity, name)
        case ToolCallArguments(call, text):
            return chunks.tool_arguments(index, call, text)


class WholeAnswer(_AnswerResponse):
    """The answer as one JSON document."""

    def __init__(self, answer: Answer, finish: Callable[[list[Choice]], bytes]) -> None:
        super().__init__(answer)
        self._finish = finish

    async def _write(self, send: Send) -> None:
        status = 200
        try:
            body = self._finish(await self._choices())
        except LlmserveError as error:
            status, body = error.status, dump_json(error.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _choices(self) -> list[Choice]:
        outputs = self._answer.outputs
        reasons: list[FinishReason] = ["stop"] * len(outputs)
        async for batch in self._answer.deltas():
            for delta in batch:
                reasons[delta.index] = delta.finish_reason or reasons[delta.index]
                outputs[delta.index].take_delta(delta)
        choices = (output.choice(reason) for output, reason in zip(outputs, reasons, strict=True))
        return [replace(choice, stop_string=self._answer.stop_string(index)) for index, choice in enumerate(choices)]


async def _until_disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
