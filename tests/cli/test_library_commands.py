"""`cp`, `create`, `verify`, `du`, `prune`, `export`, `import`, and what `pull` takes and tells: with the real store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmserve.planning.variant import VariantChoice
from llmserve.types import Refusal
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeStore
from tests.tiny_gguf import write_tiny_model


@pytest.fixture
def model(invoke: Invoke, tmp_path: Path) -> Path:
    """The file of the installed model `mine:local`."""
    file = write_tiny_model(tmp_path / "mine.gguf")
    assert invoke("pull", str(file)).code == 0
    return file


def names(invoke: Invoke) -> list[str]:
    return [listed["name"] for listed in json.loads(invoke("list", "--json").out)]


# --- pull ---


def test_pull_tells_what_it_takes_and_why(invoke: Invoke, store: FakeStore) -> None:
    store.available = {"new:1b"}
    store.choice = VariantChoice(0, "new:1b-q4_0", "it fits", True, (Refusal("new:1b-q8_0", "larger"),))
    lines = invoke("pull", "new:1b").err.splitlines()
    assert lines[:3] == ["pulling new:1b", "taking new:1b-q4_0: it fits", "not new:1b-q8_0: larger"]
    events = [json.loads(line) for line in invoke("pull", "new:1b", "--json").out.splitlines()]
    assert events[0] == {
        "stage": "choosing",
        "option": "new:1b-q4_0",
        "reason": "it fits",
        "fits": True,
        "refused": [{"option": "new:1b-q8_0", "reason": "larger"}],
    }


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500", 500), ("1k", 1000), ("5MB", 5e6), ("2 MiB/s", 2 * 1024**2), ("0.5g", 5e8)],
)
def test_pull_options_reach_the_store(invoke: Invoke, store: FakeStore, text: str, rate: float) -> None:
    store.available = {"new:1b"}
    flags = ("--quant", "Q4_0", "--engine", "llama.cpp", "--format", "gguf", "--offline", "--limit-rate", text)
    assert invoke("pull", "new:1b", *flags).code == 0
    (asked,) = store.asked
    assert (asked.quantization, asked.engine, asked.format, asked.offline) == ("Q4_0", "llama.cpp", "gguf", True)
    assert asked.bytes_per_second == rate


@pytest.mark.parametrize("text", ["", "0", "fast", "-1", "5XB"])
def test_a_rate_that_is_none_is_refused(invoke: Invoke, store: FakeStore, text: str) -> None:
    assert invoke("pull", "new:1b", "--limit-rate", text).code == 2


def test_a_path_that_may_be_a_repository_is_asked_about(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    result = invoke("pull", "owner/model")
    assert result.code == 2
    assert "hint: choose: `llmserve pull ./owner/model`, `llmserve pull hf:owner/model`" in result.err


# --- the library ---


def test_what_is_here_is_not_said_to_be_pulled(invoke: Invoke, model: Path) -> None:
    assert invoke("pull", str(model)).err.splitlines()[-1].startswith("mine:local is here already (")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("./absent", None),
        ("/nowhere/absent.gguf", None),
        ("owner/repo/sub/m.gguf", "hint: a file of a repository on the Hub is written `owner/repo:sub/m.gguf`"),
    ],
)
def test_a_path_to_nothing_is_told_as_such(invoke: Invoke, path: str, hint: str | None) -> None:
    error, *rest = invoke("pull", path).err.splitlines()[1:]
    assert error == f"error: there is no file or directory {path.removeprefix('./')}"
    assert rest == ([] if hint is None else ["", hint])


def test_an_unknown_name_is_told_with_what_can_be_pulled(invoke: Invoke) -> None:
    result = invoke("pull", "smollm3:135m")
    assert result.code == 1
    assert "error: the catalog has no model `smollm3:135m`" in result.err
    assert "did you mean `smollm2:135m`" in result.err
    assert "--catalog" in result.err


def test_the_catalog_says_what_can_be_pulled_and_what_is_here(invoke: Invoke, model: Path, private_home: Path) -> None:
    (private_home / "models.toml").write_text(
        """
        [models."own:7b"]
        description = "A model of one's own."
        task = "code"
        license = "mit"
        aliases = ["own"]
        variants = [
          { format = "gguf", quantization = "Q4_0", source = "hf:owner/repo", file = "a.gguf" },
          { format = "gguf", quantization = "Q8_0", source = "hf:owner/repo", file = "b.gguf" },
        ]
        """
    )
    result = invoke("list", "--catalog")
    header, *rows = result.out.splitlines()
    assert header.split() == ["NAME", "ALIASES", "FOR", "QUANTIZATIONS", "LICENSE", "HERE", "DESCRIPTION"]
    own = next(row for row in rows if row.startswith("own:7b"))
    assert own.split() == ["own:7b", "own", "code", "Q4_0,", "Q8_0", "mit", "A", "model", "of", "one's", "own."]
    assert len(rows) >= 26
    manifest = next((private_home / "manifests").rglob("local.json"))
    manifest.parent.with_name("own").mkdir()
    manifest.parent.with_name("own").joinpath("7b-q8_0.json").write_bytes(manifest.read_bytes())
    own = next(row for row in invoke("list", "--catalog").out.splitlines() if row.startswith("own:7b"))
    assert own.split()[6] == "yes"
    listed = json.loads(invoke("list", "--catalog", "--json").out)
    assert [entry["license"] for entry in listed if entry["name"] == "own:7b"] == ["mit"]


def test_cp_and_rm(invoke: Invoke, model: Path) -> None:
    assert invoke("cp", "mine:local", "kept:v1").code == 0
    assert names(invoke) == ["kept:v1", "mine:local"]
    assert invoke("rm", "mine:local").code == 0
    assert names(invoke) == ["kept:v1"]
    assert invoke("cp", "kept:v1", "smollm2:135m").code == 1


def test_create(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "brief.toml"
    file.write_text('base = "mine:local"\nsystem = "Be brief."\n')
    assert invoke("create", "brief:v1", "-f", str(file)).code == 0
    assert names(invoke) == ["brief:v1", "mine:local"]
    missing = invoke("create", "other:v1", "-f", str(tmp_path / "missing.toml"))
    assert missing.err.splitlines()[0] == f"error: cannot read {tmp_path}/missing.toml: No such file or directory"
    file.write_text("base = 1")
    assert invoke("create", "other:v1", "-f", str(file)).code == 2


def test_verify_finds_a_flipped_bit(invoke: Invoke, model: Path) -> None:
    assert invoke("verify").out.startswith("ok  mine:local")
    content = bytearray(model.read_bytes())
    status = model.stat()
    content[-1] ^= 1
    model.write_bytes(content)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = invoke("verify", "mine:local", "--json")
    assert result.code == 1
    assert "SHA-256" in json.loads(result.out)[0]["problem"]
    assert names(invoke) == []
    assert invoke("verify", "--repair").code == 1


def test_verify_tells_why_a_model_was_not_repaired_and_goes_on(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", seed=5)
    assert invoke("pull", str(other)).code == 0
    model.write_bytes(b"GGUF")
    result = invoke("verify", "--repair")
    assert result.code == 1
    damaged, sound = result.out.splitlines()
    assert damaged.startswith("damaged  mine:local ")
    assert "not repaired: `mine:local` is a file of your own" in damaged
    assert sound.startswith("ok       other:local")


def test_verify_of_an_empty_store_says_so(invoke: Invoke) -> None:
    result = invoke("verify")
    assert (result.code, result.out, result.err) == (0, "", "no model is installed\n")


def test_du_and_prune(invoke: Invoke, model: Path, private_home: Path) -> None:
    size = model.stat().st_size
    assert json.loads(invoke("du", "--json").out)["total_bytes"] == size
    assert "mine:local" in invoke("du").out
    orphan = private_home / "blobs" / f"sha256-{'0' * 64}"
    orphan.parent.mkdir()
    orphan.write_bytes(b"12345")
    assert "would remove" in invoke("prune", "--dry-run").err
    assert json.loads(invoke("prune", "--json").out)["freed_bytes"] == 5
    assert model.exists()


def test_a_bundle_goes_to_another_home(
    invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "models.tar"
    assert invoke("export", "mine:local", "-o", str(bundle)).code == 0
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path / "elsewhere"))
    assert invoke("import", str(bundle)).err.splitlines()[-1] == "imported mine:local"
    assert names(invoke) == ["mine:local"]
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    assert "`model.gguf` of `mine:local` in the bundle is damaged" in invoke("import", str(bundle)).err


def test_a_directory_is_imported_in_place(invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "lm-studio" / "publisher"
    folder.mkdir(parents=True)
    write_tiny_model(folder / "a.gguf")
    (folder / "b.gguf").write_bytes(b"no model")
    result = invoke("import", str(tmp_path / "lm-studio"))
    assert result.code == 0
    assert "b.gguf is left out" in result.err
    assert names(invoke) == ["a:local"]
    assert invoke("import", str(folder / "a.gguf"), "--name", "chosen:v1").code == 0
    assert "chosen:v1" in names(invoke)
    assert invoke("import", str(tmp_path / "lm-studio"), "--name", "x:1").code == 2


def test_nothing_to_import_is_said(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert "no Ollama store" in invoke("import", "ollama").err
    (tmp_path / "empty").mkdir()
    assert invoke("import", str(tmp_path / "empty")).code == 2


def test_show_prints_the_template_alone(invoke: Invoke, model: Path) -> None:
    result = invoke("show", "mine:local", "--template")
    assert result.out.startswith("{% for message in messages %}")
    assert "kv cache" in invoke("show", "mine:local").out
