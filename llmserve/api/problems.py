"""The latest problems in memory: warnings and errors of the log, and requests that were refused."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmserve.errors import InvalidRequest, LlmserveError
from llmserve.openai.json import parse_json

KEPT = 100
_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """What happened `count` times, the last at `time` (seconds since 1970).

    where: the part of the program that logged it, or what was asked for. status: of the answer to a refused request.
    """

    level: str
    where: str
    message: str
    status: int | None
    time: float = 0.0
    count: int = 0


class Problems(logging.Handler):
    """A handler of the log that keeps what it is given. Any thread may call any method.

    The same problem again counts, and takes no second place: whoever repeats himself drives nothing else out.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._latest: OrderedDict[Problem, Problem] = OrderedDict()
        self._changing = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            # Whoever logs must not fail for it.
            self.handleError(record)
            return
        if record.exc_info and record.exc_info[0] is not None:
            # Its own message may quote a prompt.
            message = f"{message} ({record.exc_info[0].__qualname__})"
        self._note(Problem(record.levelname.lower(), record.name, _shown(message), None))

    def refused(self, where: str, error: LlmserveError) -> None:
        """A request for `where` was answered with `error`. What is a fault of the program is in the log."""
        if error.status != 500:
            self._note(Problem("warning", _shown(where), _shown(error.explained), error.status))

    def refused_by_worker(self, where: str, status: int, body: bytes) -> None:
        """Likewise, with an error of the worker's in OpenAI's shape."""
        try:
            told: Any = parse_json(body)
            message = told["error"]["message"]
        except (InvalidRequest, KeyError, TypeError):
            message = "the worker refused the request"
        self._note(Problem("warning", where, _shown(str(message)), status))

    def latest(self) -> list[dict[str, Any]]:
        """The problems, the latest first."""
        with self._changing:
            return [asdict(problem) for problem in reversed(self._latest.values())]

    def _note(self, problem: Problem) -> None:
        with self._changing:
            known = self._latest.pop(problem, problem)
            self._latest[problem] = replace(known, time=time.time(), count=known.count + 1)
            if len(self._latest) > KEPT:
                self._latest.popitem(last=False)


def _shown(text: str) -> str:
    """`text` on one line, not endless, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST_TEXT])
