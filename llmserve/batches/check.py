"""What ends a batch otherwise than by being answered: input that makes no sense, and time that is up."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from llmserve.batches.answers import unanswered
from llmserve.batches.journal import Journal
from llmserve.batches.lines import BadInput, InputFile, Problem, Summary
from llmserve.errors import LlmserveError

if TYPE_CHECKING:
    from llmserve.store.store import Store

_EXPIRED = "the batch's completion window was over before this request was answered"
# Kept at once.
_CHUNK = 1000


def check(file: InputFile, store: Store) -> Summary:
    """As `InputFile.check`; the models must be in `store` too."""
    summary = file.check()
    problems: list[Problem] = []
    for model, line in summary.models.items():
        try:
            store.find(model)
        except LlmserveError as error:
            problems.append(Problem(error.code or "invalid_model", error.explained, "body.model", line))
    if problems:
        raise BadInput(tuple(problems))
    return summary


def expire(file: InputFile, models: Iterable[str], journal: Journal) -> None:
    """Answer what is not answered with an error that says why. Blocks."""
    for model in models:
        missing = (line for line in file.lines(model) if line.number not in journal)
        while answers := [unanswered(line, "batch_expired", _EXPIRED) for line in islice(missing, _CHUNK)]:
            journal.add(answers)


def missing_input() -> Problem:
    """The input file is not there any more."""
    return Problem("input_file_not_found", "the input file was deleted before every line was answered", "input_file_id")
