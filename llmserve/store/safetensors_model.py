"""From `config.json` and the list of tensors to a `ModelInfo`. Keys are those of transformers' configurations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from llmserve.errors import InvalidModel
from llmserve.store.gguf_bytes import quoted
from llmserve.store.gguf_parameters import CONTEXT_LIMIT, HEAD_LENGTH_LIMIT, HEADS_LIMIT, LAYERS_LIMIT, WIDTH_LIMIT
from llmserve.store.safetensors_header import SafeTensor
from llmserve.types import LayerInfo, ModelInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|h)\.(\d{1,4})\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|word_embeddings|tok_embeddings|wte|embeddings)\.")
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Entries of `layer_types` that keep keys and values; the others have a state of fixed size.
_FULL_ATTENTION = frozenset({"full_attention", "attention", "global_attention"})
_SLIDING_ATTENTION = frozenset({"sliding_attention", "chunked_attention", "local_attention"})


def describe(config: Any, tensors: tuple[SafeTensor, ...], size_bytes: int, chat_template: str | None) -> ModelInfo:
    """What the planner and the user want to know of the model. Raises `InvalidModel` if the config makes no sense."""
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not _NAME.fullmatch(architecture):
        raise InvalidModel(f"invalid safetensors model: its model_type is {quoted(str(architecture))}")
    text = _Config(config)
    layer_count = text.integer(("num_hidden_layers", "n_layer", "n_layers"), 1, LAYERS_LIMIT)
    width = text.integer(("hidden_size", "n_embd", "d_model"), 1, WIDTH_LIMIT)
    heads = text.integer(("num_attention_heads", "n_head"), 1, HEADS_LIMIT)
    weights, input_bytes, output_bytes = _tensor_bytes(tensors, layer_count)
    kv_heads, key_length, value_length = _cache_shape(text, width, heads)
    layers = tuple(
        LayerInfo(
            weight_bytes=weights[index],
            kv_heads=kv_heads if attends else 0,
            key_length=key_length,
            value_length=value_length,
            sliding_window=window,
        )
        for index, (attends, window) in enumerate(_attention(text, layer_count))
    )
    types = Counter(tensor.dtype for tensor in tensors)
    return ModelInfo(
        format="safetensors",
        architecture=architecture,
        kind=_kind(config),
        name=None,
        parameters=sum(tensor.elements for tensor in tensors),
        quantization=_quantization(config, tensors),
        size_bytes=size_bytes,
        context_length=text.integer(
            ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"), 1, CONTEXT_LIMIT
        ),
        embedding_length=width,
        feed_forward_length=text.integer(
            ("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"), 0, WIDTH_LIMIT, 0
        ),
        heads=heads,
        vocabulary=text.integer(("vocab_size",), 1, WIDTH_LIMIT),
        layers=layers,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        chat_template=chat_template,
        license=None,
        tensor_types=tuple(types.most_common()),
    )


class _Config:
    """Typed, bounded access to a configuration; of a model with several parts, to that of its language model."""

    def __init__(self, config: dict[str, Any]) -> None:
        text = config.get("text_config")
        self._config = {**config, **text} if isinstance(text, dict) else config

    def get(self, key: str) -> Any:
        return self._config.get(key)

    def integer(self, keys: Sequence[str], low: int, high: int, default: int | None = None) -> int:
        """The integer under the first of `keys` that is there; without `default` one has to be."""
        for key in keys:
            if (value := self._config.get(key)) is not None:
                if type(value) is not int or not low <= value <= high:
                    raise InvalidModel(f"invalid safetensors model: {key} is no integer from {low} to {high}")
                return value
        if default is None:
            raise InvalidModel(f"invalid safetensors model: config.json does not say its {keys[0]}")
        return default


def _kind(config: dict[str, Any]) -> Literal["generate", "embed"]:
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return "generate" if any(isinstance(name, str) and name.endswith(_GENERATES) for name in names) else "embed"


def _cache_shape(text: _Config, width: int, heads: int) -> tuple[int, int, int]:
    """Key-value heads, and the elements of a key and of a value."""
    if rank := text.integer(("kv_lora_rank",), 0, WIDTH_LIMIT, 0):
        # Multi-head latent attention caches one compressed vector from which it computes both.
        return 1, rank + text.integer(("qk_rope_head_dim",), 0, HEAD_LENGTH_LIMIT, 0), 0
    length = text.integer(("head_dim",), 1, HEAD_LENGTH_LIMIT, max(width // heads, 1))
    return text.integer(("num_key_value_heads",), 1, HEADS_LIMIT, heads), length, length


def _attention(text: _Config, layers: int) -> list[tuple[bool, int | None]]:
    """Of each layer, whether it keeps keys and values, and of how many tokens (None: of all)."""
    window = text.integer(("sliding_window",), 0, CONTEXT_LIMIT, 0) or None
    types = text.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers or not all(isinstance(kind, str) for kind in types):
            raise InvalidModel("invalid safetensors model: layer_types does not name a type for each layer")
        return [
            (kind in _FULL_ATTENTION or kind in _SLIDING_ATTENTION, window if kind in _SLIDING_ATTENTION else None)
            for kind in types
        ]
    if text.get("use_sliding_window") is False:
        window = None
    period = text.integer(("sliding_window_pattern",), 0, LAYERS_LIMIT, 0)
    return [(True, None if period and (layer + 1) % period == 0 else window) for layer in range(layers)]


def _tensor_bytes(tensors: tuple[SafeTensor, ...], layer_count: int) -> tuple[list[int], int, int]:
    """Bytes of each layer, of the token embeddings, and of everything else, which is computed with the output."""
    layers = [0] * layer_count
    input_bytes = output_bytes = 0
    for tensor in tensors:
        match = _LAYER.search(tensor.name)
        if match and int(match[1]) < layer_count:
            layers[int(match[1])] += tensor.size_bytes
        elif _EMBEDDINGS.search(tensor.name):
            input_bytes += tensor.size_bytes
        else:
            output_bytes += tensor.size_bytes
    return layers, input_bytes, output_bytes


def _quantization(config: dict[str, Any], tensors: tuple[SafeTensor, ...]) -> str:
    """The method the configuration names, or else the type that holds most of the bytes."""
    stated = config.get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if isinstance(method, str) and _NAME.fullmatch(method):
        return method.upper()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size_bytes
    return sizes.most_common(1)[0][0]
