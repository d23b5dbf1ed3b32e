"""The Hugging Face source, with the real client against a hub on loopback."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmserve.errors import (
    InsufficientStorage,
    InvalidModel,
    InvalidRequest,
    LlmserveError,
    ModelNotFound,
    PullFailed,
)
from llmserve.store.catalog import Catalog, CatalogModel, Variant
from llmserve.store.names import HubReference
from llmserve.store.progress import PullProgress
from llmserve.store.sources.hub_choice import choose_files, is_allowed_file
from llmserve.store.store import Store
from tests.fake_hub import Answer, FakeHub
from tests.store.conftest import visible_files
from tests.tiny_gguf import write_tiny_model

NAME = "hf:owner/model-GGUF"


@pytest.fixture
def store(private_home: Path) -> Store:
    return Store(private_home, catalog=Catalog())


@pytest.fixture
def model_hub(hub: FakeHub, tiny_bytes: bytes) -> FakeHub:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes, "README.md": b"hello", "convert.py": b"import os"})
    return hub


def cached_files(model_hub: FakeHub, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_the_only_gguf_file_is_pulled_into_the_shared_cache(
    store: Store, model_hub: FakeHub, tmp_path: Path, tiny_bytes: bytes, private_home: Path
) -> None:
    seen: list[PullProgress] = []
    pulled = store.pull(NAME, seen.append)
    commit = model_hub.repositories["owner/model-GGUF"].branches["main"]
    assert pulled.name == NAME
    assert pulled.source == f"hf:owner/model-GGUF@{commit}:tiny.gguf"
    assert pulled.sha256 == hashlib.sha256(tiny_bytes).hexdigest()
    snapshot = tmp_path / "hf" / "hub" / "models--owner--model-GGUF" / "snapshots" / commit / "tiny.gguf"
    assert pulled.path == str(snapshot)
    assert snapshot.read_bytes() == tiny_bytes
    assert not (private_home / "blobs").exists()
    assert store.find(NAME) == pulled
    assert PullProgress("downloading", len(tiny_bytes), len(tiny_bytes)) in seen
    assert [request.path.rpartition("/")[2] for request in model_hub.downloads()] == ["tiny.gguf"]


def test_pulling_again_asks_nobody(store: Store, model_hub: FakeHub) -> None:
    store.pull(NAME)
    asked = len(model_hub.requests)
    store.pull(NAME)
    assert len(model_hub.requests) == asked


def test_a_file_in_the_cache_is_verified_instead_of_downloaded(store: Store, model_hub: FakeHub) -> None:
    store.pull(NAME)
    store.pull(f"{NAME}:tiny.gguf")
    assert len(model_hub.downloads()) == 1
    assert len(store.list()) == 2


def test_removing_takes_from_the_cache_what_the_pull_brought(
    store: Store, model_hub: FakeHub, tiny_bytes: bytes, tmp_path: Path
) -> None:
    store.pull(NAME)
    assert store.remove(NAME) == len(tiny_bytes)
    assert cached_files(model_hub, tmp_path) == []
    assert store.list() == ()


def test_removing_leaves_what_was_in_the_cache_before(store: Store, model_hub: FakeHub) -> None:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download("owner/model-GGUF", "tiny.gguf")
    assert store.pull(NAME).path == path
    assert store.remove(NAME) == 0
    assert Path(path).is_file()


def test_removing_leaves_what_another_model_uses(store: Store, model_hub: FakeHub) -> None:
    store.pull(NAME)
    other = store.pull(f"{NAME}:tiny.gguf")
    assert store.remove(NAME) == 0
    assert store.find(other.name) == other


def test_a_file_removed_from_the_cache_is_not_served(store: Store, model_hub: FakeHub) -> None:
    Path(store.pull(NAME).path).resolve().unlink()
    with pytest.raises(InvalidModel) as refused:
        store.find(NAME)
    assert refused.value.hint == f"llmserve pull {NAME}"
    assert store.pull(NAME) == store.find(NAME)


def test_a_link_pointed_elsewhere_is_not_served(store: Store, model_hub: FakeHub, tmp_path: Path) -> None:
    snapshot = Path(store.pull(NAME).path)
    snapshot.unlink()
    snapshot.symlink_to(write_tiny_model(tmp_path / "evil.gguf"))
    with pytest.raises(InvalidModel, match="changed on disk"):
        store.find(NAME)


def test_a_branch_that_moves_meanwhile_does_not_mix_commits(
    store: Store, model_hub: FakeHub, tmp_path: Path, tiny_bytes: bytes
) -> None:
    first = model_hub.repositories["owner/model-GGUF"].branches["main"]
    moved = write_tiny_model(tmp_path / "moved.gguf", seed=1).read_bytes()
    model_hub.after_info = lambda: model_hub.commit("owner/model-GGUF", {"tiny.gguf": moved, "new": b"1"})
    pulled = store.pull(NAME)
    assert first in pulled.source
    assert Path(pulled.path).read_bytes() == tiny_bytes


def test_a_revision_is_pulled_as_named(store: Store, model_hub: FakeHub, tmp_path: Path) -> None:
    content = write_tiny_model(tmp_path / "v1.gguf", seed=1).read_bytes()
    commit = model_hub.commit("owner/model-GGUF", {"tiny.gguf": content}, branch="v1")
    for revision in ("v1", commit):
        pulled = store.pull(f"{NAME}@{revision}")
        assert Path(pulled.path).read_bytes() == content
        assert commit in pulled.source


def test_several_files_are_offered_and_none_is_preferred(store: Store, hub: FakeHub, tiny_bytes: bytes) -> None:
    names = ["b-Q8_0.gguf", "a-Q4_0.gguf", "big-00001-of-00002.gguf", "bad name.gguf"]
    hub.commit("owner/model-GGUF", dict.fromkeys(names, tiny_bytes))
    with pytest.raises(InvalidRequest) as refused:
        store.pull(NAME)
    assert refused.value.hint == f"choose: `llmserve pull {NAME}:Q4_0`, `llmserve pull {NAME}:Q8_0`"
    assert hub.downloads() == []
    assert store.pull(f"{NAME}:a-Q4_0.gguf").name == f"{NAME}:a-Q4_0.gguf"
    assert store.pull(f"{NAME}:q8_0").source.endswith(":b-Q8_0.gguf")


def test_a_file_must_match_the_catalogs_digest(private_home: Path, model_hub: FakeHub) -> None:
    variant = Variant("gguf", "F16", NAME, "tiny.gguf", None, "0" * 64)
    store = Store(private_home, catalog=Catalog((CatalogModel("tiny:1m", (), None, "", (variant,)),)))
    with pytest.raises(PullFailed, match="than the catalog names"):
        store.pull("tiny:1m")
    assert model_hub.downloads() == []


def test_wrong_bytes_are_not_published_and_not_left_in_the_cache(
    store: Store, model_hub: FakeHub, tmp_path: Path, private_home: Path
) -> None:
    model_hub.corrupt = True
    with pytest.raises(PullFailed, match="SHA-256"):
        store.pull(NAME)
    assert visible_files(private_home) == []
    assert cached_files(model_hub, tmp_path) == []
    model_hub.corrupt = False
    assert store.pull(NAME) == store.find(NAME)


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_broken_connection_is_resumed_or_restarted(
    store: Store, model_hub: FakeHub, tiny_bytes: bytes, ignore_range: bool
) -> None:
    model_hub.break_after = len(tiny_bytes) // 2
    model_hub.ignore_range = ignore_range
    assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
    assert "range" in model_hub.downloads()[-1].headers


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"Content-Type": "text/html"}, b"<html>sign in to the hotel's network</html>"),
        Answer(200, {"X-Repo-Commit": "0" * 40, "ETag": '"' + "0" * 64 + '"'}, b"<html>an error page</html>"),
        Answer(404, {"X-Error-Code": "EntryNotFound"}),
        Answer(403),
    ],
    ids=["no hub", "error page as 200", "gone", "forbidden"],
)
def test_a_download_that_goes_wrong_publishes_nothing(
    store: Store, model_hub: FakeHub, private_home: Path, answer: Answer
) -> None:
    model_hub.resolve_answer = answer
    with pytest.raises((PullFailed, ModelNotFound)) as refused:
        store.pull(NAME)
    assert "\n" not in str(refused.value)
    assert visible_files(private_home) == []


@pytest.mark.parametrize(
    ("answer", "error", "in_hint"),
    [
        (Answer(401, {"X-Error-Code": "RepoNotFound"}), ModelNotFound, "HF_TOKEN"),
        (Answer(403, {"X-Error-Code": "GatedRepo"}), PullFailed, "HF_TOKEN"),
        (Answer(401, {"X-Error-Code": "GatedRepo"}), PullFailed, "accept it at"),
        (Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"}), PullFailed, "HF_TOKEN"),
        (Answer(403), PullFailed, "HF_TOKEN"),
        (Answer(404, {"X-Error-Code": "RepoNotFound"}), ModelNotFound, "spelling"),
        (Answer(404, {"X-Error-Code": "RevisionNotFound"}), ModelNotFound, None),
        (Answer(429, {"Retry-After": "7"}), PullFailed, "later"),
        (Answer(500), PullFailed, "later"),
        (Answer(503), PullFailed, "later"),
        (Answer(200, {}, b"<html>no JSON</html>"), PullFailed, "HF_ENDPOINT"),
        (Answer(200, {}, b"[]"), PullFailed, None),
        (Answer(200, {}, b"{}"), PullFailed, None),
        (Answer(200, {}, b'{"id": "owner/model-GGUF", "siblings": [1]}'), PullFailed, None),
        (Answer(200, {}, b'{"id": "owner/model-GGUF", "siblings": [], "sha": "main"}'), PullFailed, None),
        (Answer(200, {"Content-Length": "1000"}, b"{}"), PullFailed, "HF_ENDPOINT"),
    ],
)
def test_every_refusal_of_the_hub_is_explained(
    store: Store,
    model_hub: FakeHub,
    private_home: Path,
    answer: Answer,
    error: type[LlmserveError],
    in_hint: str | None,
) -> None:
    model_hub.info_answer = answer
    with pytest.raises(error) as refused:
        store.pull(NAME)
    assert "\n" not in str(refused.value)
    assert in_hint is None or in_hint in (refused.value.hint or "")
    assert refused.value.retry_after == (7.0 if answer.status == 429 else None)
    assert visible_files(private_home) == []


def test_no_hub_at_all_is_explained(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullFailed) as refused:
        store.pull(NAME)
    assert "network" in (refused.value.hint or "")


def test_offline_is_respected(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PullFailed, match="HF_HUB_OFFLINE"):
        store.pull(NAME)
    assert hub.requests == []


UNSAFE_SUFFIXES = [
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".npz",
    ".h5",
    ".keras",
    ".onnx",
    ".joblib",
    ".msgpack",
    ".py",
]
GOOD = {"rfilename": "tiny.gguf", "size": 10, "blobId": "0" * 40}


@pytest.mark.parametrize(
    "siblings",
    [
        [GOOD],
        [GOOD | {"lfs": {"size": -1, "sha256": "0" * 64, "pointerSize": 1}}],
        [GOOD | {"lfs": {"size": "10", "sha256": "0" * 64, "pointerSize": 1}}],
        [GOOD | {"lfs": {"size": 10, "sha256": "0" * 63, "pointerSize": 1}}],
        [GOOD | {"lfs": {"size": 10, "sha256": "../../x", "pointerSize": 1}}],
        [GOOD | {"lfs": {"size": 10, "sha256": None, "pointerSize": 1}}],
        [{"rfilename": f"{n}.txt"} for n in range(10_001)],
    ],
    ids=["no digest", "negative", "text", "63 digits", "traversal", "null", "too many"],
)
def test_metadata_that_cannot_be_verified_against_is_refused(
    store: Store, model_hub: FakeHub, siblings: list[dict[str, object]]
) -> None:
    model_hub.siblings = siblings
    with pytest.raises(PullFailed):
        store.pull(NAME)
    assert model_hub.downloads() == []


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a/../b.gguf", "a\\b.gguf", ".gguf", "x\n.gguf"])
def test_a_repository_cannot_name_a_path_outside(store: Store, model_hub: FakeHub, name: str) -> None:
    model_hub.siblings = [{"rfilename": name, "lfs": {"size": 10, "sha256": "0" * 64, "pointerSize": 1}}]
    with pytest.raises(ModelNotFound, match=r"no \.gguf file or safetensors"):
        store.pull(NAME)
    assert model_hub.downloads() == []


def test_a_full_disk_is_noticed_before_the_download(
    store: Store, model_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:1], 4096, *real[2:4], 10, *real[5:])))
    with pytest.raises(InsufficientStorage):
        store.pull(NAME)
    assert model_hub.downloads() == []


def test_the_token_never_leaves_the_configured_host(
    store: Store, model_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tiny_bytes: bytes
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FakeHub().running() as cdn:
        cdn.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
        model_hub.cdn = cdn.url
        assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        assert all(request.headers["authorization"] == "Bearer hf_secret" for request in model_hub.requests)
        assert [request.path for request in cdn.downloads()] == [f"/cdn/{hashlib.sha256(tiny_bytes).hexdigest()}"]
        assert all("authorization" not in request.headers for request in cdn.requests)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("model.gguf", True),
        ("sub/model.safetensors", True),
        ("config.json", True),
        ("tokenizer.json", True),
        ("tokenizer.model", True),
        *((f"model{suffix}", False) for suffix in UNSAFE_SUFFIXES),
        ("modeling_x.py", False),
        ("README.md", False),
        ("anything.json", False),
        ("model.gguf.py", False),
        ("gguf", False),
    ],
)
def test_only_weights_and_their_descriptions_are_allowed(name: str, allowed: bool) -> None:
    assert is_allowed_file(name) is allowed


def test_how_a_vector_is_made_comes_with_the_model() -> None:
    sentences = ("modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "sentence_bert_config.json")
    names = ("config.json", "model.safetensors", "README.md", "onnx/model.onnx", "onnx/config.json", *sentences)
    assert choose_files(HubReference("me", "m", None, "safetensors"), names) == (
        *("config.json", "model.safetensors", "1_Pooling/config.json", "modules.json", "sentence_bert_config.json"),
    )


@pytest.mark.parametrize(
    ("file", "names", "error"),
    [
        ("model.bin", ("model.bin",), InvalidRequest),
        ("model.safetensors", ("model.safetensors",), InvalidRequest),
        ("config.json", ("config.json",), InvalidRequest),
        ("other.gguf", ("model.gguf",), ModelNotFound),
        ("m-00001-of-00002.gguf", ("m-00001-of-00002.gguf",), ModelNotFound),
        ("Q4_0", ("m-Q8_0.gguf",), ModelNotFound),
        ("Q8_0", ("a-Q8_0.gguf", "b-Q8_0.gguf"), InvalidRequest),
        ("safetensors", ("model.safetensors",), ModelNotFound),
        ("Q8_0", ("mmproj-Q8_0.gguf",), ModelNotFound),
        (None, ("m-00001-of-00002.gguf",), ModelNotFound),
        (None, ("model.safetensors",), ModelNotFound),
        (None, (), ModelNotFound),
    ],
)
def test_what_is_not_one_gguf_file_is_not_chosen(
    file: str | None, names: tuple[str, ...], error: type[LlmserveError]
) -> None:
    with pytest.raises(error):
        choose_files(HubReference("o", "r", None, file), names)


def test_a_pickle_named_gguf_is_refused(store: Store, hub: FakeHub, private_home: Path) -> None:
    hub.commit("owner/model-GGUF", {"model.gguf": b"\x80\x04\x95" + b"x" * 2000})
    with pytest.raises(InvalidModel):
        store.pull(NAME)
    assert visible_files(private_home) == []
