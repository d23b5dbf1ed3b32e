"""The worker's handle on a preparer: asks it one thing at a time, and replaces it when it is lost."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmserve.errors import Unavailable
from llmserve.llama.channel import Channel, ChannelBroken

Work = Literal["templates", "grammars"]

# Imports, and a tokenizer of 250,000 tokens, on a slow machine that is loading a model besides.
_SETUP_SECONDS = 60.0
# A server that did not die at its own limit (a stopped process, a system without these timers) is given so much more.
_GRACE_SECONDS = 0.5
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class PreparerLimits:
    """What one request may use. `memory_bytes` is on top of what the process has anyway; only Linux enforces it."""

    cpu_seconds: float = 1.0
    wall_seconds: float = 1.5
    memory_bytes: int = 512 * 1024 * 1024


class GaveUp(Exception):
    """The request was too much for its limits, or ended its server: a 400 for whoever knows the field at fault."""


class Preparer:
    """One helper process for one kind of work. Safe to use from several threads, which take turns.

    A request that exceeds the limits costs its own answer; the next one finds a fresh server.
    """

    def __init__(self, work: Work, limits: PreparerLimits | None = None) -> None:
        self._work: Work = work
        self._limits = limits or PreparerLimits()
        self._setup: Callable[[], Mapping[str, Any]] = dict
        self._turn = threading.Lock()
        self._identities = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ready = False
        self._closed = False

    def start(self) -> None:
        """Start the process, so that it loads its libraries while the worker does something else. Does not wait."""
        with self._turn:
            if self._channel is None:
                self._spawn()

    def set_up(self, setup: Callable[[], Mapping[str, Any]]) -> None:
        """State what a process of this handle is set up with, before the first `ask`.

        Called when the first request needs it, and again for a process that replaces a lost one.
        """
        self._setup = setup

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `request`. Blocks for at most the limits and the turns of others.

        Raises `GaveUp` where the request cannot be answered within the limits, `Unavailable` where no process can be
        had.
        """
        with self._turn:
            for _ in range(_ATTEMPTS):
                try:
                    answer = self._exchange(request)
                except TimeoutError:
                    self._drop()
                    raise self._too_slow() from None
                except ChannelBroken:
                    self._drop()
                    continue
                died = answer.get("died")
                if died == "time":
                    raise self._too_slow()
                if died == "crash":
                    raise GaveUp("it takes more memory or depth than a request may use")
                if died is None:
                    return answer
            raise GaveUp("its preparation was ended twice from outside, as by a system that is short of memory")

    def close(self) -> None:
        """End the process; whoever still waits gets `Unavailable`. May be called twice."""
        self._closed = True
        self._drop()
        with self._turn:
            self._drop()  # what a request in flight may have started meanwhile

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        channel = self._connected()
        identity = next(self._identities)
        seconds = self._limits.wall_seconds + _GRACE_SECONDS
        channel.send({"id": identity, **request}, seconds)
        while (answer := channel.receive(seconds)) is not None:
            # A server that was killed while idle leaves a message, and its successor the answer to a request that was
            # asked again: neither is what this one waits for.
            if answer.get("id") == identity or "died" in answer:
                return answer
        raise ChannelBroken

    def _connected(self) -> Channel:
        if self._channel is None:
            self._spawn()
        channel = self._channel
        if channel is None:
            raise ChannelBroken
        if not self._ready:
            try:
                channel.send({"work": self._work, "limits": asdict(self._limits), **self._setup()}, _SETUP_SECONDS)
                answer = channel.receive(_SETUP_SECONDS)
            except TimeoutError:
                self._drop()
                raise Unavailable("the worker's helper process does not start", retry_after=5) from None
            if answer != {"ready": True}:
                raise ChannelBroken
            self._ready = True
        return channel

    def _spawn(self) -> None:
        if self._closed:
            raise Unavailable("the worker is closing", retry_after=1)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # No parent-death signal: on Linux that is the death of the thread that starts the process, and this
                # one may be a thread of a pool. Standard input is the lifeline.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "llmserve.llama.preparer", self._work],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise Unavailable("the worker's helper process cannot be started", retry_after=5) from error
        self._channel = Channel(ours)
        self._ready = False

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        process, self._process = self._process, None
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()

    def _too_slow(self) -> GaveUp:
        return GaveUp(f"it takes longer than the {self._limits.cpu_seconds:g} s of computing that a request may use")
