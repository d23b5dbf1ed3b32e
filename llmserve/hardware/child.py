"""A probe that loads native code, in a child: a driver's crash or hang costs this child and nothing else.

    python -P -m llmserve.hardware.child MODULE:FUNCTION

calls FUNCTION() and prints one JSON object: `{"found": ...}`, or `{"none": REASON}` when it raised `ProbeFailed`.
`run_child` is the parent's side.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.process import capture

# The parent kills a child that is late; the alarm ends one whose parent has gone.
LIFETIME_SECONDS = 60


def run_child(target: str, *, timeout: float, environment: Mapping[str, str] | None = None) -> Any:
    """Call `target` ("module:function") in a child and return what it found, as plain JSON values.

    Raises `ProbeFailed` with the reason when the child found nothing, crashed, was killed, wrote something else or
    did not answer within `timeout` seconds. `environment` defaults to this process's, scrubbed.
    """
    captured = capture(
        (sys.executable, "-P", "-m", __name__, target),
        subject="the probe",
        timeout=timeout,
        environment=native_environment(os.environ) if environment is None else environment,
    )
    if captured.status != 0:
        words = f" ({captured.last_words})" if captured.last_words else ""
        raise ProbeFailed(f"the probe ended with status {captured.status}{words}")
    return parse_reply(captured.stdout)


def parse_reply(text: str) -> Any:
    """The value in a child's reply. Raises `ProbeFailed` with its reason, or when `text` is no reply."""
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        raise ProbeFailed("the probe's answer is not JSON") from None
    match reply:
        case {"found": found}:
            return found
        case {"none": str(reason)}:
            raise ProbeFailed(reason)
        case _:
            raise ProbeFailed("the probe's answer has an unknown form")


def answer(probe: Callable[[], object]) -> str:
    """The reply for what `probe` returns or raises."""
    try:
        reply: dict[str, object] = {"found": probe()}
    except ProbeFailed as failure:
        reply = {"none": str(failure)}
    return json.dumps(reply, default=dataclasses.asdict)


def _main(target: str) -> None:
    signal.alarm(LIFETIME_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Drivers print to stdout too: keep it for the answer and point the name at stderr.
    stdout = os.dup(1)
    os.dup2(2, 1)
    module, _, function = target.partition(":")
    reply = answer(getattr(importlib.import_module(module), function))
    with os.fdopen(stdout, "w") as stream:
        stream.write(reply)


if __name__ == "__main__":
    _main(sys.argv[1])
    # The answer is out: do not let a driver's exit handlers spoil it.
    os._exit(0)
