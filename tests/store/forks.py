"""llmserve commands in processes of their own, quickly: each is a fork of one process that has imported everything.

    python -m tests.store.forks

reads requests from standard input, one JSON object a line (`arguments` of the command line, `environment` to add), runs
each in a fork, and answers with its exit status (negative: the signal) and what it wrote to standard error. `Commands`
is the other end. With the library of `faults.c` loaded before libc, a system call of a command can fail or kill it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    status: int
    said: str


class Commands:
    """Runs commands on one data directory and one Hugging Face cache, one at a time."""

    def __init__(
        self, process: subprocess.Popen[str], environment: Mapping[str, str], log: Path, anew: bool = False
    ) -> None:
        self._process = process
        self._environment = environment
        self._roots = f"{environment['LLMSERVE_HOME']}:{environment['HF_HUB_CACHE']}"
        self._log = log
        self._anew = anew

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
        stdin, stdout = self._pipes()
        request = {"arguments": arguments, "environment": dict(environment or {}), "anew": self._anew}
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        return Ended(answer["status"], answer["said"])

    def failing(self, *arguments: str, mode: str, at: int, code: int = 0) -> Ended:
        """Run a command whose `at`-th call that changes a file does not do what it should; see `faults.c`."""
        faults = {"FAULT_MODE": mode, "FAULT_AT": str(at), "FAULT_ERRNO": str(code)}
        return self.run(*arguments, environment={"FAULT_ROOTS": self._roots, **faults})

    def calls(self, *arguments: str) -> list[str]:
        """Run a command that must succeed; the names of the calls with which it changed files."""
        self._log.unlink(missing_ok=True)
        ended = self.run(*arguments, environment={"FAULT_ROOTS": self._roots, "FAULT_LOG": str(self._log)})
        if ended.status:
            raise AssertionError(ended.said)
        return self._log.read_text().split()

    def started(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command as a program of its own, which goes on while the caller does something else."""
        argv = [sys.executable, "-P", "-m", "llmserve", *arguments]
        return subprocess.Popen(argv, env=self._environment, stderr=subprocess.DEVNULL)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("started without pipes")
        return self._process.stdin, self._process.stdout


@contextmanager
def forked_commands(
    home: Path, cache: Path, endpoint: str, library: Path, scratch: Path, *, anew: bool = False
) -> Iterator[Commands]:
    """`anew` starts the whole program for every command, which takes several times as long."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "LLMSERVE_HOME": str(home),
        "HF_HUB_CACHE": str(cache),
        "HF_ENDPOINT": endpoint,
        # Nobody asks for https here, and reading the machine's certificates takes longer than the rest of a pull.
        "SSL_CERT_DIR": str(scratch),
    }
    argv = [sys.executable, "-P", "-m", "tests.store.forks"]
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Commands(process, environment, scratch / "calls", anew)
        finally:
            if process.stdin is not None:
                process.stdin.close()


def build_faults(directory: Path) -> Path | None:
    """The library of `faults.c`; None where there is no C compiler, or no dynamic linker that preloads."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = directory / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def _serve() -> None:
    from llmserve.cli import main as command_line

    _import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as said:
            child = os.fork()
            if child == 0:
                os.environ.update(request["environment"])
                os.dup2(os.open(os.devnull, os.O_RDWR), 0)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                status = 70
                try:
                    if request["anew"]:
                        argv = [sys.executable, "-P", "-m", "llmserve", *request["arguments"]]
                        os.execv(sys.executable, argv)  # noqa: S606
                    status = command_line.main(request["arguments"])
                except Exception:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            _, ended = os.waitpid(child, 0)
            said.seek(0)
            answer = {"status": os.waitstatus_to_exitcode(ended), "said": said.read().decode(errors="replace")}
        print(json.dumps(answer), flush=True)


def _import_everything() -> None:
    """What the commands import when they run, and what they ask for once."""
    import huggingface_hub.file_download
    import huggingface_hub.hf_api  # noqa: F401
    from huggingface_hub import close_session
    from huggingface_hub.utils._headers import build_hf_headers

    import llmserve.cli.import_models
    import llmserve.cli.pull
    import llmserve.store.gguf
    import llmserve.store.inspection
    import llmserve.store.origins
    import llmserve.store.sources.huggingface
    import llmserve.store.verification  # noqa: F401
    from llmserve.store.bundles import Bundle
    from llmserve.store.manifests import Manifest
    from llmserve.types import from_json

    for kind in (Manifest, Bundle):
        with suppress(ValueError):
            from_json(kind, "")
    build_hf_headers()
    close_session()


if __name__ == "__main__":
    _serve()
