"""Fixtures every test may use. No test touches the user's own home, settings or network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
