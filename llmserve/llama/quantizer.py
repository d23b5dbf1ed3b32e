"""`python -P -m llmserve.llama.quantizer --type Q4_0 --threads 2 [--again] INPUT OUTPUT`: llama.cpp's own quantization.

It runs in a process of its own, because native code may end it. Standard output is JSON lines: `{"tensor": NAME}` as
the work on each begins, at last `{"done": true}` or `{"failed": REASON}`. It ends when its standard input does: that
pipe is the lifeline held by whoever started it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import sys
import threading
from collections.abc import Callable
from typing import Any

import llama_cpp

# What llama.cpp logs when it begins a tensor: `[  12/ 272] blk.1.attn_q.weight - [  576, ...], type = q4_1, ...`.
_TENSOR = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)")
_LEVEL_ERROR = 4
# Its names for the types that are not called as people call them.
_FILE_TYPES = {"F32": "ALL_F32"}


def main() -> int:
    arguments = _parse()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Native code may print; standard output is for what is told.
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_watch_lifeline, name="lifeline", daemon=True).start()

    def tell(**event: object) -> None:
        told.write(f"{json.dumps(event)}\n")

    log = _Log(tell)
    status = quantize(arguments, log)
    if status == 0:
        tell(done=True)
    else:
        tell(failed=log.last_error or f"llama.cpp ended with the status {status}")
    return int(status != 0)


class _Log:
    """Takes llama.cpp's log: tells of each tensor, and keeps the last error."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.last_error: str | None = None
        self._tell = tell

    def __call__(self, level: int, text: bytes, _data: Any) -> None:
        line = text.decode(errors="replace").strip()
        if match := _TENSOR.match(line):
            self._tell(tensor=match[1])
        elif level == _LEVEL_ERROR and line:
            self.last_error = line


def quantize(arguments: argparse.Namespace, log: Callable[[int, bytes, Any], None]) -> int:
    """Write the output; returns llama.cpp's status, 0 for success."""
    callback = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_quantize_default_params()
    name = _FILE_TYPES.get(arguments.type, f"MOSTLY_{arguments.type}")
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{name}")
    parameters.nthread = arguments.threads
    parameters.allow_requantize = arguments.again
    paths = (os.fsencode(arguments.input), os.fsencode(arguments.output))
    return int(llama_cpp.llama_model_quantize(*paths, ctypes.byref(parameters)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmserve.llama.quantizer", description=__doc__)
    parser.add_argument("--type", required=True, help="the type, as in Q4_K_M")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--again", action="store_true", help="the input may be quantized already")
    parser.add_argument("input")
    parser.add_argument("output")
    return parser.parse_args()


def _watch_lifeline() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
