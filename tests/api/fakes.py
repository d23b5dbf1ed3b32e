"""Stand-ins for what the HTTP side is built on, and raw HTTP for what no client library would send."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import httpx2
from starlette.routing import Route

from llmserve.api import listener
from llmserve.api.app import route_table
from llmserve.api.dialects import Dialects
from llmserve.api.gateway import Gateway
from llmserve.api.limits import Limits
from llmserve.api.page import Page
from llmserve.api.server import make_server
from llmserve.errors import ModelNotFound, WorkerDied
from llmserve.fleet.connection import WorkerConnection, connect
from llmserve.fleet.demand import Demand
from llmserve.fleet.loading import Preview
from llmserve.fleet.status import ModelStatus
from llmserve.fleet.turnover import Turnover
from llmserve.fleet.worker_counters import WorkerCounters
from llmserve.settings import Settings
from llmserve.store.catalog import Catalog
from llmserve.store.defaults import ChatDefaults
from llmserve.store.names import HubReference, LogicalName, Reference, parse_name
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted
from llmserve.store.progress import PullProgress, Report
from llmserve.types import EnginePlan, InstalledModel, LayerInfo, ModelInfo

FAKE_WORKER = Path(__file__).parent.parent / "fake_worker.py"
MODEL = InstalledModel(
    name="tiny:1m",
    aliases=("tiny",),
    format="gguf",
    quantization="Q4_0",
    path="/nowhere/tiny.gguf",
    size_bytes=1000,
    sha256="0" * 64,
    source="file:/nowhere/tiny.gguf",
    pulled_at=1_700_000_000.0,
)
HUB_MODEL = replace(MODEL, name="hf:owner/repo:file.gguf", aliases=(), sha256="1" * 64)
INFO = ModelInfo(
    format="gguf",
    architecture="llama",
    kind="generate",
    name="Tiny",
    parameters=1_000_000,
    quantization="Q4_0",
    size_bytes=1000,
    context_length=2048,
    embedding_length=64,
    feed_forward_length=128,
    heads=4,
    vocabulary=100,
    layers=(LayerInfo(10, 2, 16, 16, None),),
    input_bytes=1,
    output_bytes=1,
    chat_template=None,
    license=None,
    tensor_types=(("Q4_0", 1),),
)
PLAN = EnginePlan(
    engine="llama.cpp",
    devices=("cpu",),
    gpu_layers=0,
    total_layers=2,
    context=2048,
    parallel=4,
    kv_cells=8192,
    kv_type="f16",
    threads=1,
    wait_policy="passive",
    batch=512,
    micro_batch=512,
    flash_attention=True,
    memory=(),
    fits=True,
    reason="a test",
    refused=(),
)


class FakeStore:
    """Two models, always there."""

    models: ClassVar[dict[str, InstalledModel]] = {model.name: model for model in (MODEL, HUB_MODEL)}

    catalog = Catalog(())

    def __init__(self) -> None:
        self.chat_defaults = ChatDefaults()
        self.removed: list[str] = []

    def list(self) -> tuple[InstalledModel, ...]:
        return tuple(self.models.values())

    def find(self, name: str) -> InstalledModel:
        for model in self.models.values():
            if name == model.name or name in model.aliases:
                return model
        raise ModelNotFound(f"there is no model `{name[:64]}` here", param="model", hint=f"llmserve pull {name[:64]}")

    def reference(self, name: str) -> Reference:
        return parse_name(next((model.name for model in self.models.values() if name in model.aliases), name))

    def defaults(self, name: str) -> ChatDefaults:
        return self.chat_defaults

    def remove(self, name: str) -> int:
        self.removed.append(self.find(name).name)
        return 0

    def inspect(self, name: str) -> ModelInfo:
        self.find(name)
        return INFO

    def wanted(self, name: str, options: PullOptions) -> Wanted:
        self.find(name)
        return Wanted(LogicalName("tiny", "1m"), HubReference("o", "r"))

    def pull(self, name: str, progress: Report, options: PullOptions) -> InstalledModel:
        progress(PullProgress("downloading", 500, 1000, 10_000))
        progress(PullProgress("verifying", 1000, 1000))
        return self.find(name)


class FakeLease:
    def __init__(self, fleet: FakeFleet, socket: Path) -> None:
        self.model = MODEL
        self.plan = PLAN
        self.fallback = fleet.fallback
        self.died = asyncio.Event()
        self._fleet = fleet
        self._socket = socket

    async def connect(self, timeout_seconds: float | None) -> WorkerConnection:
        return await connect(self._socket, timeout_seconds)

    def condemn(self, because: str) -> None:
        self._fleet.condemned.append(because)

    def reason(self) -> WorkerDied:
        return WorkerDied("the worker of `tiny:1m` was killed by SIGKILL")

    def release(self) -> None:
        self._fleet.leases.discard(self)


class FakeFleet:
    """A fleet whose one worker listens on `socket`. Tests set `failure` and close `door` from their own thread."""

    def __init__(self, store: FakeStore, socket: Path) -> None:
        self.leases: set[FakeLease] = set()
        self.asked: list[str] = []
        self.demands: list[Demand] = []
        self.waiting = 0
        self.stopped: list[str] = []
        self.fallback: str | None = None
        # What `status` says of the model otherwise.
        self.shown: dict[str, Any] = {}
        self.condemned: list[str] = []
        self.closed = False
        self.failure: Exception | None = None
        self.counted: tuple[WorkerCounters, ...] = ()
        self.turnover = Turnover()
        # A lease waits while it is clear; polled, because it is set from another thread.
        self.door = threading.Event()
        self.door.set()
        self._store = store
        self._socket = socket

    async def lease(self, model: str, demand: Demand | None = None) -> FakeLease:
        self.asked.append(model)
        self.demands.append(demand or Demand())
        self._store.find(model)
        self.waiting += 1
        try:
            while not self.door.is_set():  # noqa: ASYNC110 (it is set from another thread)
                await asyncio.sleep(0.002)
        finally:
            self.waiting -= 1
        if self.failure is not None:
            raise self.failure
        lease = FakeLease(self, self._socket)
        self.leases.add(lease)
        return lease

    def status(self) -> tuple[ModelStatus, ...]:
        ready = ModelStatus(
            name=MODEL.name,
            state="ready",
            progress=None,
            pid=1,
            plan=PLAN,
            leases=len(self.leases),
            waiting=self.waiting,
            loaded_seconds=1.0,
            idle_seconds=None,
            unload_in_seconds=None,
            retry_in_seconds=None,
            restarts=3,
            last_error=None,
            log_tail=None,
        )
        return (replace(ready, **self.shown),)

    async def preview(self, model: str) -> Preview:
        self._store.find(model)
        return Preview(PLAN, ("with more memory it would be faster",))

    async def counters(self) -> tuple[WorkerCounters, ...]:
        return self.counted

    async def stop(self, model: str) -> bool:
        self._store.find(model)
        self.stopped.append(model)
        return True

    async def close(self, drain_seconds: float = 30.0) -> None:
        self.closed = True


@dataclass
class Served:
    """A gateway that serves in a thread of its own."""

    gateway: Gateway
    fleet: FakeFleet
    host: str
    port: int
    worker: Worker
    loop: asyncio.AbstractEventLoop
    stop: Callable[[], None]

    def on_loop(self, action: Callable[[], None]) -> None:
        """Run `action` on the gateway's event loop and wait for it."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (action(), done.set()))
        assert done.wait(20)

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def client(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=f"http://{self.authority}", headers=headers, trust_env=False, timeout=20)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def head(self, method: str, target: str, *headers: str, host: str | None = None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.authority}", *headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def raw(self, data: bytes) -> Answer:
        """Send `data` on a new connection and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection, "HEAD" if data.startswith(b"HEAD ") else "GET")


def every_route(gateway: Gateway) -> list[Route]:
    return route_table(gateway, Dialects(gateway), Page())


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.headers["x-request-id"])
        return dict(error)

    @property
    def message(self) -> str:
        """The message of an error, whatever the shape of the dialect."""
        error = json.loads(self.body)["error"]
        return str(error if isinstance(error, str) else error["message"])


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def is_closed(connection: socket.socket) -> bool:
    """Whether the peer closed: waits for that, or for a byte, or for the socket's own time-out."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@dataclass
class Worker:
    """tests/fake_worker.py as a process of its own."""

    socket: Path
    process: subprocess.Popen[bytes]
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(self.socket)), base_url="http://worker", trust_env=False
        )

    def stats(self) -> dict[str, int]:
        return dict(self.client.get("/stats").json())

    def seen(self, request_id: str) -> list[dict[str, Any]]:
        """The bodies that arrived under this id."""
        requests = self.client.get("/requests").json()
        return [json.loads(entry["body"]) for entry in requests if entry["request_id"] == request_id]

    def count(self) -> int:
        return len(self.client.get("/requests").json())


@contextmanager
def worker_process(directory: Path) -> Iterator[Worker]:
    path = directory / "worker.sock"
    argv = [sys.executable, str(FAKE_WORKER), "--socket", str(path), "--name", MODEL.name]
    process = subprocess.Popen([*argv, "--model", "/dev/null", "--plan", "{}"], stdin=subprocess.PIPE)
    worker = Worker(path, process)
    try:
        wait_until(lambda: _listens(path) and worker.client.get("/health").status_code == 200)
        yield worker
    finally:
        worker.client.close()
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def serving(worker: Worker, settings: Settings | None = None, limits: Limits | None = None) -> Iterator[Served]:
    """A gateway on loopback, in a thread. Without a home in the settings it has one of its own."""
    settings = settings or Settings()
    if settings.home is None:
        settings = replace(settings, home=Path(tempfile.mkdtemp(prefix="home", dir=worker.socket.parent)))
    sock = listener.bind(Settings(port=0))
    host, port = sock.getsockname()
    ready: list[Served] = []
    failure: list[BaseException] = []

    async def main() -> None:
        store = FakeStore()
        fleet = FakeFleet(store, worker.socket)
        gateway = Gateway(fleet, store, settings, limits)  # type: ignore[arg-type]
        server = make_server(gateway)
        loop = asyncio.get_running_loop()
        stop = functools.partial(setattr, server, "should_exit", True)
        ready.append(Served(gateway, fleet, host, port, worker, loop, stop))
        await server.serve(sockets=[sock])

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: ready or failure)
    try:
        if failure:
            raise failure[0]
        yield ready[0]
    finally:
        if ready:
            ready[0].stop()
        thread.join()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Poll until `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)
