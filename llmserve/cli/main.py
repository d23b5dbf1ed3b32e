"""The entry point: finds the command, and turns every failure into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or a request that cannot be, 130 interrupted; 71 and 78 are those of
`StartupFailed` and `SettingsError`. Starting must be quick, so this module and those of the commands import click and
nothing else that is heavy; each command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from llmserve import __version__
from llmserve.cli.terminal import show_error
from llmserve.errors import LlmserveError

PROGRAM = "llmserve"
# By which click is told that a shell wants completions, and for what.
COMPLETION_VARIABLE = "_LLMSERVE_COMPLETE"
COMMANDS = (
    "run",
    "batch",
    "pull",
    "list",
    "show",
    "rm",
    "cp",
    "create",
    "quantize",
    "verify",
    "lock",
    "du",
    "pin",
    "unpin",
    "prune",
    "import",
    "export",
    "ps",
    "stop",
    "serve",
    "connect",
    "logs",
    "completion",
    "plan",
    "tune",
    "probe",
    "doctor",
    "engines",
)
# Where the command's name is none for a module.
_MODULES = {"import": "import_models"}

_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own names, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"llmserve.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            similar = difflib.get_close_matches(name, COMMANDS, n=1)
            raise UnknownCommand(name, similar[0] if similar else None)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Else click would write an empty line.
            raise click.exceptions.Exit(_INTERRUPTED) from None


class UnknownCommand(click.UsageError):
    """A command that does not exist, and the one that was probably meant."""

    def __init__(self, name: str, similar: str | None) -> None:
        super().__init__(f"there is no command `{name}`")
        self.hint = f"did you mean `{PROGRAM} {similar}`?" if similar else f"`{PROGRAM} --help` lists the commands"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def llmserve() -> None:
    """Run large language models on this machine.

    llmserve looks at the hardware, plans how to run the model on it, says why, and serves it through an
    OpenAI-compatible endpoint. MODEL is a name (smollm2:135m, hf:owner/repository:Q4_K_M) or the path of a .gguf file.

    \b
    llmserve run smollm2 "Why is the sky blue?"    one answer
    llmserve run smollm2                           a chat
    llmserve serve                                 the HTTP server
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark instead of a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if COMPLETION_VARIABLE in os.environ:
        from llmserve.cli.completion import prepare

        prepare()
    try:
        result: Any = llmserve.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        show_error(error.format_message().rstrip("."), _usage_hint(error))
        return error.exit_code
    except LlmserveError as error:
        show_error(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        # The reader left. What is still buffered would raise once more when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def program() -> int:
    """The whole process: one command line, and then its end."""
    code = main()
    # Else Python looks for cycles in all that goes with the process, which takes a tenth of a short command's time.
    gc.freeze()
    return code


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, UnknownCommand):
        return error.hint
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"`{error.ctx.command_path} --help` shows the usage"
    return None
