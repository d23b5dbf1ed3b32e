"""The entry point: help without weight, messages with hints, exit codes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from llmserve import __version__, errors
from llmserve.cli.main import COMMANDS, main
from llmserve.settings import Settings, home_directory
from llmserve.store.adoption import adopt
from llmserve.store.store import Store
from tests.cli.conftest import Invoke
from tests.tiny_gguf import write_tiny_model

HEAVY = ("rich", "httpx2", "pydantic", "prompt_toolkit", "platformdirs", "starlette", "llama_cpp", "numpy")


def test_help_lists_the_commands_in_order(invoke: Invoke) -> None:
    result = invoke("--help")
    listed = [line.split()[0] for line in result.out.partition("Commands:\n")[2].splitlines() if line.strip()]
    assert result.code == 0
    assert tuple(listed) == COMMANDS
    assert "..." not in result.out.partition("Commands:\n")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: llmserve {command}")
    assert result.err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["serve", "--help"], ["--version"], ["rnu"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from llmserve.cli.main import main; main(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_list_of_models_waits_for_nothing_it_does_not_need(tmp_path: Path) -> None:
    # Together they took a quarter of the command's time.
    needless = ("llmserve.types", "llmserve.store.removal", "platformdirs", "shutil", "tempfile", "hashlib", "json")
    home = tmp_path / "home"
    adopt(Store(home), write_tiny_model(tmp_path / "tiny.gguf", layers=1))
    code = (
        "import sys; from llmserve.cli.main import main; main(['list']);"
        f"print([name for name in {needless!r} if name in sys.modules], file=sys.stderr)"
    )
    environment = {"LLMSERVE_HOME": str(home), "HOME": "/home/nobody"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "tiny" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_process_does_not_tidy_up_at_its_end() -> None:
    code = "import gc; from llmserve.cli.main import program; program(); print(gc.get_freeze_count() > 10_000)"
    argv = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"llmserve {__version__}", "True"]
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"llmserve": "llmserve.cli.main:program"}


@pytest.mark.parametrize("variable", ["", "/elsewhere", "/else where/", "relative", " /blanks", "~/below"])
@pytest.mark.parametrize("home", ["/home/somebody", "/home/some body/", "/", "relative", None])
def test_directories_are_those_of_platformdirs(
    variable: str, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.setenv("XDG_DATA_HOME", variable)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    assert home_directory(Settings()) == Path(platformdirs.user_data_dir("llmserve", appauthor=False))


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").out == f"llmserve {__version__}\n"


def test_the_module_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-P", "-m", "llmserve", "--version"], capture_output=True, check=True)
    assert done.stdout.decode() == f"llmserve {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["lsit"], "error: there is no command `lsit`", "hint: did you mean `llmserve list`?"),
        (["xyzzy"], "error: there is no command `xyzzy`", "hint: `llmserve --help` lists the commands"),
        (["run"], "error: Missing argument 'MODEL'", "hint: `llmserve run --help` shows the usage"),
        (["list", "--jsn"], "error: No such option '--jsn'", "hint: `llmserve list --help` shows the usage"),
        (["run", "m", "--temperature", "3"], "error: Invalid value for '--temperature'", "hint: `llmserve run --help`"),
        (["serve", "--port", "x"], "error: Invalid value for '--port'", "hint: `llmserve serve --help`"),
    ],
)
def test_wrong_usage(invoke: Invoke, arguments: list[str], error: str, hint: str) -> None:
    result = invoke(*arguments)
    first, empty, last = result.err.splitlines()
    assert first.startswith(error)
    assert empty == ""
    assert last.startswith(hint)
    assert (result.code, result.out) == (2, "")


def test_no_arguments_show_the_help(invoke: Invoke) -> None:
    result = invoke()
    assert result.code == 2
    assert "Commands:" in result.err


def raising(error: BaseException) -> Callable[[object], object]:
    def fail(settings: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("no such model"), 1),
        (errors.InvalidRequest("cannot be"), 2),
        (errors.SettingsError("no such setting"), 78),
        (errors.StartupFailed("port in use"), 71),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (SystemExit(143), 143),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    monkeypatch.setattr("llmserve.cli.models.open_store", raising(error))
    try:
        result = main(["list"])
    except SystemExit as exit_request:
        result = int(str(exit_request.code))
    assert result == code


def test_an_error_without_a_hint_is_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.cli.models.open_store", raising(errors.PullFailed("the source is down")))
    assert invoke("list").err == "error: the source is down\n"


def test_an_error_cannot_command_the_terminal(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.cli.models.open_store", raising(errors.PullFailed("\x1b]0;owned\x07\x9bdown")))
    assert invoke("list").err == "error: ]0;owneddown\n"


def test_a_wrong_setting_names_its_source(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSERVE_PORT", "many")
    result = invoke("list")
    assert result.code == 78
    assert "LLMSERVE_PORT" in result.err


def test_a_reader_that_leaves_is_no_error() -> None:
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", "llmserve", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    with program.stderr as stderr:
        assert stderr.read() == b""
    assert program.wait(30) == 1
