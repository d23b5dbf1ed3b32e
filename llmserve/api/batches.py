"""The routes of OpenAI's Files and Batch APIs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve.api.batch_desk import BatchDesk
from llmserve.api.batch_runner import BatchRunner
from llmserve.api.dialect import Dialect, json_response
from llmserve.api.form import UploadForm
from llmserve.api.query import number, order_is_descending, page, read_query
from llmserve.api.replies import ignored_headers
from llmserve.api.tasks import until_hang_up
from llmserve.batches.records import BatchRecord, new_batch_id
from llmserve.errors import InvalidRequest, NotFound
from llmserve.openai.batches import BatchRequest, FileRequest
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_request

_DEFAULT_FILES = _MOST_FILES = 10_000
_DEFAULT_BATCHES = 20
_MOST_BATCHES = 100
_PIECE_BYTES = 256 * 1024


class BatchRoutes:
    """The endpoints below `/v1/files` and `/v1/batches`. `close` ends what they do in the background."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._desk = BatchDesk(dialect.gateway.settings)
        self._runner = BatchRunner(dialect.gateway, self._desk)

    def table(self) -> list[Route]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files, methods=["GET"]),
            Route("/v1/files/{id}", self.file, methods=["GET"]),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content, methods=["GET"]),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.batches, methods=["GET"]),
            Route("/v1/batches/{id}", self.batch, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def start(self, app: ASGIApp) -> None:
        """Go on with unfinished batches, whose requests go through `app`."""
        await self._runner.start(app)

    async def close(self) -> None:
        await self._runner.close()
        await self._desk.close()

    # --- files ---

    async def upload(self, request: Request) -> Response:
        """Keep the file of a form, written to the disk as it comes."""
        self._dialect.gateway.check_open()
        upload = await self._desk.do(lambda store: store.upload())
        try:

            async def write(piece: bytes) -> None:
                await self._desk.do(lambda _: upload.write(piece))

            form = UploadForm(request, write)
            await form.read()
            strict = bool(self._dialect.gateway.settings.strict)
            parsed = parse_request(FileRequest, dump_json(form.fields), strict=strict)
            expiry = parsed.request.expires_after
            seconds = None if expiry is None else expiry.seconds
            filename = form.filename or "upload"
            record = await self._desk.do(lambda store: store.keep(upload, filename, seconds))
        finally:
            await self._desk.do(lambda store: store.discard(upload))
        return _answer(record.shown(), parsed.ignored_fields)

    async def files(self, request: Request) -> Response:
        query = read_query(request)
        limit = number(query, "limit", _DEFAULT_FILES, 1, _MOST_FILES)
        descending, purpose = order_is_descending(query), query.get("purpose")
        files = await self._desk.do(lambda store: store.files())
        shown = [file.shown() for file in files if purpose in (None, file.purpose)]
        return json_response(page(shown, limit, query.get("after"), descending=descending))

    async def file(self, request: Request) -> Response:
        id: str = request.path_params["id"]
        return json_response((await self._desk.do(lambda store: store.file(id))).shown())

    async def delete(self, request: Request) -> Response:
        id: str = request.path_params["id"]
        await self._runner.delete_file(id)
        return json_response({"id": id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> ASGIApp:
        id: str = request.path_params["id"]
        file, path = await self._desk.do(lambda store: (store.file(id), store.path(id)))
        return FileContent(path, file.size_bytes)

    # --- batches ---

    async def create(self, request: Request) -> Response:
        parsed = await self._dialect.read(request, BatchRequest)
        asked, now = parsed.request, time.time()
        batch = BatchRecord(
            id=new_batch_id(),
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            completion_window=asked.completion_window,
            created_at=now,
            expires_at=now + asked.window_seconds,
            metadata=asked.metadata,
            output_seconds=asked.output_expires_after.seconds if asked.output_expires_after is not None else None,
        )
        await self._runner.add(batch)
        return _answer(batch.shown(), parsed.ignored_fields)

    async def batches(self, request: Request) -> Response:
        query = read_query(request)
        limit = number(query, "limit", _DEFAULT_BATCHES, 1, _MOST_BATCHES)
        shown = [batch.shown() for batch in await self._runner.all()]
        return json_response(page(shown, limit, query.get("after"), descending=True))

    async def batch(self, request: Request) -> Response:
        return json_response((await self._runner.find(request.path_params["id"])).shown())

    async def cancel(self, request: Request) -> Response:
        await request.body()  # It says nothing, but a client that sends one goes on with its connection.
        batch = await self._runner.cancel(request.path_params["id"])
        if batch.is_final and batch.status != "cancelled":
            raise InvalidRequest(f"the batch is {batch.status} and cannot be cancelled any more", param="id")
        return json_response(batch.shown())


def _answer(shown: dict[str, Any], ignored_fields: tuple[str, ...]) -> Response:
    answer = json_response(shown)
    answer.raw_headers += ignored_headers(ignored_fields)
    return answer


class FileContent:
    """An ASGI response: the bytes of a file, of which `size_bytes` are there, from the disk as they are wanted."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            file = await asyncio.to_thread(self._path.open, "rb")
        except FileNotFoundError:
            raise NotFound("the file is not there any more", code="file_not_found") from None
        with file:
            await until_hang_up(receive, self._send(file, scope["method"] == "HEAD", send))

    async def _send(self, file: BinaryIO, head_only: bool, send: Send) -> None:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(self._size_bytes).encode()),
            # What a client has uploaded shall not be a page of this server.
            (b"content-disposition", b"attachment"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        left = 0 if head_only else self._size_bytes
        while left > _PIECE_BYTES:
            piece = await asyncio.to_thread(file.read, _PIECE_BYTES)
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        # With nothing behind it: the client may ask again as soon as it has all.
        last = await asyncio.to_thread(file.read, left) if left else b""
        await send({"type": "http.response.body", "body": last})
