"""Programs that are missing, that cannot be run, or that leave something."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.process import KEPT_STDERR_BYTES, Captured, capture


def python(code: str) -> Captured:
    return capture((sys.executable, "-c", code), subject="the program", timeout=20, environment={})


def test_output_and_status_come_back() -> None:
    captured = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert captured == Captured(3, "out\n", "err\n")
    assert captured.last_words == "err"


def test_only_the_tail_of_stderr_is_kept() -> None:
    captured = python("import sys; sys.stderr.write('a' * 100_000 + '\\nlast words\\n\\n')")
    assert len(captured.stderr) <= KEPT_STDERR_BYTES
    assert captured.last_words == "last words"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert python("import os; os.write(1, b'\\xff\\n')").stdout == "\ufffd\n"


def test_the_environment_is_the_given_one() -> None:
    captured = capture(
        (sys.executable, "-c", "import os; print(os.environ['ONLY'], 'HOME' in os.environ)"),
        subject="the program",
        timeout=20,
        environment={"ONLY": "this"},
    )
    assert captured.stdout == "this False\n"


def test_a_missing_program_is_said_to_be_missing() -> None:
    with pytest.raises(ProbeFailed, match=r"^rocm-smi is not installed$"):
        capture(("/nowhere/rocm-smi",), subject="rocm-smi", timeout=1, environment={})


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rocm-smi"
    path.write_bytes(b"\x7fELF, but not really")
    path.chmod(0o755)
    with pytest.raises(ProbeFailed, match=r"^rocm-smi cannot be run: Exec format error$"):
        capture((str(path),), subject="rocm-smi", timeout=1, environment={})


def test_a_program_that_closes_its_output_and_stays_is_killed() -> None:
    code = "import os, signal; os.close(1); os.close(2); signal.pause()"
    with pytest.raises(ProbeFailed, match=r"did not answer within 0\.5 s"):
        capture((sys.executable, "-c", code), subject="it", timeout=0.5, environment={})


def test_the_signal_that_killed_it_is_told() -> None:
    with pytest.raises(ProbeFailed, match=r"^the program was killed by SIGILL$") as caught:
        python("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert caught.value.signal == signal.SIGILL
