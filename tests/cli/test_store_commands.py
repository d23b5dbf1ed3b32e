"""`pull`, `list`, `show`, `rm`: what is on this disk."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.types import AdapterFile, InstalledModel, ModelInfo, from_json, to_json
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeStore, installed, model_info
from tests.cli.test_terminal import Terminal

# --- pull ---


def test_pull_talks_on_stderr_alone(invoke: Invoke, store: FakeStore) -> None:
    store.available = {"new:1b"}
    result = invoke("pull", "new:1b")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "pulling new:1b",
        "downloading",
        "downloading: 50% of 1000 B",
        "downloading: 100% of 1000 B",
        "verifying",
        "pulled new:1b (94 MiB)",
    ]


def test_pull_as_json_is_one_event_per_line(invoke: Invoke, store: FakeStore) -> None:
    store.available = {"new:1b"}
    result = invoke("pull", "new:1b", "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [(event["stage"], event.get("completed")) for event in events] == [
        ("downloading", 0),
        ("downloading", 500),
        ("downloading", 1000),
        ("verifying", 1000),
        ("done", None),
    ]
    assert from_json(InstalledModel, json.dumps(events[-1]["model"])) == store.models["new:1b"]
    assert result.err == ""


@pytest.mark.parametrize(("columns", "shown"), [("100", "1,000/1,000 bytes"), ("20", "pulled new:1b")])
def test_a_terminal_of_any_width_sees_a_bar(
    store: FakeStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: str,
    shown: str,
) -> None:
    from llmserve.cli.progress import pull
    from llmserve.settings import Settings
    from llmserve.store.options import PullOptions

    store.available = {"new:1b"}
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    pull(store, "new:1b", PullOptions(), Settings())  # type: ignore[arg-type]
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert shown in written
    assert written.rstrip().endswith("pulled new:1b (94 MiB)")
    assert capsys.readouterr().out == ""


def test_pulling_what_does_not_exist(invoke: Invoke, store: FakeStore) -> None:
    result = invoke("pull", "nonsense")
    assert (result.code, result.out) == (1, "")
    assert "error: there is no model `nonsense`\n\nhint: " in result.err


# --- list ---


def test_list(invoke: Invoke, store: FakeStore) -> None:
    store.models["other:local"] = installed("other:local", aliases=())
    header, first, second = invoke("list").out.splitlines()
    assert header.split() == ["NAME", "ALIASES", "FORMAT", "QUANTIZATION", "SIZE", "PULLED"]
    assert first.split()[:5] == ["tiny:1b", "tiny", "gguf", "Q4_0", "94"]
    assert second.startswith("other:local")


def test_list_as_json(invoke: Invoke, store: FakeStore) -> None:
    result = invoke("list", "--json")
    assert from_json(tuple[InstalledModel, ...], result.out) == store.list()


def test_an_empty_list_is_no_data(invoke: Invoke, store: FakeStore) -> None:
    store.models.clear()
    result = invoke("list")
    assert (result.code, result.out) == (0, "")
    assert "no model is installed" in result.err
    assert json.loads(invoke("list", "--json").out) == []


def test_list_warns_of_damaged_models(invoke: Invoke, store: FakeStore) -> None:
    store.problems = {"gone:1b": "is no longer on the disk"}
    result = invoke("list")
    assert "gone:1b" not in result.out
    warning, hint = result.err.splitlines()
    assert warning == "warning: `gone:1b` is no longer on the disk"
    assert "llmserve verify --repair" in hint


def test_a_store_of_damaged_models_is_not_called_empty(invoke: Invoke, store: FakeStore) -> None:
    store.models.clear()
    store.problems = {"gone:1b": "is no longer on the disk"}
    assert "no model is installed" not in invoke("list").err


# --- show ---


def test_show(invoke: Invoke, store: FakeStore) -> None:
    result = invoke("show", "tiny")
    rows = dict(line.split("  ", 1) for line in result.out.splitlines())
    facts = {key: value.strip() for key, value in rows.items()}
    assert facts["name"] == "tiny:1b"
    assert facts["parameters"] == "134.5 million"
    assert facts["heads"] == "9, 3 of keys and values"
    assert facts["quantization"] == "Q4_0 (F32 61, Q4_0 211)"
    assert facts["license"] == "apache-2.0"
    assert facts["sha256"] == "ab" * 32


def test_show_tells_what_to_ask_for_each_adapter(invoke: Invoke, store: FakeStore) -> None:
    adapters = (
        AdapterFile("/always.gguf", "0" * 64, 0.5),
        AdapterFile("/polite.gguf", "1" * 64, name="polite"),
        AdapterFile("/terse.gguf", "2" * 64, name="terse", default=True),
    )
    store.models["made:v1"] = replace(installed("made:v1"), adapters=adapters)
    for name in ("made:v1", "made:v1@polite"):
        lines = [line.split(None, 1)[1] for line in invoke("show", name).out.splitlines() if line.startswith("adapter")]
        assert lines == [
            "/always.gguf (scale 0.5)",
            "made:v1@polite: /polite.gguf (scale 1)",
            "made:v1@terse: /terse.gguf (scale 1, on by default)",
        ]


def test_show_as_json(invoke: Invoke, store: FakeStore) -> None:
    shown = json.loads(invoke("show", "tiny", "--json").out)
    assert from_json(ModelInfo, json.dumps(shown["model"])) == model_info()
    assert json.dumps(shown["installed"]) == json.dumps(json.loads(to_json(store.models["tiny:1b"])))


def test_show_of_a_file_does_not_adopt_it(invoke: Invoke, store: FakeStore, tmp_path: Path) -> None:
    result = invoke("show", str(tmp_path / "mine.gguf"))
    assert result.code == 0
    assert "architecture" in result.out
    assert "sha256" not in result.out
    assert store.adopted == []


def test_show_of_an_installed_file_says_its_name(invoke: Invoke, store: FakeStore, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    store.models["mine:local"] = installed("mine:local", path=str(file))
    assert "mine:local" in invoke("show", str(file)).out


def test_text_from_a_file_cannot_command_the_terminal(
    invoke: Invoke, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "inspect", lambda name: model_info(name="\x1b]0;owned\x07evil\nname"))
    result = invoke("show", "tiny")
    assert "title" in result.out
    assert "]0;ownedevil name" in result.out
    assert "\x1b" not in result.out


def test_show_of_an_unknown_model(invoke: Invoke, store: FakeStore) -> None:
    result = invoke("show", "nonsense")
    assert (result.code, result.out) == (1, "")
    assert "\n\nhint: `llmserve pull nonsense` gets it\n" in result.err


# --- rm ---


def test_rm_by_name_alias_and_path(invoke: Invoke, store: FakeStore, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    store.models["mine:local"] = installed("mine:local", aliases=(), path=str(file))
    result = invoke("rm", "tiny", "tiny:1b", str(file))
    assert (result.code, result.out) == (0, "")
    assert store.removed == ["tiny:1b", "mine:local"]
    assert result.err.splitlines()[0] == "removed tiny:1b (94 MiB freed)"


def test_rm_of_an_unknown_model_removes_nothing(invoke: Invoke, store: FakeStore) -> None:
    assert invoke("rm", "tiny", "nonsense").code == 1
    assert store.removed == []


def test_rm_of_an_unknown_file(invoke: Invoke, store: FakeStore, tmp_path: Path) -> None:
    result = invoke("rm", str(tmp_path / "mine.gguf"))
    assert result.code == 1
    assert "no installed model uses the file" in result.err


def test_a_damaged_model_can_be_removed(invoke: Invoke, store: FakeStore) -> None:
    store.problems = {"gone:1b": "is no longer on the disk"}
    assert invoke("rm", "gone:1b").code == 0
    assert store.removed == ["gone:1b"]


# --- the real store ---


def test_the_real_store_and_a_real_file(invoke: Invoke, tmp_path: Path, private_home: Path) -> None:
    from tests.tiny_gguf import write_tiny_model

    file = tmp_path / "mine.gguf"
    write_tiny_model(file)
    assert invoke("show", str(file)).code == 0
    assert not private_home.exists()
    assert invoke("pull", str(file)).code == 0
    (model,) = json.loads(invoke("list", "--json").out)
    assert (model["name"], model["path"]) == ("mine:local", str(file))
    assert invoke("rm", str(file)).code == 0
    assert json.loads(invoke("list", "--json").out) == []
    assert file.exists()
