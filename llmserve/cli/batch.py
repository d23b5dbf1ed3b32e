"""`llmserve batch`: files of requests, without a client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import talk
from llmserve.errors import InvalidRequest

if TYPE_CHECKING:
    from llmserve.batches.lines import BadInput

# As many problems of a file are told; whoever made one line wrong made most of them wrong.
_TOLD_PROBLEMS = 5


@click.group("batch")
def command() -> None:
    """Answer files of requests."""


@command.command("run")
@click.argument("input_path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUTPUT",
    help="Where the answers go; errors go to a file beside it.",
)
@click.option("--model", metavar="MODEL", help="Ask this model, whatever the requests say.")
def run(input_path: Path, output: Path, model: str | None) -> int:
    """Answer each line of FILE once.

    A line is a request as OpenAI's Batch API has it: custom_id, method, url and body. Answers lie in OUTPUT in the
    order of FILE, and errors in OUTPUT with `.errors` before its suffix. Until all are there they are kept in
    OUTPUT.partial: whatever ends this command, the same command goes on where it was.

    The running server is used if there is one, for lines behind everybody else's requests; otherwise a private one.
    The exit code is 1 if a line was answered with an error.
    """
    from llmserve.batches.lines import BadInput, InputFile
    from llmserve.cli.batch_run import BatchRun
    from llmserve.cli.connection import any_gateway
    from llmserve.settings import load_settings

    settings = load_settings()
    file = InputFile(input_path, model=model, max_lines=None)
    try:
        summary = file.check()
        with BatchRun(file, summary, output) as batch:
            if batch.begun:
                talk(f"{batch.begun} of {summary.total} lines are answered already")
            if batch.begun < summary.total:
                with any_gateway(settings) as gateway:
                    batch.answer(gateway)
            return batch.finish()
    except BadInput as error:
        raise _refused(error) from error


def _refused(bad: BadInput) -> InvalidRequest:
    lines = [
        problem.message if problem.line is None else f"line {problem.line}: {problem.message}"
        for problem in bad.problems
    ]
    if bad.problems[0].code == "missing_model":
        return InvalidRequest(lines[0], hint="`--model MODEL` asks one model, whatever the requests say")
    hint = "; ".join(lines[1:_TOLD_PROBLEMS])
    more = len(lines) - _TOLD_PROBLEMS
    return InvalidRequest(lines[0], hint=f"also {hint}{f', and {more} more' if more > 0 else ''}" if hint else None)
