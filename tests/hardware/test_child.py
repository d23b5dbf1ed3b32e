"""A probe child may do anything: its parent gets an answer or a reason, in time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.hardware.child import answer, parse_reply, run_child
from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from tests.hardware import hostile


def run_hostile(function: str, timeout: float = 20.0, **variables: str) -> object:
    environment = native_environment(os.environ) | {"PYTHONPATH": str(Path(__file__).parent)} | variables
    return run_child(f"hostile:{function}", timeout=timeout, environment=environment)


@pytest.mark.parametrize(
    ("function", "found"),
    [("honest", {"answer": 42}), ("talkative", "still an answer"), ("noisy", "heard")],
)
def test_what_a_probe_finds_comes_back(function: str, found: object) -> None:
    assert run_hostile(function) == found


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("finds_nothing", "there is no such device"),
        ("raises", "the probe ended with status 1 (OSError: the driver is in a mood)"),
        ("segfault", "the probe was killed by SIGSEGV"),
        ("abort", "the probe was killed by SIGABRT"),
        ("vanish", "the probe's answer is not JSON"),
        ("unprintable", "the probe ended with status 1 (TypeError: asdict() should be called on dataclass instances)"),
        ("flood", "the probe wrote more than 4 MiB"),
        ("no_such_function", "the probe ended with status 1 (AttributeError: "),
    ],
)
def test_a_probe_that_fails_says_why(function: str, reason: str) -> None:
    with pytest.raises(ProbeFailed) as caught:
        run_hostile(function)
    assert str(caught.value).startswith(reason)


def test_a_hung_probe_is_killed_with_all_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ProbeFailed, match=r"did not answer within 1 s"):
            run_hostile("hang_with_grandchild", timeout=1.0, HOSTILE_FIFO=str(fifo))
        os.set_blocking(reader, True)
        # The end of the file comes when the last process that holds the other end is gone, and not before.
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_probe_that_ignores_signals_is_killed() -> None:
    with pytest.raises(ProbeFailed, match=r"did not answer within 0\.8 s"):
        run_hostile("hang_deaf", timeout=0.8)


def test_a_child_gets_a_scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HTTPS_PROXY", "LLMSERVE_API_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = run_hostile("environment")
    assert isinstance(found, dict)
    assert "canary" not in found.values()
    assert found["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("Segmentation fault", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"found": 1', "not JSON"),
        ("[1]", "unknown form"),
        ('{"none": 3}', "unknown form"),
        ('{"none": "because"}', "because"),
    ],
)
def test_a_reply_that_is_none_is_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        parse_reply(text)


@given(st.text())
def test_no_text_breaks_the_parent(text: str) -> None:
    with pytest.raises(ProbeFailed):
        parse_reply(text)


def test_a_reply_reads_back() -> None:
    assert parse_reply(answer(hostile.honest)) == {"answer": 42}
