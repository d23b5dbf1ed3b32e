"""Two servers measured turn by turn on one machine, so that one whose speed drifts favours neither."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from benchmarks.servers import Server, llama_server, llmserve

T = TypeVar("T")


def arguments(program: str, description: str | None) -> argparse.ArgumentParser:
    """What every comparison is asked."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--llama-server", type=Path, required=True, help="the peer's program")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser


@contextlib.contextmanager
def both(model: Path, binary: Path, *, slots: int, slot_tokens: int, threads: int) -> Iterator[tuple[Server, Server]]:
    """llmserve with its own choices, and llama-server with `slots` slots of `slot_tokens` tokens."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(llmserve(model.absolute(), folder, max(16, slots)))
        peer = llama_server(binary, model.absolute(), slots, threads, folder, slot_tokens=slot_tokens)
        yield ours, stack.enter_context(peer)


async def take_turns(
    servers: tuple[Server, Server], repetitions: int, measure: Callable[[Server, int], Awaitable[T]]
) -> tuple[list[T], list[T]]:
    """`measure(server, repetition)` of each server, after one that warms up and does not count.

    Whoever goes first in one repetition goes second in the next.
    """
    results: dict[Server, list[T]] = {server: [] for server in servers}
    for repetition in range(-1, repetitions):
        for server in servers if repetition % 2 else reversed(servers):
            measured = await measure(server, repetition)
            if repetition >= 0:
                results[server].append(measured)
    return results[servers[0]], results[servers[1]]
