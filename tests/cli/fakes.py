"""A gateway and a store that say what a test told them to."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmserve import __version__
from llmserve.errors import InvalidModel, ModelNotFound
from llmserve.openai.adapters import require_adapter, split_adapter
from llmserve.planning.variant import VariantChoice
from llmserve.store.catalog import Catalog
from llmserve.store.defaults import ChatDefaults
from llmserve.store.manifests import DamagedModel
from llmserve.store.names import HubReference, LogicalName, is_path, parse_name
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted
from llmserve.store.progress import PullProgress
from llmserve.types import InstalledModel, LayerInfo, ModelInfo

DONE = b"data: [DONE]\n\n"
# Steps of a scripted answer that are no bytes: break the connection, or keep it open until the client hangs up.
DROP = "drop"
HOLD = "hold"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def finish(reason: str = "stop") -> bytes:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt: int, completion: int, cached: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"choices": [], "usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}})


def answer(*texts: str) -> list[bytes | str]:
    return [*map(delta, texts), finish(), usage(9, len(texts), 4), DONE]


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that hang up: the tests read stderr."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing."""


class FakeGateway:
    """An HTTP server on loopback with the gateway's routes. Chat answers are taken from `script`, one per request.

    `replies` overrides a path with a status and a body; `requests` records what came; `cancelled` is set when a
    client hangs up on a held answer.
    """

    def __init__(self) -> None:
        self.script: list[list[bytes | str]] = []
        self.replies: dict[str, tuple[int, object]] = {
            "/health": (200, {"status": "ok", "service": "llmserve", "version": __version__}),
            "/v1/models": (200, {"object": "list", "data": [{"id": "tiny:1b", "object": "model"}]}),
            "/admin/ps": (200, {"models": []}),
            "/admin/stop": (200, {"model": "tiny:1b", "stopped": True}),
            "/admin/load": (200, {"model": "tiny:1b", "status": "ready"}),
        }
        self.requests: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self.cancelled = threading.Event()
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def chats(self) -> list[Any]:
        return [body for _, path, body in self.requests if path == "/v1/chat/completions"]

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: Any) -> None:
                gateway.requests.append((self.command, self.path, body))
                gateway.keys.append(self.headers.get("Authorization"))
                if self.path == "/v1/chat/completions" and self.path not in gateway.replies:
                    self.stream(gateway.script.pop(0))
                    return
                status, value = gateway.replies.get(self.path, (404, {"error": {"message": "no such route"}}))
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self, steps: list[bytes | str]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for step in steps:
                    if step == DROP:
                        self.close_connection = True
                        return
                    if step == HOLD:
                        select.select([self.connection], [], [])
                        gateway.cancelled.set()
                        self.close_connection = True
                        return
                    assert isinstance(step, bytes)
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(step), step))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests read stderr."""

        return Handler


def installed(name: str = "tiny:1b", *, aliases: tuple[str, ...] = ("tiny",), path: str = "/models/tiny.gguf") -> Any:
    return InstalledModel(name, aliases, "gguf", "Q4_0", path, 98_566_144, "ab" * 32, f"file:{path}", 1_700_000_000.0)


def model_info(*, name: str | None = "Tiny") -> ModelInfo:
    layer = LayerInfo(weight_bytes=3_000_000, kv_heads=3, key_length=64, value_length=64, sliding_window=None)
    return ModelInfo(
        format="gguf",
        architecture="llama",
        kind="generate",
        name=name,
        parameters=134_515_008,
        quantization="Q4_0",
        size_bytes=98_566_144,
        context_length=2048,
        embedding_length=576,
        feed_forward_length=1536,
        heads=9,
        vocabulary=49_152,
        layers=(layer,) * 30,
        input_bytes=28_000_000,
        output_bytes=28_000_000,
        chat_template="{{ messages }}",
        license="apache-2.0",
        tensor_types=(("F32", 61), ("Q4_0", 211)),
    )


@dataclass
class FakeStore:
    """`Store` in memory: `models` are installed, `available` can be pulled, `problems` are damaged."""

    models: dict[str, InstalledModel] = field(default_factory=dict)
    available: set[str] = field(default_factory=set)
    catalog: Catalog = field(default_factory=Catalog)
    removed: list[str] = field(default_factory=list)
    adopted: list[Path] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    asked: list[PullOptions] = field(default_factory=list)
    choice: VariantChoice | None = None

    def find(self, name: str) -> InstalledModel:
        name, adapter = split_adapter(name)
        if name in self.problems:
            raise InvalidModel(f"`{name}` {self.problems[name]}; it is not served")
        for model in self.models.values():
            if name == model.name or name in model.aliases:
                require_adapter(model, adapter)
                return model
        raise ModelNotFound(f"`{name}` is not installed", hint=f"`llmserve pull {name}` gets it")

    def list(self) -> tuple[InstalledModel, ...]:
        return tuple(self.models.values())

    def defaults(self, name: str) -> ChatDefaults:
        entry = self.catalog.find(name)
        return entry.defaults if entry else ChatDefaults()

    def wanted(self, name: str, options: PullOptions) -> Wanted:
        self.asked.append(options)
        reference = parse_name(name)
        assert isinstance(reference, LogicalName)
        return Wanted(reference, HubReference("o", "r"), choice=self.choice)

    def pull(
        self, name: str, progress: Callable[[PullProgress], None], options: PullOptions | None = None
    ) -> InstalledModel:
        if name not in self.available:
            raise ModelNotFound(f"there is no model `{name}`", hint="`llmserve list` shows what there is")
        for completed in (0, 500, 1000):
            progress(PullProgress("downloading", completed, 1000))
        progress(PullProgress("verifying", 1000, 1000))
        self.models[name] = installed(name, aliases=())
        return self.models[name]

    def damaged(self) -> tuple[DamagedModel, ...]:
        return tuple(DamagedModel(name, problem) for name, problem in self.problems.items())

    def survey(self) -> tuple[tuple[InstalledModel, ...], tuple[DamagedModel, ...]]:
        return self.list(), self.damaged()

    def adopt(self, path: Path, progress: Callable[[PullProgress], None]) -> InstalledModel:
        self.adopted.append(path)
        if not path.exists():
            raise InvalidModel(f"cannot open {path}: No such file or directory")
        name = f"{path.stem}:local"
        self.models[name] = installed(name, aliases=(), path=str(path.resolve()))
        return self.models[name]

    def inspect(self, name: str) -> ModelInfo:
        if not is_path(name):
            self.find(name)
        return model_info()

    def remove(self, name: str) -> int:
        self.removed.append(name)
        self.problems.pop(name, None)
        model = self.models.pop(name, None)
        return model.size_bytes if model else 0
