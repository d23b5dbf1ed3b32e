"""A model carried in a bundle to a machine without a network, where it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.forks import build_faults

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

MODEL = "smollm2:135m"


def llmserve(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "llmserve", *arguments]
    return subprocess.run(
        argv, env={**os.environ, "LLMSERVE_HOME": str(home), **environment}, capture_output=True, text=True
    )


def test_what_was_exported_answers_without_a_network(starter_home: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar"
    assert llmserve(starter_home, "export", MODEL, "-o", str(bundle)).returncode == 0
    library = build_faults(tmp_path)
    # Where there is no such library, the addresses of the proxies lead nowhere at least.
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    offline = {**nowhere, "LD_PRELOAD": str(library), "FAULT_NO_NETWORK": "1"} if library else nowhere
    home = tmp_path / "elsewhere"
    imported = llmserve(home, "import", str(bundle), **offline)
    assert imported.returncode == 0, imported.stderr
    answer = llmserve(home, "run", MODEL, "What is the capital of France?", "--temperature", "0", **offline)
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout

    with bundle.open("r+b") as file:
        file.seek(bundle.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    refused = llmserve(tmp_path / "third", "import", str(bundle), **offline)
    assert refused.returncode != 0
    assert f"`model.gguf` of `{MODEL}` in the bundle is damaged" in refused.stderr
    assert not list((tmp_path / "third").glob("blobs/*"))
