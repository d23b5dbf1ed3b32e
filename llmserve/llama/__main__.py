"""The llama worker.

    python -m llmserve.llama --socket PATH --name NAME --model FILE --plan JSON [--prefixes DIRECTORY]

It ends when its standard input does: that pipe is held by the gateway, so a worker never outlives one. On Linux the
kernel is asked for the same.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

from llmserve.errors import LlmserveError
from llmserve.llama.adapter_sets import Adapters, NamedAdapter
from llmserve.llama.loader import Loader
from llmserve.types import EnginePlan, from_json

# How long one thread may hold the interpreter while another waits: the engine thread must not wait 5 ms (CPython's
# default) for it after a step.
_SWITCH_SECONDS = 0.0005
_EX_USAGE = 2
_EX_SOFTWARE = 70
# A worker whose gateway is gone is itself gone within two seconds.
_INSIST_SECONDS = 1.5
_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments = _parse()
    _die_with_parent()
    threading.excepthook = _crash
    sys.setswitchinterval(_SWITCH_SECONDS)
    plan = from_json(EnginePlan, arguments.plan)
    try:
        adapters = _adapters(arguments)
    except ValueError:
        sys.stderr.write("error: --adapter takes a file and a number, --named-adapter a name before them\n")
        return _EX_USAGE
    loader = Loader(arguments.name, arguments.model, plan, arguments.prefixes, arguments.template, adapters)
    try:
        _run(_serve(arguments.socket, loader))
    except LlmserveError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"error: {error.message}{hint}\n")
        return error.exit_code
    return 0


async def _serve(socket: Path, loader: Loader) -> None:
    import uvicorn

    from llmserve.llama.app import create_app

    class Server(uvicorn.Server):
        """Closes the loader at the end: a signal that asked for it is raised again afterwards, and ends the process."""

        async def shutdown(self, sockets: list[Any] | None = None) -> None:
            await super().shutdown(sockets)
            loader.close()

    config = uvicorn.Config(
        create_app(loader),
        uds=str(socket),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    threading.Thread(target=_watch_lifeline, name="lifeline", daemon=True).start()
    serving = asyncio.ensure_future(server.serve())
    try:
        await loader.load()
        await serving
    finally:
        server.should_exit = True
        await serving


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmserve.llama", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--name", required=True, help="the model's name in answers")
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--plan", required=True, help="the EnginePlan, as JSON")
    parser.add_argument("--prefixes", type=Path, help="directory of the model's prefixes, kept from run to run")
    parser.add_argument("--template", type=Path, help="a chat template to use instead of the file's own")
    parser.add_argument(
        "--adapter", nargs=2, action="append", default=[], metavar=("FILE", "SCALE"), help="a LoRA in a GGUF file"
    )
    parser.add_argument(
        "--named-adapter",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "FILE", "SCALE"),
        help="a LoRA for requests that name it",
    )
    parser.add_argument("--default-adapter", metavar="NAME", help="the named one for requests that name none")
    return parser.parse_args()


def _adapters(arguments: argparse.Namespace) -> Adapters:
    """Raises ValueError for a scale that is no number."""
    return Adapters(
        always=tuple((Path(path), float(scale)) for path, scale in arguments.adapter),
        named=tuple(NamedAdapter(name, Path(path), float(scale)) for name, path, scale in arguments.named_adapter),
        default=arguments.default_adapter,
    )


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _watch_lifeline() -> None:
    """Wait for the end of standard input, then ask for a graceful stop, then insist."""
    # Not through sys.stdin, whose lock a thread that never returns would hold at the interpreter's end.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_INSIST_SECONDS)
    os._exit(0)


def _die_with_parent() -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _crash(args: threading.ExceptHookArgs) -> NoReturn:
    """A thread that dies takes the worker with it: the gateway starts another, instead of waiting for this one."""
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
    sys.stderr.flush()
    os._exit(_EX_SOFTWARE)


if __name__ == "__main__":
    sys.exit(main())
