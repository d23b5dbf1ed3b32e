"""A BERT encoder three times: its weights, the GGUF file made of them, and the same computation in numpy.

The weights have the names of the original `BertModel`, so that a published model and one of random numbers take the
same way. Everything here is written from the model's description (Devlin et al., 2018) and GGUF's names for it.
"""

from __future__ import annotations

import json
import math
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("hello", "world", "the", "cat", "dog", "sat", "on", "mat", "and", "is", "in", "red", "blue", "sky", "sun")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?[]<>|_-"
_NORM_EPSILON = 1e-12


@dataclass(frozen=True)
class Bert:
    """Weights by their original names, float32, and the vocabulary as `vocab.txt` spells it ("##" continues a word)."""

    weights: Mapping[str, Array]
    vocabulary: Sequence[str]
    heads: int

    @property
    def layers(self) -> int:
        return len({name.split(".")[2] for name in self.weights if name.startswith("encoder.layer.")})

    @property
    def width(self) -> int:
        return int(self.weights["embeddings.word_embeddings.weight"].shape[1])

    @property
    def context(self) -> int:
        return int(self.weights["embeddings.position_embeddings.weight"].shape[0])


def random_bert(*, seed: int = 0, layers: int = 2, width: int = 64, heads: int = 4, context: int = 128) -> Bert:
    """A small model of random weights. The same arguments give the same model."""
    random = np.random.default_rng(seed)
    vocabulary = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    weights: dict[str, Array] = {}

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        weights[name] = (random.standard_normal(shape) * scale).astype(np.float32)

    def add_linear(name: str, rows: int, columns: int) -> None:
        add(f"{name}.weight", rows, columns, scale=1 / math.sqrt(columns))
        add(f"{name}.bias", rows, scale=0.1)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", width, scale=0.1)
        weights[f"{name}.weight"] += 1
        add(f"{name}.bias", width, scale=0.1)

    add("embeddings.word_embeddings.weight", len(vocabulary), width)
    add("embeddings.position_embeddings.weight", context, width)
    add("embeddings.token_type_embeddings.weight", 2, width)
    add_norm("embeddings.LayerNorm")
    for layer in range(layers):
        block = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            add_linear(f"{block}.attention.self.{part}", width, width)
        add_linear(f"{block}.attention.output.dense", width, width)
        add_norm(f"{block}.attention.output.LayerNorm")
        add_linear(f"{block}.intermediate.dense", 2 * width, width)
        add_linear(f"{block}.output.dense", width, 2 * width)
        add_norm(f"{block}.output.LayerNorm")
    add_linear("classifier.dense", width, width)
    add_linear("classifier.out_proj", 1, width)
    return Bert(weights, vocabulary, heads)


def read_bert(folder: Path | zipfile.Path) -> Bert:
    """The model in a folder as it is published: `config.json`, `vocab.txt` and `model.safetensors` (F32)."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights: dict[str, Array] = {}
    for name, tensor in json.loads(data[8:start]).items():
        if tensor.get("dtype") == "F32":
            begin, end = (start + offset for offset in tensor["data_offsets"])
            weights[name] = np.frombuffer(data[begin:end], dtype="<f4").reshape(tensor["shape"])
    return Bert(weights, vocabulary, config["num_attention_heads"])


# --- as a file -------------------------------------------------------------------------------------------------------


def write_bert(
    path: Path,
    model: Bert,
    *,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    labels: Sequence[str] = (),
) -> Path:
    """Write `model` as GGUF: matrices in F16, the rest in F32.

    The classifier goes along where `pooling` is RANK; `labels` name its outputs, if there are several.
    """
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("Tiny BERT")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.weights["encoder.layer.0.intermediate.dense.bias"].shape[0])
    writer.add_head_count(model.heads)
    writer.add_layer_norm_eps(_NORM_EPSILON)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if labels:
        writer.add_classifier_output_labels(list(labels))
    _add_vocabulary(writer, model.vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, model.layers)
    for original, values in model.weights.items():
        name = names.get_name(original, try_suffixes=(".weight", ".bias"))
        if name is None or name.startswith("pooler") or (name.startswith("cls") and pooling != gguf.PoolingType.RANK):
            continue
        small = values.ndim < 2 or original.startswith(("embeddings.position", "embeddings.token_type"))
        writer.add_tensor(name, values if small else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Sequence[str]) -> None:
    ids = {token: number for number, token in enumerate(vocabulary)}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spelling(token) for token in vocabulary])
    control = {ids[token] for token in SPECIAL_TOKENS}
    kinds = [gguf.TokenType.CONTROL if number in control else gguf.TokenType.NORMAL for number in range(len(ids))]
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_mask_token_id(ids["[MASK]"])


def _spelling(token: str) -> str:
    """A token as GGUF spells it: the start of a word is marked instead of its continuation."""
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token
    return token.removeprefix("##") if token.startswith("##") and len(token) > 2 else f"▁{token}"


# --- in numpy --------------------------------------------------------------------------------------------------------


def tokens_of(model: Bert, text: str) -> list[int]:
    """WordPiece, uncased: accents off, punctuation apart, then the longest known piece each time; [CLS] and [SEP]."""
    ids = {token: number for number, token in enumerate(model.vocabulary)}
    result = [ids["[CLS]"]]
    for word in _words(text):
        result += _pieces(word, ids)
    return [*result, ids["[SEP]"]]


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if _stands_alone(c) else c for c in plain)
    return spaced.split()


def _stands_alone(character: str) -> bool:
    ascii_symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    chinese = 0x4E00 <= ord(character) <= 0x9FFF
    return ascii_symbol or chinese or unicodedata.category(character).startswith("P")


def _pieces(word: str, ids: Mapping[str, int]) -> list[int]:
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in ids), None)
        if end is None:
            return [ids["[UNK]"]]
        pieces.append(ids[prefix + word[start:end]])
        start = end
    return pieces


def hidden_states(model: Bert, tokens: Sequence[int]) -> Array:
    """The last layer's output, float32 [tokens, width]."""
    weights = model.weights
    states = weights["embeddings.word_embeddings.weight"][list(tokens)]
    states = states + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    states = states + weights["embeddings.token_type_embeddings.weight"][0]
    states = _norm(states, weights, "embeddings.LayerNorm")
    for layer in range(model.layers):
        block = f"encoder.layer.{layer}"
        attended = _linear(_attention(states, model, block), weights, f"{block}.attention.output.dense")
        states = _norm(states + attended, weights, f"{block}.attention.output.LayerNorm")
        wide = _gelu(_linear(states, weights, f"{block}.intermediate.dense"))
        states = _norm(states + _linear(wide, weights, f"{block}.output.dense"), weights, f"{block}.output.LayerNorm")
    return states


def embed(model: Bert, text: str) -> Array:
    """The mean over the tokens, of length 1."""
    mean = hidden_states(model, tokens_of(model, text)).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def rank(model: Bert, tokens: Sequence[int]) -> float:
    """The classifier's logit on the first token's state."""
    first = hidden_states(model, tokens)[:1]
    inner = np.tanh(_linear(first, model.weights, "classifier.dense"))
    return float(_linear(inner, model.weights, "classifier.out_proj")[0, 0])


def _attention(states: Array, model: Bert, block: str) -> Array:
    def heads(part: str) -> Array:
        values = _linear(states, model.weights, f"{block}.attention.self.{part}")
        return values.reshape(len(states), model.heads, -1).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
    return np.asarray(mixed.transpose(1, 0, 2).reshape(states.shape))


def _linear(values: Array, weights: Mapping[str, Array], name: str) -> Array:
    return np.asarray(values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])


def _norm(values: Array, weights: Mapping[str, Array], name: str) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _gelu(values: Array) -> Array:
    error = np.vectorize(math.erf, otypes=[np.float32])
    return np.asarray(values * 0.5 * (1 + error(values / math.sqrt(2))))
