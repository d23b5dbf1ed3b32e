"""`python -P -m llmserve.llama.preparer`: runs what strangers wrote, templates and grammars, where it can be killed.

The process sets itself up once, then forks a server that answers one request after the other. Each request runs under
timers and a memory limit that the kernel enforces, whatever native code is doing: whoever exceeds them is gone, the
process says so in the dead server's place and forks the next one, which takes milliseconds because everything is
already loaded. Standard input is a socket that the worker holds, and the lifeline: at its end both processes end.

    worker -> {"work": "templates" | "grammars", "limits": {...}, ...}     answered by {"ready": true}
    worker -> {"id": 7, ...}                                               answered by {"id": 7, ...}
                                             or, for a server that died, by {"died": "time" | "crash" | "killed"}
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmserve.llama.channel import Channel, ChannelBroken

Handler = Callable[[dict[str, Any]], dict[str, Any]]

_PR_SET_PDEATHSIG = 1
_EX_USAGE = 64


def main() -> int:
    # It ends with its standard input; a signal to the worker's group must not end it before the worker is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _import_ahead(sys.argv[1:])
    channel = Channel(socket.socket(fileno=os.dup(0)))
    try:
        setup = channel.receive()
        if setup is None:
            return 0
        handler = _handler(setup)
        channel.send({"ready": True})
        return _keep_serving(channel, handler, setup["limits"])
    except ChannelBroken:
        return 0


def _import_ahead(works: list[str]) -> None:
    """Read the libraries while the worker is still loading its model."""
    for work in works:
        if work == "templates":
            import llmserve.llama.template_work
        elif work == "grammars":
            import llmserve.llama.grammar_work  # noqa: F401
        else:
            sys.exit(_EX_USAGE)


def _handler(setup: dict[str, Any]) -> Handler:
    if setup["work"] == "templates":
        from llmserve.llama.template_work import TemplateWork

        return TemplateWork.from_setup(setup)
    from llmserve.llama.grammar_work import GrammarWork

    return GrammarWork.from_setup(setup)


def _keep_serving(channel: Channel, handler: Handler, limits: dict[str, Any]) -> int:
    parent = os.getpid()
    while True:
        server = os.fork()
        if server == 0:
            # Never back into the code above, which is the parent's, whatever happens here.
            status = 1
            try:
                _confine(parent, int(limits["memory_bytes"]))
                status = _serve(channel, handler, limits)
            finally:
                os._exit(status)
        _, status = os.waitpid(server, 0)
        if status == 0:
            return 0
        channel.send({"died": _cause(status)})


def _serve(channel: Channel, handler: Handler, limits: dict[str, Any]) -> int:
    while (request := channel.receive()) is not None:
        # Their default action ends the process, which native code cannot delay. The first counts processor time, so
        # that a busy machine costs nobody his answer; the second is for whatever waits instead of computing.
        signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, limits["wall_seconds"])
        try:
            answer = handler(request)
        except MemoryError:
            answer = {"refused": "it needs too much memory"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.send({"id": request["id"], **answer})
    return 0


def _confine(parent: int, memory_bytes: int) -> None:
    # What a library prints as it dies may hold a user's text, which belongs into no log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _cause(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "crash"
    ended_by = os.WTERMSIG(status)
    if ended_by in (signal.SIGPROF, signal.SIGALRM):
        return "time"
    return "killed" if ended_by == signal.SIGKILL else "crash"


if __name__ == "__main__":
    sys.exit(main())
