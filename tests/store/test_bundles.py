"""Models carried from one home to another in a file, and files that are no sound bundle."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import Conflict, InvalidModel, InvalidRequest, LlmserveError
from llmserve.store.adoption import adopt
from llmserve.store.bundles import export_models, import_bundle
from llmserve.store.catalog import Catalog
from llmserve.store.copies import copy
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.store.conftest import leftovers, visible_files
from tests.store.tiny_safetensors import files
from tests.tiny_gguf import write_tiny_model


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """A store without a catalog and without a way to fetch anything."""
    return Store(tmp_path / "elsewhere", catalog=Catalog())


@pytest.fixture
def bundle(store: Store, downloads: list[str], tmp_path: Path) -> Path:
    store.pull("tiny")
    copy(store, "tiny", "mine:v1")
    path = tmp_path / "bundle.tar"
    export_models(store, ("tiny", "mine:v1"), path)
    return path


def test_a_bundle_brings_every_model(
    store: Store, bundle: Path, elsewhere: Store, tiny_bytes: bytes, tmp_path: Path
) -> None:
    models = import_bundle(elsewhere, bundle)
    assert [model.name for model in models] == ["tiny:1m", "mine:v1"]
    assert Path(elsewhere.find("mine:v1").path).read_bytes() == tiny_bytes
    assert elsewhere.manifest("tiny:1m").license == "apache-2.0"
    assert len(list((tmp_path / "elsewhere" / "blobs").iterdir())) == 1
    assert leftovers(tmp_path / "elsewhere") == []
    with tarfile.open(bundle) as archive:
        assert len(archive.getnames()) == 2  # the list, and the file that both share


def test_importing_again_changes_nothing(bundle: Path, elsewhere: Store) -> None:
    first = [model.sha256 for model in import_bundle(elsewhere, bundle)]
    assert [model.sha256 for model in import_bundle(elsewhere, bundle)] == first


def test_a_model_of_several_files_has_its_directory_again(
    private_home: Path, hub: FakeHub, elsewhere: Store, tmp_path: Path
) -> None:
    hub.commit("owner/model", files())
    store = Store(private_home, catalog=Catalog())
    pulled = store.pull("owner/model")
    export_models(store, ("owner/model",), tmp_path / "st.tar")
    (model,) = import_bundle(elsewhere, tmp_path / "st.tar")
    assert model.sha256 == pulled.sha256
    assert {path.name: path.read_bytes() for path in Path(model.path).iterdir()} == files()
    assert elsewhere.find("owner/model") == model
    assert elsewhere.remove("owner/model") == model.size_bytes
    assert visible_files(tmp_path / "elsewhere") == []
    assert not Path(model.path).exists()


def test_an_existing_file_is_not_overwritten(store: Store, bundle: Path) -> None:
    with pytest.raises(Conflict):
        export_models(store, ("tiny",), bundle)


def test_a_name_that_means_another_model_here_is_not_taken_over(bundle: Path, elsewhere: Store, tmp_path: Path) -> None:
    other = adopt(elsewhere, write_tiny_model(tmp_path / "other.gguf", seed=1))
    copy(elsewhere, other.name, "mine:v1")
    with pytest.raises(Conflict, match="another model `mine:v1`"):
        import_bundle(elsewhere, bundle)
    assert [model.name for model in elsewhere.list()] == ["mine:v1", "other:local"]


def test_a_damaged_model_is_not_exported(store: Store, downloads: list[str], tmp_path: Path) -> None:
    path = Path(store.pull("tiny").path)
    content = path.read_bytes()
    status = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([content[0] ^ 1]))
    import os

    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InvalidModel, match="not what it was"):
        export_models(store, ("tiny",), tmp_path / "bundle.tar")
    assert list(tmp_path.glob("*bundle*")) == []


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_a_flipped_bit_is_refused_with_the_files_name(
    bundle: Path, elsewhere: Store, tmp_path: Path, position: float
) -> None:
    content = bytearray(bundle.read_bytes())
    content[int(len(content) * position)] ^= 1
    bundle.write_bytes(content)
    with pytest.raises(InvalidModel, match=r"^`model\.gguf` of `tiny:1m`, `mine:v1` in the bundle is damaged"):
        import_bundle(elsewhere, bundle)
    assert visible_files(tmp_path / "elsewhere") == []
    assert leftovers(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.01, 0.5, 0.95])
def test_a_bundle_that_was_cut_off_is_refused(bundle: Path, elsewhere: Store, tmp_path: Path, kept: float) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InvalidModel):
        import_bundle(elsewhere, bundle)
    assert visible_files(tmp_path / "elsewhere") == []


def test_what_is_no_file_is_refused(elsewhere: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        import_bundle(elsewhere, tmp_path / "missing.tar")
    with pytest.raises(InvalidModel):
        import_bundle(elsewhere, tmp_path)


SHA256 = "0" * 64


def listed(**changed: Any) -> dict[str, Any]:
    file = {"name": "model.gguf", "sha256": SHA256, "size_bytes": 4}
    model = {
        "name": "x:1b",
        "format": "gguf",
        "quantization": "F16",
        "source": "file:/x",
        "license": None,
        "files": [file | changed.pop("file", {})],
    }
    return {"version": 1, "models": [model | changed]}


def write_tar(path: Path, content: Any, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        data = json.dumps(content).encode()
        listing = tarfile.TarInfo("llmserve-bundle.json")
        listing.size = len(data)
        archive.addfile(listing, io.BytesIO(data))
        for member, body in members:
            archive.addfile(member, io.BytesIO(body))
    return path


def member(name: str, body: bytes = b"GGUF", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(body) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd"
    return info, body


@pytest.mark.parametrize(
    ("content", "members"),
    [
        (listed(), []),
        (listed(), [member(f"blobs/sha256-{SHA256}")]),
        (listed(), [member(f"blobs/sha256-{SHA256}", b"12345")]),
        (listed(), [member(f"blobs/sha256-{SHA256}", kind=tarfile.SYMTYPE)]),
        (listed(), [member(f"blobs/sha256-{SHA256}", kind=tarfile.LNKTYPE)]),
        (listed(), [member(f"blobs/sha256-{SHA256}", kind=tarfile.CHRTYPE)]),
        (listed(), [member("../../evil")]),
        (listed(), [member("/etc/cron.d/evil")]),
        (listed(), [member(f"blobs/../blobs/sha256-{SHA256}")]),
        (listed(), [member(SHA256)]),
        (listed(name="../x"), []),
        (listed(name="X:1b"), []),
        (listed(files=[]), []),
        (listed(file={"name": "../evil"}), []),
        (listed(file={"name": "/evil"}), []),
        (listed(file={"name": ""}), []),
        (listed(file={"sha256": "A" * 64}), []),
        (listed(file={"sha256": "../../x"}), []),
        (listed(file={"size_bytes": -1}), []),
        (listed(format="pickle"), []),
        ({"version": 2, "models": []}, []),
        ({"version": 1, "models": []}, []),
        ([], []),
    ],
)
def test_a_hostile_bundle_touches_nothing(
    elsewhere: Store, tmp_path: Path, content: Any, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    path = write_tar(tmp_path / "evil.tar", content, *members)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LlmserveError) as refused:
        import_bundle(elsewhere, path)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value)
    assert visible_files(tmp_path / "elsewhere") == []
    assert sorted(path for path in tmp_path.iterdir() if path.name != "elsewhere") == before
