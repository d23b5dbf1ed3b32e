"""What the inspector says of sound models: sizes, cache shapes, names."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.store.gguf import inspect_gguf, read_header
from llmserve.store.gguf_header import GgufArray
from llmserve.types import LayerInfo, ModelInfo, from_json, to_json
from tests.store.raw_gguf import Q4_0, STRING, UINT8, RawTensor, Value, array, sound_model, string
from tests.tiny_gguf import CHATML, vocabulary, write_tiny_model

MEBIBYTE = 2**20


def inspected(
    tmp_path: Path, architecture: str, keys: dict[str, Value] | None = None, *, layers: int = 1
) -> tuple[LayerInfo, ...]:
    """The layers of a sound model with these hyperparameters."""
    return inspect_gguf(sound_model(architecture, keys, layers=layers).write(tmp_path / "model.gguf")).layers


def sliding(layers: tuple[LayerInfo, ...]) -> str:
    """One letter per layer: `s` for a sliding window, `f` for full attention."""
    return "".join("f" if layer.sliding_window is None else "s" for layer in layers)


def cached(layers: tuple[LayerInfo, ...]) -> str:
    """One letter per layer: `k` for a cache, `r` for a recurrent state, `b` for both, `-` for neither."""
    letters = {(True, False): "k", (False, True): "r", (True, True): "b", (False, False): "-"}
    return "".join(letters[layer.kv_heads > 0, layer.state_bytes > 0] for layer in layers)


def test_every_field_of_a_whole_model(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", layers=3, context=256, name="Very Tiny")
    weights = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3) + 4 * 64 * 2
    embeddings = 2 * 64 * len(vocabulary())
    assert inspect_gguf(path) == ModelInfo(
        format="gguf",
        architecture="llama",
        kind="generate",
        name="Very Tiny",
        parameters=3 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3 + 64 * 2) + 2 * 64 * len(vocabulary()) + 64,
        quantization="F16",
        size_bytes=path.stat().st_size,
        context_length=256,
        embedding_length=64,
        feed_forward_length=128,
        heads=4,
        vocabulary=len(vocabulary()),
        layers=(LayerInfo(weights, kv_heads=2, key_length=16, value_length=16, sliding_window=None),) * 3,
        input_bytes=embeddings,
        output_bytes=embeddings + 4 * 64,
        chat_template=CHATML,
        license="apache-2.0",
        tensor_types=(("F16", 23), ("F32", 7)),
    )


def test_a_description_survives_json(tmp_path: Path) -> None:
    info = inspect_gguf(write_tiny_model(tmp_path / "tiny.gguf", chat_template=None))
    assert info.chat_template is None
    assert from_json(ModelInfo, to_json(info)) == info


def test_the_tiny_model_is_small_and_reproducible(tmp_path: Path) -> None:
    first, again, other = (write_tiny_model(tmp_path / f"{index}.gguf", seed=index // 2) for index in range(3))
    assert first.stat().st_size < 500_000
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


class TestHeader:
    def test_lists_metadata_and_tensors(self, tmp_path: Path) -> None:
        header = read_header(sound_model().write(tmp_path / "model.gguf"))
        assert header.version == 3
        assert header.metadata["llama.block_count"] == 1
        assert header.text("general.architecture") == "llama"
        assert header.text("general.name") is None
        tensors = [(tensor.name, tensor.type.name, tensor.shape, tensor.offset) for tensor in header.tensors]
        assert tensors == [
            ("token_embd.weight", "F32", (8, 4), 0),
            ("blk.0.attn_q.weight", "F32", (8, 8), 128),
            ("output_norm.weight", "F32", (8,), 384),
        ]

    def test_keeps_short_arrays_and_counts_long_ones(self, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata |= {
            "general.tags": ["chat", "text-generation"],
            "general.none": array(STRING, 0),
            "general.bytes": array(UINT8, 3 * MEBIBYTE, bytes(3 * MEBIBYTE)),
            "tokenizer.ggml.merges": [f"a b{index}" for index in range(2000)],
        }
        metadata = read_header(raw.write(tmp_path / "model.gguf")).metadata
        arrays = {key: value for key, value in metadata.items() if isinstance(value, GgufArray)}
        assert arrays["general.tags"].items == ("chat", "text-generation")
        assert arrays["general.none"].items == ()
        assert (arrays["general.bytes"].count, arrays["general.bytes"].items) == (3 * MEBIBYTE, None)
        assert (arrays["tokenizer.ggml.merges"].count, arrays["tokenizer.ggml.merges"].items) == (2000, None)

    def test_reads_on_where_strings_cross_the_first_read(self, tmp_path: Path) -> None:
        texts = [f"{index:07d}" * (index % 50) for index in range(20_000)]
        raw = sound_model()
        raw.metadata |= {"general.odd": array(STRING, len(texts), b"".join(map(string, texts))), "general.name": "End"}
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).name == "End"

    def test_needs_only_the_header_of_a_huge_file(self, tmp_path: Path) -> None:
        size = 20 * 2**30
        raw = sound_model(tensors=[RawTensor("rope_freqs.weight", (size // 4,), data_bytes=0)])
        path = raw.write(tmp_path / "model.gguf")
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + size)  # sparse
        assert inspect_gguf(path).input_bytes == size + 128


class TestTensorBytes:
    def test_layers_input_and_output(self, tmp_path: Path) -> None:
        raw = sound_model(
            layers=2,
            tensors=[
                RawTensor("output.weight", (32, 2), Q4_0, data_bytes=36),
                RawTensor("blk.1.ffn_up.weight", (8, 16)),
                RawTensor("rope_freqs.weight", (4,)),
                RawTensor("per_layer_token_embd.weight", (8, 4)),
            ],
        )
        info = inspect_gguf(raw.write(tmp_path / "model.gguf"))
        assert [layer.weight_bytes for layer in info.layers] == [256, 256 + 512]
        assert info.input_bytes == 128 + 16 + 128
        assert info.output_bytes == 32 + 36
        assert info.parameters == 32 + 2 * 64 + 8 + 64 + 128 + 4 + 32
        assert info.tensor_types == (("F32", 7), ("Q4_0", 1))

    def test_tied_embeddings_count_once(self, tmp_path: Path) -> None:
        info = inspect_gguf(sound_model().write(tmp_path / "model.gguf"))
        assert (info.input_bytes, info.output_bytes) == (128, 32)

    def test_an_encoder_has_no_output_matrix(self, tmp_path: Path) -> None:
        info = inspect_gguf(sound_model("bert").write(tmp_path / "model.gguf"))
        assert (info.input_bytes, info.output_bytes) == (128, 32)


class TestCacheShape:
    def test_head_length_follows_from_the_width(self, tmp_path: Path) -> None:
        assert inspected(tmp_path, "llama")[0].key_length == 2

    def test_head_length_of_its_own(self, tmp_path: Path) -> None:
        (layer,) = inspected(tmp_path, "qwen3", {"attention.key_length": 128, "attention.value_length": 96})
        assert (layer.kv_heads, layer.key_length, layer.value_length) == (2, 128, 96)

    def test_heads_without_grouping(self, tmp_path: Path) -> None:
        raw = sound_model()
        del raw.metadata["llama.attention.head_count_kv"]
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).layers[0].kv_heads == 4

    def test_heads_by_layer(self, tmp_path: Path) -> None:
        keys: dict[str, Value] = {"attention.head_count": [4, 4, 2], "attention.head_count_kv": [2, 4, 1]}
        assert [layer.kv_heads for layer in inspected(tmp_path, "openelm", keys, layers=3)] == [2, 4, 1]

    def test_latent_attention_caches_keys_only(self, tmp_path: Path) -> None:
        keys: dict[str, Value] = {
            "attention.head_count_kv": 1,
            "attention.key_length": 576,
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
        }
        (layer,) = inspected(tmp_path, "deepseek2", keys)
        assert (layer.kv_heads, layer.key_length, layer.value_length) == (1, 576, 0)

    def test_prediction_layers_have_no_cache(self, tmp_path: Path) -> None:
        assert cached(inspected(tmp_path, "glm4moe", {"nextn_predict_layers": 1}, layers=3)) == "kk-"

    def test_layers_that_share_a_cache(self, tmp_path: Path) -> None:
        keys: dict[str, Value] = {
            "attention.shared_kv_layers": 2,
            "attention.sliding_window": 32,
            "attention.sliding_window_pattern": [True, False, True, False],
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.key_length_swa": 8,
            "attention.value_length_swa": 8,
        }
        layers = inspected(tmp_path, "gemma4", keys, layers=4)
        assert cached(layers) == "kk--"
        assert sliding(layers) == "sfsf"
        assert [layer.key_length for layer in layers] == [8, 16, 8, 16]

    def test_gemma3n_shares_after_twenty_layers(self, tmp_path: Path) -> None:
        layers = inspected(tmp_path, "gemma3n", {"attention.sliding_window": 32}, layers=25)
        assert cached(layers) == "k" * 20 + "-" * 5

    @pytest.mark.parametrize("architecture", ["bert", "nomic-bert", "jina-bert-v2", "modern-bert", "gemma-embedding"])
    def test_encoders_have_no_cache(self, architecture: str, tmp_path: Path) -> None:
        assert cached(inspected(tmp_path, architecture, layers=2)) == "--"


class TestSlidingWindow:
    @pytest.mark.parametrize(
        ("architecture", "keys", "expected"),
        [
            ("gemma2", {}, "sfsfsfs"),
            ("gemma2", {"attention.sliding_window": 16}, "sfsfsfs"),
            ("gemma3", {"attention.sliding_window": 16}, "sssssfs"),
            ("gemma3", {"attention.sliding_window": 16, "attention.sliding_window_pattern": 3}, "ssfssfs"),
            ("gemma3", {}, "fffffff"),
            ("gpt-oss", {"attention.sliding_window": 16}, "sfsfsfs"),
            ("cohere2", {"attention.sliding_window": 16}, "sssfsss"),
            ("cohere2moe", {"attention.sliding_window": 16}, "fsssfss"),
            ("llama4", {}, "sssfsss"),
            ("llama4", {"attention.sliding_window": 0}, "fffffff"),
            ("exaone4", {"attention.sliding_window": 16}, "fffffff"),
            ("mimo2", {"attention.sliding_window": 16, "attention.sliding_window_pattern": [1, 1, 0]}, "ssfffff"),
            # These carry the key, but llama.cpp gives every layer the whole context.
            ("llama", {"attention.sliding_window": 16}, "fffffff"),
            ("phi3", {"attention.sliding_window": 16}, "fffffff"),
        ],
    )
    def test_pattern(self, architecture: str, keys: dict[str, Value], expected: str, tmp_path: Path) -> None:
        assert sliding(inspected(tmp_path, architecture, keys, layers=7)) == expected

    @pytest.mark.parametrize(
        ("architecture", "keys", "window"),
        [("gemma2", {}, 4096), ("gemma2", {"attention.sliding_window": 16}, 16), ("llama4", {}, 8192)],
    )
    def test_length(self, architecture: str, keys: dict[str, Value], window: int, tmp_path: Path) -> None:
        assert inspected(tmp_path, architecture, keys, layers=2)[0].sliding_window == window


class TestRecurrentLayers:
    @pytest.mark.parametrize(
        ("architecture", "keys", "state_elements"),
        [
            (
                "mamba",
                {"ssm.conv_kernel": 4, "ssm.inner_size": 16, "ssm.state_size": 8, "attention.head_count": 0},
                3 * 16 + 8 * 16,
            ),
            (
                "mamba2",
                {"ssm.conv_kernel": 4, "ssm.inner_size": 16, "ssm.state_size": 8, "ssm.group_count": 2},
                3 * (16 + 2 * 2 * 8) + 8 * 16,
            ),
            ("rwkv7", {"wkv.head_size": 4, "attention.head_count": 0}, 2 * 8 + 8 * 4),
            ("arwkv7", {"wkv.head_size": 4, "token_shift_count": 1}, 8 + 8 * 4),
        ],
    )
    def test_state(self, architecture: str, keys: dict[str, Value], state_elements: int, tmp_path: Path) -> None:
        layers = inspected(tmp_path, architecture, keys, layers=2)
        assert cached(layers) == "rr"
        assert layers[0].state_bytes == 4 * state_elements

    @pytest.mark.parametrize(
        ("architecture", "keys", "expected"),
        [
            ("jamba", {"attention.head_count_kv": [0, 0, 2, 0]}, "rrkr"),
            ("lfm2", {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3}, "rkrk"),
            ("kimi-linear", {"attention.head_count_kv": [0, 0, 0, 1], "kda.head_dim": 4}, "rrrk"),
            ("nemotron_h", {"attention.head_count_kv": [0, 0, 2, 0], "feed_forward_length": [0, 16, 0, 0]}, "r-kr"),
            ("falcon-h1", {}, "bbbb"),
            ("qwen3next", {}, "rrrk"),
            ("qwen35", {"full_attention_interval": 2}, "rkrk"),
            ("qwen35", {"attention.recurrent_layers": [True, True, False, False]}, "rrkk"),
            ("minimax-01", {"full_attention_interval": 2}, "rkrk"),
            # Layers without key-value heads in a plain transformer have no attention, and no state either.
            ("deci", {"attention.head_count_kv": [2, 0, 2, 2]}, "k-kk"),
        ],
    )
    def test_hybrids(self, architecture: str, keys: dict[str, Value], expected: str, tmp_path: Path) -> None:
        sizes: dict[str, Value] = {"ssm.conv_kernel": 4, "ssm.inner_size": 16, "ssm.state_size": 8}
        assert cached(inspected(tmp_path, architecture, {**sizes, **keys}, layers=4)) == expected


class TestNames:
    @pytest.mark.parametrize(
        ("file_type", "expected"), [(3, "Q4_1"), (15, "Q4_K_M"), (32, "BF16"), (38, "MXFP4"), (9999, "F32")]
    )
    def test_quantization(self, file_type: int, expected: str, tmp_path: Path) -> None:
        raw = sound_model()
        raw.metadata["general.file_type"] = file_type
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).quantization == expected

    def test_quantization_is_that_of_most_bytes(self, tmp_path: Path) -> None:
        raw = sound_model(tensors=[RawTensor("output.weight", (64, 64), Q4_0, data_bytes=64 * 36)])
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).quantization == "Q4_0"

    @pytest.mark.parametrize(
        ("architecture", "keys", "expected"),
        [
            ("llama", {}, "generate"),
            ("qwen3", {"pooling_type": 0}, "generate"),
            ("qwen3", {"pooling_type": 3}, "embed"),
            ("qwen2", {"pooling_type": 0, "attention.causal": False}, "embed"),
            ("llada", {"attention.causal": False}, "generate"),
            ("bert", {}, "embed"),
            ("t5encoder", {}, "embed"),
        ],
    )
    def test_kind(self, architecture: str, keys: dict[str, Value], expected: str, tmp_path: Path) -> None:
        assert inspect_gguf(sound_model(architecture, keys).write(tmp_path / "model.gguf")).kind == expected

    def test_model_without_a_vocabulary(self, tmp_path: Path) -> None:
        raw = sound_model(keys={"vocab_size": 4})
        raw.metadata["tokenizer.ggml.model"] = "none"
        del raw.metadata["tokenizer.ggml.tokens"]
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).vocabulary == 4

    def test_experts(self, tmp_path: Path) -> None:
        keys: dict[str, Value] = {"expert_count": 8, "expert_used_count": 2, "feed_forward_length": [16, 32]}
        raw = sound_model("qwen3moe", keys, layers=2)
        assert inspect_gguf(raw.write(tmp_path / "model.gguf")).feed_forward_length == 32

    def test_dense_hunyuan_says_it_has_one_expert(self, tmp_path: Path) -> None:
        assert inspected(tmp_path, "hunyuan-dense", {"expert_count": 1, "expert_used_count": 1})[0].kv_heads == 2
