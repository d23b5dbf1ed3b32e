"""`lock`, `pull --locked`, `serve --locked`, `pin`, `unpin` and `quantize` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.tiny_gguf import write_tiny_model


@pytest.fixture
def model(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the installed model `mine:local`, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    file = write_tiny_model(tmp_path / "mine.gguf")
    assert invoke("pull", str(file)).code == 0
    return file


def test_lock_and_pull_locked(invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, warning, wrote = invoke("lock").err.splitlines()
    assert warning.startswith("warning: `mine:local` is a file of your own")
    assert wrote == "wrote models.lock"
    assert [entry["name"] for entry in json.loads(Path("models.lock").read_text())["models"]] == ["mine:local"]
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path / "elsewhere"))
    assert invoke("pull", "--locked").code == 0
    assert [entry["name"] for entry in json.loads(invoke("list", "--json").out)] == ["mine:local"]
    write_tiny_model(model, seed=1)
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path / "third"))
    result = invoke("pull", "--locked", "models.lock")
    assert result.code == 1
    assert "another `model.gguf`" in result.err


def test_what_does_not_go_with_a_lock_file(invoke: Invoke, model: Path) -> None:
    invoke("lock")
    assert invoke("pull", "mine:local", "--locked", "models.lock", "--quant", "Q4_0").code == 2
    assert invoke("pull", "--locked", "none.lock").code == 78
    assert invoke("pull").code == 2


def test_serve_locked_refuses_a_model_that_is_not_locked(invoke: Invoke, model: Path) -> None:
    invoke("lock")
    invoke("cp", "mine:local", "other:v1")
    result = invoke("serve", "other:v1", "--locked", "models.lock")
    assert result.code == 2
    assert "`other:v1` is not in models.lock" in result.err


def test_pin_and_unpin(invoke: Invoke, model: Path) -> None:
    assert invoke("pin", "mine:local").code == 0
    assert json.loads(invoke("du", "--json").out)["models"][0]["pinned"] is True
    assert "yes" in invoke("show", "mine:local").out
    assert invoke("unpin", "mine:local").code == 0
    assert json.loads(invoke("du", "--json").out)["models"][0]["pinned"] is False
    assert invoke("pin", "none:v1").code == 1


def test_quantize_names_the_types_there_are(invoke: Invoke, model: Path) -> None:
    result = invoke("quantize", "mine:local", "Q99")
    assert result.code == 2
    assert "Q4_K_M" in result.err


@pytest.mark.parametrize(("text", "code"), [("20GB", 0), ("20", 0), ("much", 78)])
def test_a_disk_budget_is_a_size(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, text: str, code: int) -> None:
    monkeypatch.setenv("LLMSERVE_DISK_BUDGET", text)
    assert invoke("du").code == code
