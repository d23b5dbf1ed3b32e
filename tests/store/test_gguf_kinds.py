"""The 26 kinds of malformed file that llama.cpp's own GGUF tests describe, made by generators of our own.

And two more that it describes: a tensor without elements, which it loads and we refuse, and a value larger than the
file, which it took out because it can ask for a terabyte.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel
from llmserve.store.gguf import inspect_gguf, read_header
from tests.store.raw_gguf import I8, INT32, UINT32, RawGguf, RawTensor, number, sound_model, string, text

I64 = 27
MEMORY_BOUND_BYTES = 64 * 1024 * 1024


def with_field(name: str, value: object) -> bytes:
    raw = sound_model()
    setattr(raw, name, value)
    return raw.build()


def with_pair(key: bytes, typed: bytes = number(UINT32, 1)) -> bytes:
    raw = sound_model()
    raw.extra_pairs.append((key, typed))
    return raw.build()


def with_alignment(typed: bytes) -> bytes:
    raw = sound_model()
    raw.metadata["general.alignment"] = typed
    return raw.build()


def with_tensors(*tensors: RawTensor) -> bytes:
    raw = sound_model()
    raw.tensors.extend(tensors)
    return raw.build()


def packed_closer(has_data: bool) -> bytes:
    """Tensors laid out for an alignment of 1 in a file that states none, which means 32."""
    raw = sound_model(tensors=[RawTensor("a", (1,)), RawTensor("b", (1,), offset=484, data_bytes=4)])
    content = raw.build()
    return content if has_data else content[: -len(raw.tensors) * 32]


def one_byte_short() -> bytes:
    return sound_model(tensors=[RawTensor("a", (8,))]).build()[:-1]


HUGE = 0x7FFFFFFFFFFFFFC0

KINDS: dict[str, Callable[[], bytes]] = {
    "header, bad magic": lambda: with_field("magic", b"FUGG"),
    "header, version 0": lambda: with_field("version", 0),
    "header, version 1": lambda: with_field("version", 1),
    "header, future version": lambda: with_field("version", 4),
    "header, bad number of tensors": lambda: with_field("tensor_count", 2**64 - 1),
    "header, bad number of pairs": lambda: with_field("pair_count", 2**64 - 1),
    "pair, bad key size": lambda: with_pair(string("my_key", length=2**64 - 1)),
    "pair, empty key": lambda: with_pair(string("")),
    "pair, bad type": lambda: with_pair(string("my_key"), number(UINT32, 1).replace(b"\4", b"\x0d", 1)),
    "pair, duplicate key": lambda: with_pair(string("general.architecture"), text("llama")),
    "pair, bad alignment": lambda: with_alignment(number(UINT32, 13)),
    "pair, alignment of a wrong type": lambda: with_alignment(number(INT32, 32)),
    "tensor, bad name size": lambda: with_tensors(RawTensor("n" * 64, (8,))),
    "tensor, bad number of dimensions": lambda: with_tensors(RawTensor("a", (8,), dimensions=5)),
    "tensor, bad shape": lambda: with_tensors(RawTensor("a", (-1,), data_bytes=32)),
    "tensor, too many elements": lambda: with_tensors(RawTensor("a", (4 * (2**31 - 1),) * 2, data_bytes=32)),
    "tensor, too many bytes": lambda: with_tensors(RawTensor("a", (1_533_916_891,) * 2, I64, data_bytes=32)),
    "tensor, bad type": lambda: with_tensors(RawTensor("a", (8,), type=2**31)),
    "tensor, bad offset": lambda: with_tensors(RawTensor("a", (8,), offset=2**64 - 1)),
    "tensor, duplicate name": lambda: with_tensors(RawTensor("a", (8,)), RawTensor("a", (8,))),
    "tensor, bad alignment": lambda: with_alignment(number(UINT32, 13))[:-32],
    "tensor, inconsistent alignment": lambda: packed_closer(has_data=False),
    "data, not enough": one_byte_short,
    "data, bad alignment": lambda: with_alignment(number(UINT32, 13)) + bytes(64),
    "data, inconsistent alignment": lambda: packed_closer(has_data=True),
    "data, sizes that overflow": lambda: with_tensors(
        RawTensor("a", (HUGE,), I8, data_bytes=32), RawTensor("b", (HUGE,), I8, offset=480 + HUGE, data_bytes=32)
    ),
    "beside them: a tensor without elements": lambda: with_tensors(RawTensor("a", (8, 0), data_bytes=0)),
    "beside them: a value larger than the file": lambda: with_pair(string("my_key"), text(b"x", length=2**40)),
}


def test_they_are_as_many_as_llama_cpp_has() -> None:
    assert len([kind for kind in KINDS if not kind.startswith("beside")]) == 26


def test_what_they_are_made_from_is_sound(tmp_path: Path) -> None:
    sound: RawGguf = sound_model(tensors=[RawTensor("a", (8,))])
    assert inspect_gguf(sound.write(tmp_path / "model.gguf")).parameters > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [read_header, inspect_gguf], ids=["header", "model"])
def test_each_is_refused(kind: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(KINDS[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BOUND_BYTES
    finally:
        tracemalloc.stop()
