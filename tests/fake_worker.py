"""A stand-in for the llama worker: a real process on a real Unix socket, without a model.

It takes the worker's own arguments and speaks the internal protocol of docs/architecture.md:

    python tests/fake_worker.py --socket PATH --name NAME --model FILE --plan JSON

Like the real one it exits when its standard input reaches end of file and ends a sequence when the client hangs up.
`fake_command(plan, model, socket)` in this file is the `launch` argument of a `Fleet` that is to use it.

**Loading** is scripted by a JSON object (see `LoadScript`): in the environment variable `FAKE_WORKER` if that is set,
otherwise in the file named by `--model` if that holds one, otherwise nothing is unusual. So a test writes the
behaviour of a model into its "model file", and may change it between two loads:

    {"ready_when": "/tmp/x/go"}                     503 from /health until that file exists
    {"stderr": "no such architecture", "exit": 3}   complain and exit while loading

**Answering** is scripted by the request (see `AnswerScript`): a last message (or a prompt) that is a JSON object is the
script, merged over `"answer"` of the load script; any other text gets the default answer. The token numbers count from
0 and name the token before which the thing happens:

    {"tokens": ["Hel", "lo"], "delay": 0.01}        two tokens, 10 ms before each
    {"tokens": 500, "die_at": 3, "signal": "SEGV"}  500 tokens t0, t1, ... and death by SIGSEGV before t3
    {"hang_at": 1}                                  one token, then silence
    {"garbage_at": 0}                               bytes that are neither JSON nor SSE
    {"error_at": 2}                                 an error event after two tokens (before the first: a status 500)
    {"gate": "/tmp/x/go", "gate_at": 1}             one token, and the next only when that file exists
    {"tokens": ["Hm", {"tool_calls": [...]}]}       in the stream of a chat, an object is a delta as it stands

Requests that write no text (embeddings, rerank, tokens) all get `COMPUTED`.

`max_tokens`/`max_completion_tokens`, `n`, `stream` and `stream_options.include_usage` of the request are honoured, and
`X-Request-Id` becomes the answer's id.

What it saw can be asked for: `GET /stats` counts `running`, `started`, `finished`, `cancelled` (the client hung up),
`tokens` and, by the real worker's names, `steps` and `step_seconds` (one of each for every token) and
`generated_tokens`; `GET /requests` lists `{"path", "request_id", "body"}` of every request with the body as the exact
text that came. `"record": PATH` in the load script appends the same objects to a file, one a line, which outlives the
process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from llmserve.engines.command import Command
    from llmserve.types import EnginePlan, InstalledModel

DEFAULT_TOKENS = ["Hello", " from", " the", " fake", " worker", "."]
COMPUTED = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
    "count": 3,
}
GARBAGE = b"\x00\xff\xfe this is not the protocol \x00"
GATE_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class LoadScript:
    """What happens before `/health` says 200.

    ready_after: seconds to wait, then ready_when: a file to wait for; progress: what /health reports meanwhile.
    Then stderr is written, and if exit (a code), signal (a name such as "KILL"), hang (no answer to /health, ever) or
    garbage (nonsense from /health) is given, that happens instead of readiness. ignore_sigterm: only SIGKILL ends it.
    helper: start a grandchild in the same process group, its pid in the file named here. record: see the module.
    answer: the defaults of every `AnswerScript`, and with scripted false the only one: prompts are then just text.
    """

    ready_after: float = 0.0
    ready_when: str | None = None
    progress: float | None = None
    stderr: str | None = None
    exit: int | None = None
    signal: str | None = None
    hang: bool = False
    garbage: bool = False
    ignore_sigterm: bool = False
    helper: str | None = None
    record: str | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    scripted: bool = True


@dataclass(frozen=True)
class AnswerScript:
    """How one request is answered; every `*_at` is the number of the token before which it happens."""

    tokens: list[Any] | int = field(default_factory=lambda: list(DEFAULT_TOKENS))
    delay: float = 0.0
    first_delay: float = 0.0
    die_at: int | None = None
    signal: str = "KILL"
    hang_at: int | None = None
    garbage_at: int | None = None
    error_at: int | None = None
    gate: str | None = None
    gate_at: int = 0
    status: int | None = None
    finish_reason: str = "stop"


Script = TypeVar("Script", LoadScript, AnswerScript)


def fake_command(plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
    """The `launch` seam of a `Fleet`: this file in place of the real worker, everything else as in production."""
    from llmserve.engines.command import Command
    from llmserve.types import to_json

    argv = (sys.executable, "-P", __file__, "--socket", str(socket), "--name", model.name, "--model", model.path)
    return Command(argv=(*argv, "--plan", to_json(plan)), environment={})


def make_script(kind: type[Script], values: dict[str, Any]) -> Script:
    """A script from JSON; an unknown key is a mistake in the test and raises `TypeError`."""
    if unknown := values.keys() - {one.name for one in fields(kind)}:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**values)


def json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def load_script(model: Path) -> LoadScript:
    text = os.environ.get("FAKE_WORKER")
    if text is None:
        try:
            text = model.read_bytes()[:65536].decode()
        except (OSError, UnicodeDecodeError):
            text = ""
    return make_script(LoadScript, json_object(text) or {})


def die(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


async def gate(path: str | None) -> None:
    while path is not None and not Path(path).exists():  # noqa: ASYNC110, ASYNC240 (a test's file is the only signal)
        await asyncio.sleep(GATE_POLL_SECONDS)


class ScriptedError(Exception):
    """`error_at` was reached."""


class Answer:
    """One request and the script it carries."""

    def __init__(self, request: Request, body: dict[str, Any], load: LoadScript) -> None:
        self.chat = request.url.path.endswith("/chat/completions")
        self.id = request.headers.get("x-request-id", "fake-0")
        self.model = ""
        self.stream = bool(body.get("stream"))
        self.choices = int(body.get("n") or 1)
        self.usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        self.prompt = self._prompt(body)
        own = json_object(self.prompt) if load.scripted else None
        self.script = make_script(AnswerScript, {**load.answer, **(own or {})})
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        tokens = self.script.tokens
        self.tokens = [f"t{number} " for number in range(tokens)] if isinstance(tokens, int) else list(tokens)
        self.finish_reason = self.script.finish_reason
        if limit is not None and limit < len(self.tokens):
            self.tokens, self.finish_reason = self.tokens[:limit], "length"

    def _prompt(self, body: dict[str, Any]) -> str:
        text = body["messages"][-1].get("content") if self.chat else body["prompt"]
        if isinstance(text, list):  # content parts, several prompts, or token ids
            text = "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in text)
        return str(text)

    async def produce(self) -> AsyncIterator[Any]:
        """The tokens at their time, with the scripted accidents between them."""
        script = self.script
        await asyncio.sleep(script.first_delay)
        for number, token in enumerate([*self.tokens, None]):
            if script.delay and token is not None:
                await asyncio.sleep(script.delay)
            if number == script.gate_at:
                await gate(script.gate)
            if number == script.die_at:
                die(script.signal)
            if number == script.hang_at:
                await asyncio.Event().wait()
            if number == script.error_at:
                raise ScriptedError
            if token is not None:
                yield token

    def envelope(self, **members: Any) -> dict[str, Any]:
        kind = ("chat.completion" + (".chunk" if self.stream else "")) if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model, **members}

    def choice(self, index: int, text: Any, finish_reason: str | None, *, first: bool = False) -> dict[str, Any]:
        common = {"index": index, "logprobs": None, "finish_reason": finish_reason}
        if isinstance(text, dict):
            return {**common, "delta": text}
        if not self.chat:
            return {**common, "text": text or ""}
        if not self.stream:
            return {**common, "message": {"role": "assistant", "content": text}}
        role = {"role": "assistant"} if first else {}
        return {**common, "delta": role if text is None else {**role, "content": text}}

    def usage(self) -> dict[str, Any]:
        prompt, answer = len(self.prompt.split()), len(self.tokens) * self.choices
        details = {"cached_tokens": 0}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": details,
        }


def error_body(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


class FakeWorker:
    """The routes and counters of one process."""

    def __init__(self, name: str, script: LoadScript) -> None:
        self.name = name
        self.script = script
        self.ready = False
        self.requests: list[dict[str, Any]] = []
        self.counters = dict.fromkeys(("running", "started", "finished", "cancelled", "tokens"), 0)
        self.counters |= {"steps": 0, "step_seconds": 0, "generated_tokens": 0}
        self._loading: asyncio.Task[None] | None = None
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/stats", self.stats),
                Route("/requests", self.seen),
                Route("/v1/chat/completions", self.generate, methods=["POST"]),
                Route("/v1/completions", self.generate, methods=["POST"]),
                *(
                    Route(path, self.compute, methods=["POST"])
                    for path in ("/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize")
                ),
            ],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loading = asyncio.create_task(self.load())
        yield

    async def load(self) -> None:
        script = self.script
        if script.helper is not None:
            helper = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
            Path(script.helper).write_text(str(helper.pid))  # noqa: ASYNC240
        await asyncio.sleep(script.ready_after)
        await gate(script.ready_when)
        if script.stderr is not None:
            print(script.stderr, file=sys.stderr, flush=True)
        if script.exit is not None:
            os._exit(script.exit)
        if script.signal is not None:
            die(script.signal)
        self.ready = not (script.hang or script.garbage)

    async def health(self, request: Request) -> Response:
        if self.ready:
            return JSONResponse({"status": "ok"})
        if self.script.hang:
            await asyncio.Event().wait()
        if self.script.garbage:
            return Response(GARBAGE, status_code=418)
        return JSONResponse({"status": "loading", "progress": self.script.progress}, status_code=503)

    async def stats(self, request: Request) -> Response:
        return JSONResponse(self.counters)

    async def seen(self, request: Request) -> Response:
        return JSONResponse(self.requests)

    async def generate(self, request: Request) -> Response:
        text = (await request.body()).decode()
        self._record(request, text)
        answer = Answer(request, json.loads(text), self.script)
        answer.model = self.name
        script = answer.script
        if script.status is not None or script.error_at == 0:
            return JSONResponse(error_body("scripted refusal"), status_code=script.status or 500)
        if script.garbage_at == 0:
            return Response(GARBAGE, media_type="text/event-stream" if answer.stream else "application/json")
        if answer.stream:
            return StreamingResponse(self._stream(answer), media_type="text/event-stream")
        return await self._whole(request, answer)

    async def compute(self, request: Request) -> Response:
        self._record(request, (await request.body()).decode())
        return JSONResponse(COMPUTED)

    def _record(self, request: Request, text: str) -> None:
        entry = {"path": request.url.path, "request_id": request.headers.get("x-request-id"), "body": text}
        self.requests.append(entry)
        if self.script.record is not None:
            with Path(self.script.record).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.counters["running"] += 1
        self.counters["started"] += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.counters["cancelled"] += 1
            raise
        else:
            self.counters["finished"] += 1
        finally:
            self.counters["running"] -= 1

    async def _stream(self, answer: Answer) -> AsyncIterator[bytes]:
        with self._counted():
            for index in range(answer.choices):
                if answer.chat:
                    yield event(answer.envelope(choices=[answer.choice(index, "", None, first=True)]))
                number = 0
                try:
                    async for token in answer.produce():
                        if number == answer.script.garbage_at:
                            yield GARBAGE
                        for name in ("tokens", "steps", "step_seconds", "generated_tokens"):
                            self.counters[name] += 1
                        number += 1
                        yield event(answer.envelope(choices=[answer.choice(index, token, None)]))
                except ScriptedError:
                    yield event(error_body("scripted failure"))
                    return
                yield event(answer.envelope(choices=[answer.choice(index, None, answer.finish_reason)]))
            if answer.usage_wanted:
                yield event(answer.envelope(choices=[], usage=answer.usage()))
            yield b"data: [DONE]\n\n"

    async def _whole(self, request: Request, answer: Answer) -> Response:
        """All choices in one body; a client that hangs up meanwhile cancels the work, as in the real worker."""
        work = asyncio.create_task(self._collect(answer))
        hang_up = asyncio.create_task(self._hung_up(request))
        await asyncio.wait({work, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        hang_up.cancel()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            return Response(status_code=499)
        return work.result()

    async def _collect(self, answer: Answer) -> Response:
        choices = []
        with self._counted():
            try:
                for index in range(answer.choices):
                    text = "".join([token async for token in answer.produce()])
                    self.counters["tokens"] += len(answer.tokens)
                    choices.append(answer.choice(index, text, answer.finish_reason))
            except ScriptedError:
                return JSONResponse(error_body("scripted failure"), status_code=500)
        return JSONResponse(answer.envelope(choices=choices, usage=answer.usage()))

    @staticmethod
    async def _hung_up(request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass


class DeafServer(uvicorn.Server):
    """A server that SIGTERM does not stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield


def exit_at_end_of_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="a worker without a model, for tests")
    for name in ("socket", "name", "model", "plan"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    json.loads(arguments.plan)
    threading.Thread(target=exit_at_end_of_stdin, daemon=True).start()
    script = load_script(Path(arguments.model))
    config = uvicorn.Config(
        FakeWorker(arguments.name, script).app,
        uds=arguments.socket,
        loop="asyncio",
        http="httptools",
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    (DeafServer if script.ignore_sigterm else uvicorn.Server)(config).run()


if __name__ == "__main__":
    main()
