"""Malformed and hostile GGUF files: each is refused, in a sentence, within its memory bound."""

from __future__ import annotations

import math
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel
from llmserve.store.gguf import inspect_gguf, read_header
from tests.store.bounds import read_within_bounds
from tests.store.raw_gguf import (
    ARRAY,
    BOOL,
    FLOAT32,
    I8,
    INT32,
    INT64,
    Q4_0,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    RawGguf,
    RawTensor,
    Value,
    array,
    number,
    sound_model,
    string,
    text,
)
from tests.tiny_gguf import write_tiny_model

MEMORY_BOUND_BYTES = 64 * 1024 * 1024

Spoil = Callable[[RawGguf], None]


def refusal(path: Path, read: Callable[[Path], object] = inspect_gguf) -> str:
    """The message with which a file is refused, after checking what holds for every refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = caught.value.message
    assert peak < MEMORY_BOUND_BYTES
    assert message.isascii() and message.isprintable(), "one line, safe for a log and a terminal"
    assert len(message) < 400
    assert str(path) not in message and path.name not in message
    return message


def refusal_of(content: bytes, tmp_path: Path, read: Callable[[Path], object] = inspect_gguf) -> str:
    path = tmp_path / "secret-name.gguf"
    path.write_bytes(content)
    return refusal(path, read)


def spoiled(spoil: Spoil) -> RawGguf:
    raw = sound_model()
    spoil(raw)
    return raw


def set_key(key: str, plain: object) -> Spoil:
    def spoil(raw: RawGguf) -> None:
        raw.metadata[key] = plain  # type: ignore[assignment]

    return spoil


def add_pair(key: bytes, typed: bytes) -> Spoil:
    def spoil(raw: RawGguf) -> None:
        raw.extra_pairs.append((key, typed))

    return spoil


def set_field(name: str, plain: object) -> Spoil:
    def spoil(raw: RawGguf) -> None:
        setattr(raw, name, plain)

    return spoil


def add_tensor(*tensors: RawTensor) -> Spoil:
    def spoil(raw: RawGguf) -> None:
        raw.tensors.extend(tensors)

    return spoil


def test_the_sound_model_is_accepted(tmp_path: Path) -> None:
    info = inspect_gguf(sound_model().write(tmp_path / "model.gguf"))
    assert (info.architecture, info.vocabulary, len(info.layers)) == ("llama", 4, 1)


class TestStartOfFile:
    @pytest.mark.parametrize("size", range(24))
    def test_too_short(self, size: int, tmp_path: Path) -> None:
        assert "past the end of the file" in refusal_of(sound_model().build()[:size], tmp_path)

    @pytest.mark.parametrize(
        ("field", "plain", "said"),
        [
            ("magic", b"GGML", "it starts with b'GGML'"),
            ("magic", b"\x1b[2J", "it starts with"),
            ("version", 0, "version 0"),
            ("version", 1, "version 1"),
            ("version", 4, "version 4"),
            ("version", 2**32 - 1, "version 4294967295"),
            ("version", 3 << 24, "big-endian"),
            ("tensor_count", 2**64 - 1, "18446744073709551615 tensors"),
            ("tensor_count", 2**32, "4294967296 tensors"),
            ("tensor_count", 10**7, "10000000 tensors"),
            ("tensor_count", 60_000, "60000 tensors, but only"),
            ("tensor_count", 4, "the name of tensor 3"),
            ("pair_count", 2**64 - 1, "18446744073709551615 metadata entries"),
            ("pair_count", 2**32, "4294967296 metadata entries"),
            ("pair_count", 10**7, "10000000 metadata entries"),
            ("pair_count", 60_000, "60000 metadata entries, but only"),
        ],
    )
    def test_bad_field(self, field: str, plain: object, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(set_field(field, plain)).build(), tmp_path)

    def test_version_2_is_accepted(self, tmp_path: Path) -> None:
        raw = spoiled(set_field("version", 2))
        assert read_header(raw.write(tmp_path / "model.gguf")).version == 2


class TestNotAFile:
    def test_missing(self, tmp_path: Path) -> None:
        assert "No such file" in refusal(tmp_path / "absent.gguf")

    def test_name_with_a_null_byte(self, tmp_path: Path) -> None:
        assert "name is not valid" in refusal(tmp_path / "a\0b.gguf")

    def test_directory(self, tmp_path: Path) -> None:
        assert "not a regular file" in refusal(tmp_path)

    def test_endless_device(self) -> None:
        assert "not a regular file" in refusal(Path("/dev/zero"))

    def test_named_pipe_without_a_writer(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in refusal(tmp_path / "pipe")


class TestMetadata:
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (string(b"x", length=2**64 - 1), "18446744073709551615 bytes"),
            (string(b"x", length=2**31), "2147483648 bytes"),
            (string(b"x", length=16 * 2**20), "past the end of the file"),
            (string(b"k" * 65_536), "65536 bytes"),
            (string(b""), "has 0 bytes"),
            (string(b"general.\0name"), "unprintable"),
            (string(b"general.\nname"), "unprintable"),
            (string("general.\u202ename".encode()), "unprintable"),
            (string(b"general.\xff"), "not UTF-8"),
            (string(b"general.architecture"), "occurs twice"),
        ],
    )
    def test_bad_key(self, key: bytes, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(add_pair(key, number(UINT32, 1))).build(), tmp_path)

    @pytest.mark.parametrize(
        ("typed", "said"),
        [
            (text(b"x", length=10_000), "past the end of the file"),
            (text(b"x", length=16 * 2**20 + 1), "over 16777216"),
            (text(b"x", length=2**64 - 8), "18446744073709551608 bytes"),
            (text(b"\xc3("), "not UTF-8 at its byte 0"),
            (struct.pack("<I", 255), "unknown type 255"),
            (struct.pack("<I", 13), "unknown type 13"),
            (number(UINT8, 2).replace(struct.pack("<I", UINT8), struct.pack("<I", BOOL)), "neither 0 nor 1"),
            (array(UINT64, 2**61), "2305843009213693952 items"),
            (array(UINT64, 2**64 - 1), "18446744073709551615 items"),
            (array(STRING, 2**61), "2305843009213693952 items"),
            (array(BOOL, 10**9), "1000000000 items"),
            (array(BOOL, 2, b"\0\2"), "neither 0 nor 1"),
            (array(255, 1, bytes(8)), "unknown type 255"),
            (array(ARRAY, 1, array(UINT8, 1, b"\0")), "array of arrays"),
            (array(STRING, 1, string(b"x", length=2**63)), "past the end of the file"),
            (array(STRING, 20, bytes(8 * 19) + string(b"x", length=2**64 - 1)), "past the end of the file"),
        ],
    )
    def test_bad_value(self, typed: bytes, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(add_pair(string("general.odd"), typed)).build(), tmp_path)

    def test_value_beyond_the_longest_header(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        spoiled(add_pair(string("general.odd"), array(UINT8, 25 * 2**20))).write(path)
        with path.open("r+b") as file:
            file.truncate(64 * 2**20)  # sparse
        assert "items, but only" in refusal(path)

    def test_strings_beyond_the_longest_header(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        spoiled(add_pair(string("general.odd"), array(STRING, 2, string(b"", length=25 * 2**20)))).write(path)
        with path.open("r+b") as file:
            file.truncate(64 * 2**20)
        assert "the longest header accepted" in refusal(path)

    @pytest.mark.parametrize(
        ("typed", "said"),
        [
            (number(UINT32, 0), "general.alignment is 0"),
            (number(UINT32, 1), "general.alignment is 1"),
            (number(UINT32, 13), "general.alignment is 13"),
            (number(UINT32, 131_072), "general.alignment is 131072"),
            (number(INT32, 32), "has the type INT32"),
            (number(UINT64, 32), "has the type UINT64"),
            (text("32"), "has the type STRING"),
        ],
    )
    def test_bad_alignment(self, typed: bytes, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(set_key("general.alignment", typed)).build(), tmp_path)

    @pytest.mark.parametrize("alignment", [8, 64, 65_536])
    def test_other_alignments_are_accepted(self, alignment: int, tmp_path: Path) -> None:
        raw = spoiled(set_key("general.alignment", alignment))
        raw.alignment = alignment
        header = read_header(raw.write(tmp_path / "model.gguf"))
        assert header.alignment_bytes == alignment
        assert header.data_offset % alignment == 0


class TestTensors:
    @pytest.mark.parametrize(
        ("tensor", "said"),
        [
            (RawTensor("t", (1024, 1024, 2**42 + 1, 1), data_bytes=32), "its tensors end at byte 18446744073"),
            (RawTensor("t", (1024, 1024, 2**43, 1), data_bytes=32), "impossible shape"),
            (RawTensor("t", (2**63,), I8, data_bytes=32), "impossible shape"),
            (RawTensor("t", (-1,), data_bytes=32), "impossible shape"),
            (RawTensor("t", (0,), data_bytes=32), "impossible shape"),
            (RawTensor("t", (8, 0)), "impossible shape"),
            (RawTensor("t", (), dimensions=0), "0 dimensions"),
            (RawTensor("t", (1, 1, 1, 1, 1)), "5 dimensions"),
            (RawTensor("t", (8,), dimensions=2**32 - 1), "4294967295 dimensions"),
            (RawTensor("t", (8,), type=4), "unknown type 4"),
            (RawTensor("t", (8,), type=43), "unknown type 43"),
            (RawTensor("t", (8,), type=2**32 - 1), "unknown type 4294967295"),
            (RawTensor("t", (33,), type=Q4_0), "rows of 33 elements, not a multiple of the 32 of Q4_0"),
            (RawTensor("t", (8,), offset=2**63), "has offset 9223372036854775808"),
            (RawTensor("t", (8,), offset=0), "has offset 0, expected"),
            (RawTensor("t", (8,), offset=481), "has offset 481, expected"),
            (RawTensor("t", (9,), data_bytes=32), "its tensors end at byte"),
            (RawTensor("n" * 64, (8,)), "64 bytes"),
            (RawTensor("", (8,)), "0 bytes"),
            (RawTensor("blk/0", (8,)), "not a tensor name"),
            (RawTensor("..", (8,)), "not a tensor name"),
            (RawTensor("blk\n0", (8,)), "not a tensor name"),
            (RawTensor(b"blk\x000", (8,)), "not a tensor name"),
            (RawTensor(b"blk\xff0", (8,)), "not a tensor name"),
            (RawTensor("token_embd.weight", (8,)), "occurs twice"),
            (RawTensor("blk.1.attn_q.weight", (8,)), "none of the 1 layers"),
            (RawTensor("blk.999999999.attn_q.weight", (8,)), "none of the 1 layers"),
        ],
    )
    def test_bad_tensor(self, tensor: RawTensor, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(add_tensor(tensor)).build(), tmp_path)

    def test_sizes_that_wrap_in_64_bits(self, tmp_path: Path) -> None:
        size = 0x7FFFFFFFFFFFFFC0
        first, second = RawTensor("a", (size,), I8, data_bytes=32), RawTensor("b", (size,), I8, data_bytes=32)
        second.offset = 480 + size
        assert "has offset" in refusal_of(spoiled(add_tensor(first, second)).build(), tmp_path)

    def test_one_byte_missing(self, tmp_path: Path) -> None:
        content = sound_model().build()
        assert "its tensors end at byte" in refusal_of(content[:-1], tmp_path)

    def test_padding_after_the_last_tensor_may_be_missing(self, tmp_path: Path) -> None:
        raw = sound_model(tensors=[RawTensor("rope_freqs.weight", (1,))])
        path = tmp_path / "model.gguf"
        path.write_bytes(raw.build()[:-28])
        assert inspect_gguf(path).parameters == 32 + 64 + 8 + 1

    def test_none(self, tmp_path: Path) -> None:
        assert "no tensors" in refusal_of(spoiled(set_field("tensors", [])).build(), tmp_path)


class TestVocabulary:
    @pytest.mark.parametrize(
        ("key", "plain", "said"),
        [
            ("tokens", ["<unk>", "<s>", "</s>", "<0x-1>"], "'<0x-1>' is no byte token"),
            ("tokens", ["<unk>", "<s>", "</s>", "<0xZZ>"], "'<0xZZ>' is no byte token"),
            ("tokens", ["<unk>", "<s>", "</s>", "<0x1FF>"], "'<0x1FF>' is no byte token"),
            ("tokens", ["<unk>", "<0x1>", "</s>", "<0x0A>"], "'<0x1>' is no byte token"),
            ("tokens", ["<unk>", "<s>", "</s>", "x"], "'x' is no byte token"),
            ("tokens", ["<unk>", "<s>", "<s>", "<0x0A>"], "token 2 has the text '<s>'"),
            ("tokens", ["<unk>", "<s>", "</s>"], "4 items for 3 tokens"),
            ("tokens", [1, 2, 3, 4], "not an array of strings"),
            ("tokens", array(STRING, 0), "0 tokens"),
            ("tokens", array(STRING, 10**9), "1000000000 items"),
            ("tokens", "abcd", "not an array of strings"),
            ("scores", [0.0] * 5, "5 items for 4 tokens"),
            ("scores", [True] * 4, "not an array of FLOAT32 or INT32"),
            ("token_type", [1] * 3, "3 items for 4 tokens"),
            ("token_type", [0.0] * 4, "not an array of INT32"),
            ("bos_token_id", 4, "bos_token_id is 4"),
            ("eos_token_id", 2**32 - 1, "eos_token_id is 4294967295"),
            ("unknown_token_id", number(INT32, -1), "unknown_token_id is -1"),
            ("bos_token_id", True, "bos_token_id is True"),
            ("bos_token_id", "1", "bos_token_id is str"),
            ("model", 7, "tokenizer.ggml.model is not a string"),
        ],
    )
    def test_bad_table(self, key: str, plain: object, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(set_key(f"tokenizer.ggml.{key}", plain)).build(), tmp_path)

    def test_more_tokens_than_any_model_has(self, tmp_path: Path) -> None:
        count = 393_217
        raw = spoiled(set_key("tokenizer.ggml.tokens", array(STRING, count, bytes(8 * count))))
        assert "393217 tokens, outside" in refusal_of(raw.build(), tmp_path)

    def test_more_text_than_any_model_has(self, tmp_path: Path) -> None:
        long = b"".join(string(b"x" * 2**21) for _ in range(4)) + string(b"y")
        raw = spoiled(set_key("tokenizer.ggml.tokens", array(STRING, 5, long)))
        assert "8388609 bytes" in refusal_of(raw.build(), tmp_path)

    def test_more_byte_tokens_than_bytes(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["tokenizer.ggml.tokens"] = [f"t{index}" for index in range(257)]
        raw.metadata["tokenizer.ggml.token_type"] = [6] * 257
        raw.metadata["tokenizer.ggml.scores"] = [0.0] * 257
        assert "257 byte tokens" in refusal_of(raw.build(), tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        raw = sound_model()
        del raw.metadata["tokenizer.ggml.model"]
        assert "no tokenizer.ggml.model" in refusal_of(raw.build(), tmp_path)

    def test_empty_tokens_may_repeat_and_padding_may_be_out_of_range(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["tokenizer.ggml.tokens"] = ["<unk>", "", "", "<0x0a>"]
        raw.metadata["tokenizer.ggml.padding_token_id"] = 2**32 - 1
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).vocabulary == 4

    def test_repetition_far_apart(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["tokenizer.ggml.tokens"] = [*(f"token {index}" for index in range(70_000)), "token 0"]
        raw.metadata["tokenizer.ggml.token_type"] = [1] * 70_001
        raw.metadata["tokenizer.ggml.scores"] = [0.0] * 70_001
        assert "token 70000 has the text 'token 0'" in refusal_of(raw.build(), tmp_path)


class TestArchitecture:
    @pytest.mark.parametrize(
        "name",
        ["", "a" * 65, "x" * 100_000, "../../etc/passwd", "%n%s%n", "llama\n", "llama\x1b[31m", "Llama", "ll\u00e4ma"],
    )
    def test_bad_name(self, name: str, tmp_path: Path) -> None:
        raw = spoiled(set_key("general.architecture", name))
        assert "general.architecture is not a name" in refusal_of(raw.build(), tmp_path)

    def test_longer_than_any_text_kept(self, tmp_path: Path) -> None:
        raw = spoiled(set_key("general.architecture", "x" * 2**20))
        assert "general.architecture has 1048576 bytes" in refusal_of(raw.build(), tmp_path)

    def test_missing_or_no_string(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["general.architecture"] = 7
        assert "general.architecture is not a string" in refusal_of(raw.build(), tmp_path)
        del raw.metadata["general.architecture"]
        assert "does not say its general.architecture" in refusal_of(raw.build(), tmp_path)

    def test_template_too_long(self, tmp_path: Path) -> None:
        raw = spoiled(set_key("tokenizer.chat_template", "x" * (256 * 1024 + 1)))
        assert "tokenizer.chat_template has 262145 bytes" in refusal_of(raw.build(), tmp_path)

    @pytest.mark.parametrize("key", ["block_count", "context_length", "embedding_length", "attention.head_count"])
    def test_missing_number(self, key: str, tmp_path: Path) -> None:
        raw = sound_model()
        del raw.metadata[f"llama.{key}"]
        assert f"llama.{key}" in refusal_of(raw.build(), tmp_path)

    @pytest.mark.parametrize(
        "key", ["block_count", "context_length", "embedding_length", "attention.head_count", "attention.head_count_kv"]
    )
    @pytest.mark.parametrize(
        "typed",
        [number(UINT32, 2**32 - 1), number(INT32, -1), number(FLOAT32, math.nan), text("1"), number(BOOL, True)],
    )
    def test_absurd_number(self, key: str, typed: bytes, tmp_path: Path) -> None:
        assert f"llama.{key} is" in refusal_of(spoiled(set_key(f"llama.{key}", typed)).build(), tmp_path)

    @pytest.mark.parametrize(
        ("key", "plain", "said"),
        [
            ("block_count", 0, "llama.block_count is 0"),
            ("block_count", 513, "llama.block_count is 513"),
            ("context_length", 0, "llama.context_length is 0"),
            ("embedding_length", 0, "llama.embedding_length is 0"),
            ("embedding_length", 16, "token_embd.weight has the shape"),
            ("attention.head_count", 0, "head_count is 0 or missing"),
            ("attention.head_count", [4, 4], "2 items for 1 layers"),
            ("attention.head_count", ["4"], "is not an integer"),
            ("attention.head_count", [1] * 2000, "has 2000 items"),
            ("attention.head_count_kv", 3, "not a multiple of its 3 key-value heads"),
            ("attention.head_count_kv", [-2], "head_count_kv is -2"),
            ("attention.key_length", 2**17, "key_length is 131072"),
            ("attention.sliding_window", 2**31, "sliding_window is 2147483648"),
            ("attention.sliding_window_pattern", ["x"], "is not an integer"),
            ("attention.causal", 1, "causal is not a boolean"),
            ("nextn_predict_layers", 2, "nextn_predict_layers is 2"),
            ("attention.shared_kv_layers", 1, "1 of its 1 layers share"),
            ("feed_forward_length", 2**31, "feed_forward_length is 2147483648"),
            ("rope.freq_base", math.nan, "rope.freq_base is nan"),
            ("rope.freq_base", 0.0, "rope.freq_base is 0.0"),
            ("rope.scaling.factor", math.inf, "rope.scaling.factor is inf"),
            ("rope.scaling.factor", -1.0, "rope.scaling.factor is -1.0"),
            ("rope.scaling.factor", "2", "rope.scaling.factor is not a number"),
            ("rope.scaling.type", "%n", "rope.scaling.type is '%n'"),
            ("rope.dimension_count", 2**31, "rope.dimension_count is 2147483648"),
            ("attention.layer_norm_rms_epsilon", math.nan, "layer_norm_rms_epsilon is nan"),
            ("expert_count", 1025, "expert_count is 1025"),
            ("expert_count", 8, "uses 0 of 8 experts"),
            ("expert_used_count", 2, "uses 2 of 0 experts"),
            ("expert_group_count", 4, "4 groups of 0 experts"),
        ],
    )
    def test_impossible_model(self, key: str, plain: object, said: str, tmp_path: Path) -> None:
        assert said in refusal_of(spoiled(set_key(f"llama.{key}", plain)).build(), tmp_path)

    @pytest.mark.parametrize(("groups", "used"), [(3, 1), (4, 0), (4, 4)])
    def test_impossible_expert_groups(self, groups: int, used: int, tmp_path: Path) -> None:
        keys: dict[str, Value] = {"expert_count": 8, "expert_used_count": 2, "expert_group_count": groups}
        raw = sound_model(keys={**keys, "expert_group_used_count": used})
        assert f"uses {used} of {groups} groups of 8 experts" in refusal_of(raw.build(), tmp_path)

    def test_windows_without_a_layer_that_slides(self, tmp_path: Path) -> None:
        keys: dict[str, Value] = {"attention.sliding_window": 32, "attention.sliding_window_pattern": 1}
        assert "no layer that slides" in refusal_of(sound_model("gemma3", keys, layers=2).build(), tmp_path)

    def test_vocabulary_that_does_not_fit_the_embeddings(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.tensors[0].shape = (8, 5)
        assert "token_embd.weight has the shape (8, 5) for 4 tokens" in refusal_of(raw.build(), tmp_path)


class TestParts:
    @pytest.mark.parametrize(
        ("number_", "count", "said"),
        [
            (0, 3, "first of 3 parts, but is not called"),
            (3, 3, "contradict"),
            (2**16 - 1, 0, "contradict"),
            ("../x", 2, "contradict"),
        ],
    )
    def test_split_file(self, number_: object, count: int, said: str, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata |= {"split.no": number_, "split.count": count}  # type: ignore[dict-item]
        assert said in refusal_of(raw.build(), tmp_path)

    def test_one_part_of_one_is_a_model(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata |= {"split.no": 0, "split.count": 1}
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).vocabulary == 4

    @pytest.mark.parametrize(
        ("key", "plain", "said"),
        [
            ("general.architecture", "clip", "image or audio encoder"),
            ("general.type", "mmproj", "image or audio encoder"),
            ("general.type", "adapter", "an adapter"),
        ],
    )
    def test_what_is_no_model(self, key: str, plain: str, said: str, tmp_path: Path) -> None:
        raw = spoiled(set_key(key, plain))
        assert said in refusal_of(raw.build(), tmp_path)
        assert read_header(raw.write(tmp_path / "part.gguf")).text(key) == plain

    @pytest.mark.parametrize(
        "spoil",
        [
            set_field("tensor_count", 2**64 - 1),
            add_pair(string("general.odd"), array(UINT64, 2**61)),
            add_tensor(RawTensor("t", (8,), offset=2**63)),
            add_tensor(RawTensor("../t", (8,))),
            set_key("general.alignment", 13),
        ],
    )
    @pytest.mark.parametrize("kind", ["adapter", "mmproj"])
    def test_same_checks_for_adapters_and_encoders(self, spoil: Spoil, kind: str, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["general.type"] = kind
        spoil(raw)
        assert "invalid GGUF file" in refusal_of(raw.build(), tmp_path, read_header)


# Of each kind of file; with those of `test_safetensors.py` 20,000 in a run.
MUTANTS = 125_000 if "LLMSERVE_TEST_NIGHTLY" in os.environ else 5000


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` with one to four accidents, most of them in the header, where they matter."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(data), 8192))
        accident = chance.randrange(4)
        if accident == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif accident == 1:
            stretched = chance.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**64 - 1))
            data[at : at + 8] = struct.pack("<Q", stretched)
        elif accident == 2:
            data[at : at + 4] = struct.pack("<I", chance.randrange(300))
        else:
            del data[chance.randrange(at, len(data)) :]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("variant", ["sound", "hybrid", "tiny"])
def test_mutations_are_refused_or_inspected(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if variant == "tiny":
        content = write_tiny_model(path, layers=1).read_bytes()
    elif variant == "hybrid":
        keys: dict[str, Value] = {
            "attention.head_count_kv": [0, 2],
            "shortconv.l_cache": 3,
            "attention.sliding_window": 16,
        }
        content = sound_model("lfm2", keys, layers=2).build()
    else:
        content = sound_model().build()
    chance = random.Random(variant)
    mutants = (mutated(content, chance) for _ in range(MUTANTS))
    read, refused = read_within_bounds(inspect_gguf, mutants, path)
    assert read + refused == MUTANTS
    assert 0 < refused < MUTANTS


def test_integers_of_any_type_count_as_integers(tmp_path: Path) -> None:
    raw = sound_model()
    raw.metadata["llama.context_length"] = number(INT64, 64)
    assert inspect_gguf(raw.write(tmp_path / "model.gguf")).context_length == 64
