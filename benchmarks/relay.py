"""What the gateway adds to a stream: events per second through one gateway process, its processor time per event, and
the latency it adds, each beside a client that asks the same worker directly.

    python -m benchmarks.relay rate --streams 1 16 64 512
    python -m benchmarks.relay latency --streams 512 --seconds 60 --interval 0.05

Gateway, worker and client are a process each. Figures of one machine say little; the ratio to the direct run does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from llmserve.api import listener
from llmserve.api.gateway import Gateway
from llmserve.api.limits import Limits
from llmserve.api.server import make_server
from llmserve.engines.command import Command
from llmserve.fleet.fleet import Fleet
from llmserve.fleet.launcher import Launcher
from llmserve.settings import Settings
from llmserve.types import EnginePlan, InstalledModel

WORKER = Path(__file__).with_name("stream_worker.py")
_STAMP = re.compile(rb'"n":(\d+),"t":(\d+\.\d+),')
_EVENT_END = b"\n\n"


@dataclass(frozen=True, slots=True)
class Script:
    """What each of `streams` asks for."""

    streams: int
    events: int
    interval: float = 0.0


@dataclass(slots=True)
class Stream(asyncio.Protocol):
    """One client. Notes every event's delay, or only counts them; `done` is set when the connection has ended."""

    request: bytes
    timed: bool
    events: int = 0
    disordered: int = 0
    whole: bool = False
    delays: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    _rest: bytes = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.timed:
            # An event's end may be cut in two.
            data = self._rest + data
            self.events += data.count(_EVENT_END)
            self._rest = b"" if data.endswith(_EVENT_END) else data[-1:]
            self.whole = self.whole or b"[DONE]" in data
            return
        now = time.monotonic()
        data = self._rest + data
        end = data.rfind(_EVENT_END) + 1
        self._rest = data[end:]
        for number, sent in _STAMP.findall(data, 0, end):
            self.disordered += int(number) != self.events
            self.events += 1
            self.delays.append(now - float(sent))
        self.whole = self.whole or b"[DONE]" in data

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()


def request(script: Script) -> bytes:
    body = json.dumps(
        {
            "model": "bench",
            "messages": [
                {"role": "user", "content": json.dumps({"events": script.events, "interval": script.interval})}
            ],
            "stream": True,
        }
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def stream(script: Script, address: Path | tuple[str, int], *, timed: bool) -> list[Stream]:
    """Run all streams to their ends, from `address`: a Unix socket, or host and port."""
    loop = asyncio.get_running_loop()

    async def one() -> Stream:
        def client() -> Stream:
            return Stream(request(script), timed)

        if isinstance(address, Path):
            _, protocol = await loop.create_unix_connection(client, str(address))
        else:
            _, protocol = await loop.create_connection(client, *address)
        await protocol.done.wait()
        return protocol

    return list(await asyncio.gather(*(one() for _ in range(script.streams))))


# --- the processes ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def child(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def serve_gateway(folder: Path, streams: int, max_queue: int) -> None:
    """The gateway process: a real fleet whose one model is served by the stream worker. Prints its port."""
    from tests.fleet.fakes import GIB, FakeMachine, FakeStore

    def launch(_: EnginePlan, model: InstalledModel, socket: Path) -> Command:
        return Command((sys.executable, str(WORKER), "--socket", str(socket)), {})

    store = FakeStore(folder)
    store.add("bench")
    settings = Settings(home=folder, port=0, max_queue=max_queue, parallel=streams)
    machine = FakeMachine(64 * GIB)
    fleet = Fleet(store, settings, launcher=Launcher(settings, launch), machine=machine)  # type: ignore[arg-type]
    machine.fleet = fleet
    gateway = Gateway(fleet, store, settings, Limits(connections=4096))  # type: ignore[arg-type]
    with listener.bound(settings) as sock:
        (await fleet.lease("bench")).release()
        print(sock.getsockname()[1], flush=True)
        await make_server(gateway).serve(sockets=[sock])


@contextlib.asynccontextmanager
async def gateway_process(streams: int, max_queue: int | None = None) -> AsyncIterator[tuple[int, psutil.Process]]:
    """A gateway's port and process. `max_queue` is 512 where nothing else is said, so that nobody is refused."""
    queue = str(512 if max_queue is None else max_queue)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--folder", folder, "--streams", str(streams), "--max-queue", queue)
        async with child("-m", "benchmarks.relay", "gateway", *arguments) as process:
            assert process.stdout is not None  # noqa: S101 - tells the type
            yield int(await process.stdout.readline()), psutil.Process(process.pid)


@contextlib.asynccontextmanager
async def worker_process() -> AsyncIterator[tuple[Path, psutil.Process]]:
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "worker.sock"
        async with child(str(WORKER), "--socket", str(socket)) as process:
            while not socket.exists():  # noqa: ASYNC110 (another process makes it)
                await asyncio.sleep(0.01)
            yield socket, psutil.Process(process.pid)


# --- the measurements ------------------------------------------------------------------------------------------------


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def check(results: list[Stream], script: Script, *, exact: bool) -> None:
    """Every stream whole, and (`exact`) with every event once and in order."""
    lost = [one for one in results if not one.whole or (exact and (one.events != script.events or one.disordered))]
    if lost:
        raise RuntimeError(f"{len(lost)} of {script.streams} streams are not whole, or out of order")


async def measure_rate(all_streams: list[int], total: int) -> None:
    print(f"{'streams':>7}  {'way':<8}{'events/s':>10}{'us CPU/event':>14}")
    for streams in all_streams:
        script = Script(streams, events=total // streams)
        async with worker_process() as (socket, worker):
            await _rate("direct", script, socket, worker)
        async with gateway_process(streams) as (port, gateway):
            await _rate("gateway", script, ("127.0.0.1", port), gateway)


async def _rate(way: str, script: Script, address: Path | tuple[str, int], process: psutil.Process) -> None:
    await stream(Script(script.streams, 10), address, timed=False)
    used, started = cpu_seconds(process), time.perf_counter()
    results = await stream(script, address, timed=False)
    seconds = time.perf_counter() - started
    check(results, script, exact=False)
    events = script.streams * script.events
    cost = (cpu_seconds(process) - used) / events * 1e6
    print(f"{script.streams:>7}  {way:<8}{events / seconds:>10,.0f}{cost:>14.2f}", flush=True)


async def measure_latency(script: Script, ways: Sequence[str]) -> None:
    print(f"{script.streams} streams, an event each {script.interval * 1000:g} ms, {script.events} events")
    print(f"{'way':<8}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>9}{'CPU %':>8}")
    if "direct" in ways:
        async with worker_process() as (socket, worker):
            await _latency("direct", script, socket, worker)
    if "gateway" in ways:
        async with gateway_process(script.streams) as (port, gateway):
            await _latency("gateway", script, ("127.0.0.1", port), gateway)


async def _latency(way: str, script: Script, address: Path | tuple[str, int], process: psutil.Process) -> None:
    await stream(Script(script.streams, 10), address, timed=True)
    used, started = cpu_seconds(process), time.perf_counter()
    results = await stream(script, address, timed=True)
    share = (cpu_seconds(process) - used) / (time.perf_counter() - started)
    check(results, script, exact=True)
    permille = statistics.quantiles([delay * 1000 for one in results for delay in one.delays], n=1000)
    print(f"{way:<8}{permille[499]:>9.2f}{permille[989]:>9.2f}{permille[998]:>9.2f}{share:>8.0%}", flush=True)


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    rate = actions.add_parser("rate")
    rate.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 512])
    rate.add_argument("--events", type=int, default=200_000, help="of all streams together")
    latency = actions.add_parser("latency")
    latency.add_argument("--streams", type=int, default=512)
    latency.add_argument("--seconds", type=float, default=60.0)
    latency.add_argument("--interval", type=float, default=0.05)
    latency.add_argument("--ways", nargs="+", choices=("direct", "gateway"), default=["direct", "gateway"])
    gateway = actions.add_parser("gateway")
    gateway.add_argument("--folder", type=Path, required=True)
    gateway.add_argument("--streams", type=int, required=True)
    gateway.add_argument("--max-queue", type=int, required=True)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if arguments.action == "rate":
        uvloop.run(measure_rate(arguments.streams, arguments.events))
    elif arguments.action == "latency":
        script = Script(arguments.streams, int(arguments.seconds / arguments.interval), arguments.interval)
        uvloop.run(measure_latency(script, arguments.ways))
    else:
        uvloop.run(serve_gateway(arguments.folder, arguments.streams, arguments.max_queue))


if __name__ == "__main__":
    main()
