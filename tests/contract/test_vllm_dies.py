"""Whatever of vLLM dies or hangs: every client is told in time, nothing of it is left, the next request is served."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped]
import pytest

from llmserve.fleet.sockets import SocketDirectory
from llmserve.settings import runtime_directory
from tests.contract.servers import Server
from tests.support import runs, until

STREAMS = 8


def part(server: Server, name: str) -> psutil.Process:
    """The process of vLLM's whose title or command line has `name` in it."""
    return next(process for process in server.parts() if name in " ".join(process.cmdline()))


def stream_until_error(server: Server, begun: Barrier) -> tuple[float, str]:
    """Read a long stream to its end; when that was, and its last event."""
    request: dict[str, Any] = {"model": server.model, "prompt": "Once", "max_tokens": 3000, "ignore_eos": True}
    last = ""
    with (
        httpx2.Client(base_url=server.url, timeout=60) as http,
        http.stream("POST", "/v1/completions", json={**request, "stream": True}) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        begun.wait(timeout=60)
        for line in lines:
            last = line or last
    return time.monotonic(), last


@pytest.mark.parametrize(
    ("name", "sent", "bound_seconds"),
    [
        ("api_server", signal.SIGKILL, 1.0),
        ("VLLM::EngineCore", signal.SIGKILL, 1.0),
        ("VLLM::EngineCore", signal.SIGSTOP, 15.0),
    ],
    ids=["server killed", "engine killed", "engine stopped"],
)
def test_a_part_that_dies_or_hangs_ends_all(
    vllm_server: Server, name: str, sent: signal.Signals, bound_seconds: float
) -> None:
    vllm_server.complete("Hi", max_tokens=1)
    parts = vllm_server.parts()
    begun = Barrier(STREAMS + 1)
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream_until_error, vllm_server, begun) for _ in range(STREAMS)]
        begun.wait(timeout=60)
        part(vllm_server, name).send_signal(sent)
        happened = time.monotonic()
        ends = [stream.result(timeout=60) for stream in streams]
    assert all('"error"' in last for _, last in ends)
    assert max(ended for ended, _ in ends) - happened < bound_seconds
    until(lambda: not any(runs(process) for process in parts), seconds=2)
    assert vllm_server.complete("Hi", max_tokens=1)["choices"]


def test_what_a_killed_gateway_and_keeper_leave_is_ended_by_the_next(told_vllm: Server) -> None:
    """The last test of that server."""
    told_vllm.complete("Hi", max_tokens=1)
    parts = told_vllm.parts()
    keeper = part(told_vllm, "llmserve.engines.keeper")
    engine = part(told_vllm, "VLLM::EngineCore")
    keeper.suspend()  # deaf to the end of its gateway
    told_vllm.process.kill()
    told_vllm.process.wait()
    keeper.kill()
    until(lambda: not runs(keeper), seconds=5)
    assert runs(engine)
    next_gateway = SocketDirectory(runtime_directory() / "workers")
    next_gateway.new_path()
    until(lambda: not any(runs(process) for process in parts), seconds=5)
    next_gateway.close()
