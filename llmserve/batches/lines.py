"""The input file of a batch, one request a line, never read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from llmserve.errors import InvalidRequest
from llmserve.openai.batches import BatchLine
from llmserve.openai.json import dump_json, parse_json
from llmserve.openai.schema import IgnoredFields, invalid_request

MAX_LINES = 50_000
MAX_LINE_BYTES = 10 * 1024 * 1024
# Whoever made a file wrong made all its lines wrong; the first ones tell enough.
MAX_PROBLEMS = 100
# The file is read once for each.
MAX_MODELS = 16


@dataclass(frozen=True, slots=True)
class InputLine:
    """One request: `number` counts the lines of the file from 1, `body` is JSON with `model` in it."""

    number: int
    custom_id: str
    url: str
    model: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an input file, and in which line (None: with the whole)."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def shown(self) -> dict[str, Any]:
        """In the shape of OpenAI's batch errors."""
        return asdict(self)


class BadInput(Exception):
    """An input file of which no line is to be run."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class _BadLine(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sound input file holds: how many requests, and for each of their models the first line that names it."""

    total: int
    models: dict[str, int]


@dataclass(frozen=True, slots=True)
class InputFile:
    """The requests in the file at `path`; blank lines are none.

    endpoint: the `url` that every line must have (None: any that a batch may have). model: what every request asks for,
    whatever it says itself. max_lines, max_line_bytes: more is a problem.
    """

    path: Path
    endpoint: str | None = None
    model: str | None = None
    max_lines: int | None = MAX_LINES
    max_line_bytes: int = MAX_LINE_BYTES

    def check(self) -> Summary:
        """Read the whole file; blocks. Raises `BadInput` with up to `MAX_PROBLEMS` problems, and `OSError`."""
        first_lines: dict[str, int] = {}
        models: dict[str, int] = {}
        problems: list[Problem] = []
        for number, raw in self._raw_lines():
            try:
                line = self._line(number, raw)
                if (first := first_lines.setdefault(line.custom_id, number)) != number:
                    message = f"the `custom_id` is that of line {first} too"
                    raise _BadLine(Problem("duplicate_custom_id", message, "custom_id", number))
                models.setdefault(line.model, number)
            except _BadLine as bad:
                problems.append(bad.problem)
            if self.max_lines is not None and len(first_lines) > self.max_lines:
                problems.append(Problem("too_many_lines", f"there are more than {self.max_lines} requests"))
            if len(models) > MAX_MODELS:
                problems.append(Problem("too_many_models", f"there are more than {MAX_MODELS} models", "body.model"))
            if len(problems) >= MAX_PROBLEMS or (problems and problems[-1].line is None):
                break
        if not problems and not first_lines:
            problems.append(Problem("empty_file", "the file holds no requests"))
        if problems:
            raise BadInput(tuple(problems))
        return Summary(len(first_lines), models)

    def lines(self, model: str) -> Iterator[InputLine]:
        """The requests for `model` of a file that was checked; blocks while it reads.

        Raises `BadInput` where the file is not what it was, and `OSError`.
        """
        for number, raw in self._raw_lines():
            try:
                line = self._line(number, raw)
            except _BadLine as bad:
                raise BadInput((replace(bad.problem, message=f"the file has changed: {bad.problem.message}"),)) from bad
            if line.model == model:
                yield line

    def _raw_lines(self) -> Iterator[tuple[int, bytes]]:
        with self.path.open("rb") as file:
            number = 0
            while raw := file.readline(self.max_line_bytes + 2):
                number += 1
                if raw.strip():
                    yield number, raw
                if not raw.endswith(b"\n"):
                    _skip_line(file)

    def _line(self, number: int, raw: bytes) -> InputLine:
        if len(raw) > self.max_line_bytes + 1:
            message = f"the line is longer than {self.max_line_bytes} bytes"
            raise _BadLine(Problem("line_too_long", message, line=number))
        try:
            value = parse_json(raw)
        except InvalidRequest as error:
            message = error.message.replace("the body", "the line", 1)
            raise _BadLine(Problem("invalid_json_line", message, line=number)) from error
        if not isinstance(value, dict):
            raise _BadLine(Problem("invalid_json_line", "the line is not a JSON object", line=number))
        try:
            line = BatchLine.model_validate(value, context=IgnoredFields())
        except (ValidationError, InvalidRequest) as error:
            refusal = error if isinstance(error, InvalidRequest) else invalid_request(error)
            raise _BadLine(Problem("invalid_line", refusal.message, refusal.param, number)) from error
        if self.endpoint is not None and line.url != self.endpoint:
            message = f"`url` is not the batch's endpoint {self.endpoint}"
            raise _BadLine(Problem("endpoint_mismatch", message, "url", number))
        body = line.body if self.model is None else {**line.body, "model": self.model}
        model = body.get("model")
        if not isinstance(model, str):
            raise _BadLine(Problem("missing_model", "`body.model` must name a model", "body.model", number))
        return InputLine(number, line.custom_id, line.url, model, dump_json(body))


def _skip_line(file: BinaryIO) -> None:
    """Read on to the end of a line that is too long to be kept."""
    while (piece := file.readline(64 * 1024)) and not piece.endswith(b"\n"):
        pass
