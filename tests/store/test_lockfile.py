"""Lock files: written, reproduced on another machine, and what a server with one serves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmserve.errors import Conflict, ModelNotFound, PullFailed, SettingsError
from llmserve.settings import Settings
from llmserve.store.catalog import Catalog
from llmserve.store.copies import copy, create
from llmserve.store.lock_links import names_locked, remember_lock
from llmserve.store.locked_pull import pull_locked
from llmserve.store.lockfile import LockFile, lock_models, read_lock, write_lock
from llmserve.store.serving import ServingStore
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.store.conftest import visible_files

HUB_NAME = "hf:owner/model-GGUF"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def hub_store(private_home: Path, hub: FakeHub, tiny_bytes: bytes) -> Store:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
    return Store(private_home, catalog=Catalog())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    return Store(tmp_path / "elsewhere", catalog=Catalog())


def locked(store: Store, path: Path, *names: str, settings: Settings | None = None) -> LockFile:
    write_lock(lock_models(store, path, names, settings or Settings()))
    return read_lock(path)


def test_a_lock_file_says_the_same_until_a_model_changes(hub_store: Store, tmp_path: Path) -> None:
    hub_store.pull(HUB_NAME)
    path = tmp_path / "models.lock"
    lock = locked(hub_store, path, HUB_NAME)
    (model,) = lock.models
    assert model.commit is not None
    assert model.source == f"hf:owner/model-GGUF@{model.commit}:tiny.gguf"
    assert model.template_sha256 is not None
    first = path.read_bytes()
    assert locked(hub_store, path, HUB_NAME) == lock
    assert path.read_bytes() == first


def test_it_is_reproduced_after_the_branch_moved(
    hub_store: Store, elsewhere: Store, hub: FakeHub, tmp_path: Path
) -> None:
    pulled = hub_store.pull(HUB_NAME)
    file = tmp_path / "model.toml"
    file.write_text(f"base = '{HUB_NAME}'\nsystem = 'x'\ntemplate = '''{TEMPLATE}'''\n")
    made = create(hub_store, "mine:v1", file)
    lock = locked(hub_store, tmp_path / "models.lock", HUB_NAME, "mine:v1")
    hub.commit("owner/model-GGUF", {"tiny.gguf": b"something else"})
    got = [pull_locked(elsewhere, lock, model.name) for model in lock.models]
    assert {model.sha256 for model in got} == {pulled.sha256, made.sha256}
    assert elsewhere.inspect("mine:v1").chat_template == TEMPLATE
    assert elsewhere.defaults("mine:v1").system == "x"
    assert locked(elsewhere, tmp_path / "again.lock", HUB_NAME, "mine:v1").models == lock.models


def test_a_source_with_other_bytes_is_refused_by_name(hub_store: Store, elsewhere: Store, tmp_path: Path) -> None:
    hub_store.pull(HUB_NAME)
    lock = locked(hub_store, tmp_path / "models.lock", HUB_NAME)
    (model,) = lock.models
    wrong = dataclasses.replace(model, files=(dataclasses.replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(PullFailed, match=r"another `tiny\.gguf`"):
        pull_locked(elsewhere, dataclasses.replace(lock, models=(wrong,)), HUB_NAME)
    assert visible_files(elsewhere.home) == []


def test_a_name_that_means_something_else_here_is_refused(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    copy(store, "tiny", "mine:v1")
    lock = locked(store, tmp_path / "models.lock", "mine:v1")
    (model,) = lock.models
    wrong = dataclasses.replace(model, files=(dataclasses.replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(Conflict, match=r"`mine:v1` is not the one of models.lock: it has another `model\.gguf`"):
        pull_locked(store, dataclasses.replace(lock, models=(wrong,)), "mine:v1")
    with pytest.raises(ModelNotFound, match=r"not in models\.lock"):
        pull_locked(store, lock, "tiny")


def test_what_was_quantized_here_has_no_source(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    lock = locked(store, tmp_path / "models.lock", "tiny")
    made = dataclasses.replace(lock.models[0], name="small:v1", source="quantized:Q8_0:file:/x")
    with pytest.raises(PullFailed, match="quantized on the machine") as refused:
        pull_locked(store, dataclasses.replace(lock, models=(made,)), "small:v1")
    assert "llmserve export small:v1" in str(refused.value.hint)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 2, "models": []}', '{"version": 1, "models": [{"name": "../x"}]}']
)
def test_what_is_no_lock_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.lock"
    path.write_text(text)
    with pytest.raises(SettingsError, match="no sound lock file"):
        read_lock(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read_lock(tmp_path / "none.lock")


def test_settings_are_locked_too(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    lock = locked(store, tmp_path / "models.lock", "tiny", settings=Settings(context=4096, threads=None))
    assert lock.applied(Settings(threads=2)) == Settings(context=4096, threads=2)
    with pytest.raises(SettingsError, match=r"`context` is 512 here and 4096 in models\.lock"):
        lock.applied(Settings(context=512))


# --- a server with a lock file ---


def test_a_server_serves_what_is_locked_and_nothing_else(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    copy(store, "tiny", "other:v1")
    lock = locked(store, tmp_path / "models.lock", "tiny")
    server = ServingStore(store.home, lock=lock, catalog=store.catalog)
    assert server.find("tiny") == store.find("tiny")
    assert [model.name for model in server.list()] == ["tiny:1m"]
    with pytest.raises(ModelNotFound, match=r"`other:v1` is not in models\.lock") as refused:
        server.find("other:v1")
    assert (refused.value.status, refused.value.code) == (404, "model_not_locked")
    with pytest.raises(ModelNotFound):
        server.pull("other:v1")
    assert server.pull("tiny") == store.find("tiny")


def test_a_server_refuses_another_digest(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    lock = locked(store, tmp_path / "models.lock", "tiny")
    wrong = dataclasses.replace(lock.models[0], files=(dataclasses.replace(lock.models[0].files[0], sha256="0" * 64),))
    server = ServingStore(store.home, lock=dataclasses.replace(lock, models=(wrong,)), catalog=store.catalog)
    with pytest.raises(Conflict, match=r"`tiny:1m` is not the model of models\.lock") as refused:
        server.find("tiny")
    assert refused.value.status == 409
    assert server.list() == ()
    assert len(server.not_served()) == 1


def test_a_lock_file_is_remembered_while_it_exists(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    path = tmp_path / "models.lock"
    locked(store, path, "tiny")
    remember_lock(store.home, path)
    remember_lock(store.home, path)
    assert names_locked(store.home) == {"tiny:1m"}
    path.unlink()
    assert names_locked(store.home) == frozenset()
