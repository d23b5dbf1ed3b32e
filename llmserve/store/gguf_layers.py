"""What each layer of a GGUF model keeps per token and per sequence, as llama.cpp 0.5.0 allocates it.

Sources in llama.cpp: `src/llama-hparams.cpp` (sizes of caches and recurrent states), `src/models/*.cpp` (which
layers slide or recur, and the defaults of keys that converters leave out) and `llama_model::create_memory`.

Sliding windows. `attention.sliding_window` alone proves nothing (several architectures carry it and llama.cpp ignores
it there), so a layer counts as sliding only if
  1. `attention.sliding_window_pattern` is an array: its flag for the layer is set; or else
  2. the architecture is in `_SLIDING` or the pattern is a number: of every `period` layers the last keeps everything
     (the first, where `dense_first`), the others slide. Period 0 means that all slide, 1 that none does.
Everything else is planned as full attention, which can only overestimate.

Recurrent layers. Their state is float32 and does not grow with the context. Which layers recur is given by
`attention.recurrent_layers`, or follows from a fixed interval of full attention, or from `head_count_kv` being 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmserve.store.gguf_bytes import refuse
from llmserve.store.gguf_parameters import (
    CONTEXT_LIMIT,
    HEAD_LENGTH_LIMIT,
    HEADS_LIMIT,
    WIDTH_LIMIT,
    Hyperparameters,
)

_STATE_ELEMENT_BYTES = 4


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one layer keeps; the fields mean what they mean in `LayerInfo`.

    `kv_heads` is 0 also where a layer has attention but no cache of its own: in encoders, in layers that read the
    cache of an earlier one, and in the extra layers that only predict further tokens ahead.
    """

    kv_heads: int
    key_length: int
    value_length: int
    sliding_window: int | None
    state_bytes: int


@dataclass(frozen=True, slots=True)
class _Sliding:
    period: int
    dense_first: bool = False
    window: int = 0  # where the file does not say


_SLIDING: Mapping[str, _Sliding] = MappingProxyType(
    {
        "afmoe": _Sliding(4),
        "cohere2": _Sliding(4),
        "cohere2moe": _Sliding(4, dense_first=True),
        "deepseek4": _Sliding(0),
        "exaone-moe": _Sliding(4),
        "exaone4": _Sliding(4),
        "gemma-embedding": _Sliding(6),
        "gemma2": _Sliding(2, window=4096),
        "gemma3": _Sliding(6),
        "gemma3n": _Sliding(5),
        "gpt-oss": _Sliding(2),
        "laguna": _Sliding(4, dense_first=True),
        "lfm2": _Sliding(0),
        "lfm2moe": _Sliding(0),
        "llama4": _Sliding(4, window=8192),
        "mellum": _Sliding(4),
        "modern-bert": _Sliding(3, dense_first=True),
        "muse-glimmer": _Sliding(4),
        "olmo2": _Sliding(4),
        "plamo3": _Sliding(8),
        "smallthinker": _Sliding(4, dense_first=True),
    }
)

_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_RECURRENT_WITHOUT_KV_HEADS = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
# Every n-th layer has full attention, the others recur.
_FULL_ATTENTION_INTERVAL: Mapping[str, int] = MappingProxyType(
    {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}
)
# Attention and a recurrent part in every layer.
_RECURRENT_BESIDE_ATTENTION = frozenset({"falcon-h1"})

# Encoders that llama.cpp runs without any cache.
_WITHOUT_CACHE = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)


def head_counts(parameters: Hyperparameters, layers: int) -> tuple[int, ...]:
    """Query heads of each layer; 0 everywhere only in recurrent architectures."""
    heads = parameters.per_layer("attention.head_count", layers, HEADS_LIMIT, [0] * layers)
    if not any(heads) and parameters.architecture not in _RECURRENT:
        refuse(f"{parameters.architecture}.attention.head_count is 0 or missing")
    return heads


def cache_shapes(parameters: Hyperparameters, layers: int, embedding_length: int) -> tuple[CacheShape, ...]:
    """The cache of each of a model's `layers` layers."""
    heads = head_counts(parameters, layers)
    kv_heads = parameters.per_layer("attention.head_count_kv", layers, HEADS_LIMIT, heads)
    _check_groups(heads, kv_heads)
    sliding = _sliding_layers(parameters, layers)
    window = _window(parameters)
    if parameters.architecture in _SLIDING and window is not None and not any(sliding):
        # llama.cpp asserts that a model with windows has a layer that uses them.
        refuse(f"it has a sliding window of {window} tokens, but no layer that slides")
    recurrent = _recurrent_layers(parameters, layers, kv_heads)
    cached = _cached_layers(parameters, layers)
    state_bytes = _state_bytes(parameters, embedding_length, heads) if any(recurrent) else 0
    full_lengths = _head_lengths(parameters, embedding_length // heads[0] if heads[0] else 0)
    sliding_lengths = _sliding_head_lengths(parameters, full_lengths)
    shapes = []
    for layer in range(layers):
        slides = sliding[layer] and window is not None
        key_length, value_length = sliding_lengths if slides else full_lengths
        attends = not recurrent[layer] or parameters.architecture in _RECURRENT_BESIDE_ATTENTION
        shapes.append(
            CacheShape(
                kv_heads=kv_heads[layer] if cached[layer] and attends else 0,
                key_length=key_length,
                value_length=value_length,
                sliding_window=window if slides else None,
                state_bytes=state_bytes if recurrent[layer] else 0,
            )
        )
    return tuple(shapes)


def _check_groups(heads: tuple[int, ...], kv_heads: tuple[int, ...]) -> None:
    # Attention multiplies each group of query heads with one key head; ggml asserts that they divide.
    for layer, (query, key) in enumerate(zip(heads, kv_heads, strict=True)):
        if query and key and query % key:
            refuse(f"layer {layer} has {query} heads, not a multiple of its {key} key-value heads")


def _head_lengths(parameters: Hyperparameters, default: int) -> tuple[int, int]:
    """Key and value length of a head in cache elements."""
    key = parameters.integer("attention.key_length", 0, HEAD_LENGTH_LIMIT, default)
    value = parameters.integer("attention.value_length", 0, HEAD_LENGTH_LIMIT, default)
    if key > HEAD_LENGTH_LIMIT or value > HEAD_LENGTH_LIMIT:
        refuse(f"its heads have {key} and {value} elements, over {HEAD_LENGTH_LIMIT}")
    # Multi-head latent attention caches one compressed vector from which it computes both.
    return key, 0 if parameters.integer("attention.key_length_mla", 0, HEAD_LENGTH_LIMIT, 0) else value


def _sliding_head_lengths(parameters: Hyperparameters, full: tuple[int, int]) -> tuple[int, int]:
    return (
        parameters.integer("attention.key_length_swa", 0, HEAD_LENGTH_LIMIT, full[0]),
        parameters.integer("attention.value_length_swa", 0, HEAD_LENGTH_LIMIT, full[1]),
    )


def _window(parameters: Hyperparameters) -> int | None:
    rule = _SLIDING.get(parameters.architecture)
    if parameters.architecture == "exaone4" and parameters.integer("block_count", 0, WIDTH_LIMIT, 0) != 64:
        # Only the 32B model has windows; the small one carries the key without using it.
        return None
    return parameters.integer("attention.sliding_window", 0, CONTEXT_LIMIT, rule.window if rule else 0) or None


def _sliding_layers(parameters: Hyperparameters, layers: int) -> tuple[bool, ...]:
    key = "attention.sliding_window_pattern"
    flags = parameters.flags(key, layers)
    if flags is not None:
        return flags
    rule = _SLIDING.get(parameters.architecture, _Sliding(1))
    period = parameters.integer(key, 0, WIDTH_LIMIT, rule.period)
    if period == 0:
        return (True,) * layers
    dense = 0 if rule.dense_first else period - 1
    return tuple(layer % period != dense for layer in range(layers))


def _recurrent_layers(parameters: Hyperparameters, layers: int, kv_heads: tuple[int, ...]) -> tuple[bool, ...]:
    architecture = parameters.architecture
    if architecture in _RECURRENT or architecture in _RECURRENT_BESIDE_ATTENTION:
        return (True,) * layers
    flags = parameters.flags("attention.recurrent_layers", layers)
    if flags is not None:
        return flags
    if architecture in _FULL_ATTENTION_INTERVAL:
        interval = parameters.integer("full_attention_interval", 1, layers, _FULL_ATTENTION_INTERVAL[architecture])
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if architecture.startswith("nemotron_h"):
        # Here a layer is either attention, or recurrent, or feed-forward.
        feed_forward = parameters.per_layer("feed_forward_length", layers, WIDTH_LIMIT, [0] * layers)
        return tuple(not kv and not width for kv, width in zip(kv_heads, feed_forward, strict=True))
    return tuple(architecture in _RECURRENT_WITHOUT_KV_HEADS and heads == 0 for heads in kv_heads)


def _cached_layers(parameters: Hyperparameters, layers: int) -> tuple[bool, ...]:
    if parameters.architecture in _WITHOUT_CACHE:
        return (False,) * layers
    ahead = parameters.integer("nextn_predict_layers", 0, layers, 0)
    last = layers - ahead
    if parameters.architecture == "gemma3n":
        last = min(last, 20)
    elif shared := parameters.integer("attention.shared_kv_layers", 0, layers, 0):
        # llama.cpp asserts that two layers are left to share: one of each kind of attention.
        if layers - shared < 2:
            refuse(f"{shared} of its {layers} layers share the cache of the others")
        last = min(last, layers - shared)
    return tuple(layer < last for layer in range(layers))


def _state_bytes(parameters: Hyperparameters, embedding_length: int, heads: tuple[int, ...]) -> int:
    """Bytes one recurrent layer keeps per sequence (`n_embd_r` and `n_embd_s` of llama.cpp)."""
    convolution = parameters.integer("ssm.conv_kernel", 0, WIDTH_LIMIT, 0)
    if head_size := parameters.integer("wkv.head_size", 0, WIDTH_LIMIT, 0):
        shifts = parameters.integer("token_shift_count", 0, WIDTH_LIMIT, 2)
        elements = embedding_length * (shifts + head_size)
    elif length := parameters.integer("shortconv.l_cache", 0, WIDTH_LIMIT, 0):
        elements = embedding_length * (length - 1)
    elif head_length := parameters.integer("kda.head_dim", 0, WIDTH_LIMIT, 0):
        width = heads[0] * head_length
        elements = 3 * (convolution - 1 if convolution else 3) * width + head_length * width
    elif parameters.architecture == "minimax-01":
        head_length, _ = _head_lengths(parameters, embedding_length // max(heads))
        elements = head_length * head_length * heads[0]
    else:
        inner = parameters.integer("ssm.inner_size", 0, WIDTH_LIMIT, 0)
        state = parameters.integer("ssm.state_size", 0, WIDTH_LIMIT, 0)
        groups = parameters.integer("ssm.group_count", 0, WIDTH_LIMIT, 0)
        elements = max(convolution - 1, 0) * (inner + 2 * groups * state) + state * inner
    return elements * _STATE_ELEMENT_BYTES
