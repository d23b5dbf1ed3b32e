"""Models of other programs: found where those keep them, used in place, never changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel, InvalidRequest
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.foreign import find_models, ollama_directory, ollama_models
from llmserve.store.store import Store
from tests.store.tiny_safetensors import write_model


@pytest.fixture
def store(private_home: Path) -> Store:
    return Store(private_home, catalog=Catalog())


def ollama_store(root: Path, content: bytes, *, owner: str = "library", model: str = "Qwen3", tag: str = "8b") -> Path:
    """Lay out one model as Ollama does; returns its blob."""
    digest = hashlib.sha256(content).hexdigest()
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    manifest = root / "manifests" / "registry.ollama.ai" / owner / model / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)},
        {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'1' * 64}", "size": 1},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def test_ollamas_models_are_used_where_they_lie(store: Store, tmp_path: Path, tiny_bytes: bytes) -> None:
    blob = ollama_store(tmp_path / "ollama", tiny_bytes)
    (found,) = ollama_models(tmp_path / "ollama")
    model = adopt(store, found.path, None, found.name, found.sha256)
    assert (model.name, model.path) == ("ollama-qwen3:8b", str(blob))
    assert store.find("ollama-qwen3:8b") == model
    assert store.remove("ollama-qwen3:8b") == 0
    assert blob.exists()


def test_adopting_again_reads_nothing(store: Store, tmp_path: Path, tiny_bytes: bytes) -> None:
    ollama_store(tmp_path / "ollama", tiny_bytes)
    (found,) = ollama_models(tmp_path / "ollama")
    first = adopt(store, found.path, None, found.name, found.sha256)
    told: list[object] = []
    assert adopt(store, found.path, told.append, found.name, found.sha256) == first
    assert told == []


def test_a_damaged_blob_of_ollama_is_refused(store: Store, tmp_path: Path, tiny_bytes: bytes) -> None:
    blob = ollama_store(tmp_path / "ollama", tiny_bytes)
    blob.write_bytes(tiny_bytes[:-1] + bytes([tiny_bytes[-1] ^ 1]))
    (found,) = ollama_models(tmp_path / "ollama")
    with pytest.raises(InvalidModel, match="SHA-256"):
        adopt(store, found.path, None, found.name, found.sha256)
    assert store.list() == ()


def test_other_owners_keep_their_name(tmp_path: Path, tiny_bytes: bytes) -> None:
    ollama_store(tmp_path, tiny_bytes, owner="me", model="mine", tag="latest")
    assert [str(found.name) for found in ollama_models(tmp_path)] == ["ollama-me-mine:latest"]


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"layers": [{}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../etc/passwd"}]}',
        b'{"layers": 7}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_left_out(tmp_path: Path, manifest: bytes) -> None:
    path = tmp_path / "manifests" / "host" / "library" / "m" / "latest"
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest)
    assert ollama_models(tmp_path) == ()


def test_weights_that_are_no_gguf_are_left_out(tmp_path: Path) -> None:
    ollama_store(tmp_path, b"\x80\x04pickle")
    assert ollama_models(tmp_path) == ()


def test_without_an_ollama_store_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert ollama_directory() == tmp_path
    with pytest.raises(InvalidRequest, match="no Ollama store"):
        ollama_models(tmp_path)


def test_a_folder_of_models_is_searched(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "publisher" / "model"
    folder.mkdir(parents=True)
    for name in ("m-Q4_0.gguf", "mmproj-m.gguf", "m.bin"):
        shutil.copy(tiny_model, folder / name)
    write_model(tmp_path / "st")
    assert sorted(found.path for found in find_models(tmp_path)) == [folder / "m-Q4_0.gguf", tmp_path / "st"]


def test_a_safetensors_directory_is_used_where_it_lies(store: Store, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "my-model")
    model = adopt(store, directory)
    assert (model.name, model.format, model.path) == ("my-model:local", "safetensors", str(directory))
    assert store.inspect(str(directory)) == store.inspect(model.name)
    (directory / "tokenizer.json").touch()
    with pytest.raises(InvalidModel, match="changed on disk"):
        store.find(model.name)
