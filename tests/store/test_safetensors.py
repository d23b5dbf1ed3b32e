"""The safetensors inspector: what it reads from a sound model, and that it refuses every other."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import InvalidModel
from llmserve.store.bounded_json import UnsoundJson, parse_bounded
from llmserve.store.safetensors import inspect_directory
from llmserve.store.safetensors_header import read_tensors
from tests.store.bounds import read_within_bounds
from tests.store.tiny_safetensors import CONFIG, TENSORS, file_of, header_of, sound_file, write_model


def test_a_sound_model_is_described(tmp_path: Path) -> None:
    info = inspect_directory(write_model(tmp_path))
    assert (info.format, info.architecture, info.kind) == ("safetensors", "llama", "generate")
    assert info.quantization == "BF16"
    assert info.parameters == 16 * 8 + 2 * 16 * 8 + 8 + 16 * 8
    assert [layer.weight_bytes for layer in info.layers] == [256, 256]
    assert [(layer.kv_heads, layer.key_length, layer.value_length) for layer in info.layers] == [(1, 4, 4)] * 2
    assert (info.input_bytes, info.output_bytes) == (256, 256 + 16)
    assert info.context_length == 128
    assert info.chat_template == "{{ messages }}"
    assert info.tensor_types == (("BF16", 5),)
    assert info.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "windows"),
    [
        ({"sliding_window": 32}, [32, 32]),
        ({"sliding_window": 32, "use_sliding_window": False}, [None, None]),
        ({"sliding_window": 32, "sliding_window_pattern": 2}, [32, None]),
        ({"sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]}, [None, 32]),
    ],
)
def test_windows_are_those_of_the_configuration(tmp_path: Path, changed: dict[str, Any], windows: list[int]) -> None:
    layers = inspect_directory(write_model(tmp_path, **changed)).layers
    assert [layer.sliding_window for layer in layers] == windows


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    assert inspect_directory(write_model(tmp_path, architectures=["BertModel"])).kind == "embed"


@pytest.mark.parametrize(("stated", "context"), [(64, 64), (512, 128), ("64", 128), (0, 128), (None, 128)])
def test_a_model_of_shorter_texts_says_so(tmp_path: Path, stated: object, context: int) -> None:
    model = write_model(tmp_path, architectures=["BertModel"])
    (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": stated}))
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "type": "sentence_transformers.models.Transformer"}]))
    assert inspect_directory(model).context_length == context


def test_latent_attention_caches_one_vector(tmp_path: Path) -> None:
    (layer, _) = inspect_directory(write_model(tmp_path, kv_lora_rank=64, qk_rope_head_dim=8)).layers
    assert (layer.kv_heads, layer.key_length, layer.value_length) == (1, 72, 0)


def test_the_language_models_part_of_a_configuration_counts(tmp_path: Path) -> None:
    text = {key: CONFIG[key] for key in ("hidden_size", "num_hidden_layers")}
    write_model(tmp_path, text_config=text, hidden_size=999_999_999)
    assert inspect_directory(tmp_path).embedding_length == 8


SOUND, DATA_BYTES = header_of(TENSORS)
NAME = "model.norm.weight"


def changed_entry(**entry: Any) -> dict[str, Any]:
    return {**SOUND, NAME: {**SOUND[NAME], **entry}}


# Security case G18, and the file's frame.
BROKEN = {
    "empty": b"",
    "cut in the length": b"\1\0\0",
    "no header": (0).to_bytes(8, "little") + bytes(100),
    "length of 2^64-1": (2**64 - 1).to_bytes(8, "little") + b"{}" + bytes(100),
    "length of 101 MB": (101_000_000).to_bytes(8, "little") + b"{}" + bytes(100),
    "length past the end": (200).to_bytes(8, "little") + b"{}",
    "no JSON": file_of(b"{not json", DATA_BYTES),
    "an array": file_of([], DATA_BYTES),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "no tensors": file_of({}, 0),
    "a key twice": file_of(json.dumps(SOUND).replace("lm_head", "model.norm").encode(), DATA_BYTES),
    "NaN": file_of(changed_entry(shape=[float("nan")]), DATA_BYTES),
    "offsets reversed": file_of(changed_entry(data_offsets=[100, 50]), DATA_BYTES),
    "overlap": file_of({**SOUND, "x": SOUND[NAME]}, DATA_BYTES),
    "beyond the end": file_of(SOUND, DATA_BYTES - 1),
    "more than the tensors": file_of(SOUND, DATA_BYTES + 1),
    "a gap": file_of({name: entry for name, entry in SOUND.items() if name != NAME}, DATA_BYTES),
    "a shape that wraps to 0": file_of(changed_entry(shape=[2**32, 2**32]), DATA_BYTES),
    "a negative shape": file_of(changed_entry(shape=[-8]), DATA_BYTES),
    "a shape of booleans": file_of(changed_entry(shape=[True] * 8), DATA_BYTES),
    "an unknown type": file_of(changed_entry(dtype="F128"), DATA_BYTES),
    "a type that is a list": file_of(changed_entry(dtype=[]), DATA_BYTES),
    "three offsets": file_of(changed_entry(data_offsets=[0, 1, 2]), DATA_BYTES),
    "an extra key": file_of(changed_entry(device="cpu"), DATA_BYTES),
    "an entry that is no object": file_of({**SOUND, NAME: 7}, DATA_BYTES),
    "metadata that is no object": file_of({**SOUND, "__metadata__": []}, DATA_BYTES),
    "metadata that is no text": file_of({**SOUND, "__metadata__": {"a": 1}}, DATA_BYTES),
    "a name with a newline": file_of({**SOUND, "a\nb": SOUND[NAME]}, DATA_BYTES),
    "nested deep": file_of(b'{"a":' + b"[" * 100_000, DATA_BYTES),
    "a million tensors": file_of(b"{" + b'"a":{},' * 900_000 + b'"b":{}}', 0),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_within_bounds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel) as refused:
            read_tensors(tmp_path / "model.safetensors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024**2
    assert str(refused.value).isascii()
    assert "\n" not in str(refused.value)


MUTANTS = 125_000 if "LLMSERVE_TEST_NIGHTLY" in os.environ else 5000


def test_mutants_are_refused_or_read_but_never_break_the_reader(tmp_path: Path) -> None:
    chance = random.Random(5)
    sound = sound_file()
    header_end = 8 + int.from_bytes(sound[:8], "little")
    path = tmp_path / "model.safetensors"

    def mutants() -> Iterator[bytes]:
        for _ in range(MUTANTS):
            mutant = bytearray(sound)
            for _ in range(chance.randint(1, 3)):
                mutant[chance.randrange(header_end)] = chance.randrange(256)
            yield bytes(mutant[: chance.choice((len(mutant), chance.randrange(len(mutant))))])

    def read_consistently(path: Path) -> None:
        if sum(tensor.size_bytes for tensor in read_tensors(path)) != DATA_BYTES:
            raise ValueError("the tensors are not the file's data")

    read, refused = read_within_bounds(read_consistently, mutants(), path)
    assert read + refused == MUTANTS
    assert read < MUTANTS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "JSON object"),
        ("config.json", b"{" + b" " * 1024**2 + b"}", "bytes"),
        ("config.json", b'{"a": NaN}', "NaN"),
        ("config.json", b'{"a":' * 100_000, "nested"),
        ("tokenizer.json", b"\x80\x04\x95", "pickle"),
        ("tokenizer.model", b"PK\x03\x04", "archive"),
        ("tokenizer.json", b"", "bytes"),
        ("chat_template.jinja", b"x" * 300_000, "bytes"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}', "none of"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "/etc/passwd"}}', "none of"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "does not name"),
        ("model.safetensors.index.json", b'{"weight_map": []}', "weight_map"),
    ],
)
def test_a_file_beside_the_weights_is_checked_too(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidModel, match=said):
        inspect_directory(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "asks",
    [
        {"auto_map": {"AutoModel": "modeling_x.X"}},
        {"trust_remote_code": True},
        {"_attn_implementation_internal": "a/b"},
        {"deep": [{"custom_pipelines": {}}]},
    ],
    ids=lambda asks: next(iter(asks)),
)
def test_a_model_that_needs_code_of_its_repository_is_refused(tmp_path: Path, file: str, asks: dict[str, Any]) -> None:
    write_model(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **asks}))
    with pytest.raises(InvalidModel, match="never run"):
        inspect_directory(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2**40},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": None},
        {"hidden_size": -1},
        {"num_attention_heads": True},
        {"vocab_size": 1.5},
        {"model_type": "../x"},
        {"model_type": None},
        {"layer_types": ["full_attention"]},
        {"layer_types": 7},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidModel):
        inspect_directory(write_model(tmp_path, **changed))


def test_two_files_cannot_have_the_same_tensor(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(sound_file())
    with pytest.raises(InvalidModel, match="same name"):
        inspect_directory(tmp_path)


def test_bounds_are_known_before_anything_is_made() -> None:
    assert parse_bounded(b'{"a": [1, 2]}', items=3) == {"a": [1, 2]}
    with pytest.raises(UnsoundJson, match="more than"):
        parse_bounded(b'{"a": [1, 2]}', items=2)
