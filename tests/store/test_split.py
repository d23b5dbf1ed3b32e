"""Models in several GGUF files: joined by the inspector, pulled and adopted whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from llmserve.errors import InvalidModel, ModelNotFound
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.gguf import inspect_gguf
from llmserve.store.quantizations import is_model_file, quantization_of, shard_names
from llmserve.store.store import Store
from tests.fake_hub import FakeHub

NAMES = ("tiny-F16-00001-of-00002.gguf", "tiny-F16-00002-of-00002.gguf")


def split(whole: Path, directory: Path) -> tuple[Path, Path]:
    """The two halves of a model, as `llama-gguf-split` would write them."""
    reader = gguf.GGUFReader(whole)
    half = len(reader.tensors) // 2
    directory.mkdir(parents=True, exist_ok=True)
    for number, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        writer = gguf.GGUFWriter(directory / NAMES[number], "llama")
        if number == 0:
            _copy_metadata(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return directory / NAMES[0], directory / NAMES[1]


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if field.types[0] is gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])


@pytest.fixture(scope="module")
def parts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("split")
    split(tiny_model, directory)
    return directory


@pytest.fixture
def store(private_home: Path) -> Store:
    return Store(private_home, catalog=Catalog())


def copied(parts: Path, target: Path) -> Path:
    return Path(shutil.copytree(parts, target))


def test_the_parts_are_described_as_one_model(parts: Path, tiny_model: Path) -> None:
    whole, joined = inspect_gguf(tiny_model), inspect_gguf(parts / NAMES[0])
    assert joined.parameters == whole.parameters
    assert joined.layers == whole.layers
    assert joined.size_bytes == sum(path.stat().st_size for path in parts.iterdir())


def test_a_missing_part_is_refused(parts: Path, tmp_path: Path) -> None:
    directory = copied(parts, tmp_path / "copy")
    (directory / NAMES[1]).unlink()
    with pytest.raises(InvalidModel, match="is missing"):
        inspect_gguf(directory / NAMES[0])


def test_a_later_part_is_no_model(parts: Path) -> None:
    with pytest.raises(InvalidModel, match="later part"):
        inspect_gguf(parts / NAMES[1])


def test_the_same_part_twice_is_refused(parts: Path, tmp_path: Path) -> None:
    directory = copied(parts, tmp_path / "copy")
    shutil.copy(directory / NAMES[0], directory / NAMES[1])
    with pytest.raises(InvalidModel, match="does not say that it is part 2 of 2"):
        inspect_gguf(directory / NAMES[0])


def test_a_part_under_another_name_is_refused(parts: Path, tmp_path: Path) -> None:
    shutil.copy(parts / NAMES[0], tmp_path / "model.gguf")
    with pytest.raises(InvalidModel, match="not called like one"):
        inspect_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("given", NAMES)
def test_any_part_of_an_own_model_stands_for_it(store: Store, parts: Path, given: str) -> None:
    model = adopt(store, parts / given)
    assert model.path == str(parts / NAMES[0])
    assert model.size_bytes == sum(path.stat().st_size for path in parts.iterdir())
    assert store.find(model.name) == model


def test_a_change_in_a_later_part_is_seen(store: Store, parts: Path, tmp_path: Path) -> None:
    directory = copied(parts, tmp_path / "copy")
    model = adopt(store, directory / NAMES[0])
    (directory / NAMES[1]).touch()
    with pytest.raises(InvalidModel, match=f"changed on disk since it was verified: `{NAMES[1]}`"):
        store.find(model.name)


def test_a_split_model_is_pulled_whole(store: Store, hub: FakeHub, parts: Path) -> None:
    hub.commit("o/r-GGUF", {name: (parts / name).read_bytes() for name in NAMES})
    model = store.pull("o/r-GGUF:F16")
    assert model.name == "hf:o/r-GGUF:F16"
    assert Path(model.path).name == NAMES[0]
    assert Path(model.path).with_name(NAMES[1]).read_bytes() == (parts / NAMES[1]).read_bytes()
    assert store.inspect(model.name).size_bytes == model.size_bytes
    assert store.remove(model.name) == model.size_bytes


def test_a_repository_without_all_parts_has_no_such_model(store: Store, hub: FakeHub, parts: Path) -> None:
    hub.commit("o/r-GGUF", {NAMES[0]: (parts / NAMES[0]).read_bytes()})
    with pytest.raises(ModelNotFound):
        store.pull("o/r-GGUF")
    with pytest.raises(ModelNotFound, match="lacks"):
        store.pull(f"o/r-GGUF:{NAMES[0]}")
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-360m-instruct-q8_0.gguf", "Q8_0"),
        ("nomic-embed-text-v1.5.Q8_0.gguf", "Q8_0"),
        ("sub/gpt-oss-120b-mxfp4-00001-of-00003.gguf", "MXFP4"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-fp16.gguf", "F16"),
        ("model.gguf", None),
        ("q4ever.gguf", None),
    ],
)
def test_quantizations_are_read_from_names(name: str, label: str | None) -> None:
    assert quantization_of(name) == label


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("m.gguf", ("m.gguf",)),
        ("m-00002-of-00002.gguf", ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")),
        ("m-00000-of-00000.gguf", ("m-00000-of-00000.gguf",)),
        ("m-00003-of-00002.gguf", ("m-00003-of-00002.gguf",)),
        ("m-00001-of-99999.gguf", ("m-00001-of-99999.gguf",)),
    ],
)
def test_parts_are_named_by_llama_cpps_rule(name: str, parts: tuple[str, ...]) -> None:
    assert shard_names(name) == parts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.gguf", True),
        ("m-00001-of-00002.gguf", True),
        ("m-00002-of-00002.gguf", False),
        ("mmproj-m-f16.gguf", False),
        ("m.imatrix.gguf", False),
        ("m.bin", False),
    ],
)
def test_a_model_begins_with_one_file(name: str, expected: bool) -> None:
    assert is_model_file(name) is expected
