"""From the header of a GGUF file to a `ModelInfo`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from llmserve.store.gguf_bytes import quoted, refuse
from llmserve.store.gguf_header import GgufHeader, GgufTensor
from llmserve.store.gguf_layers import cache_shapes, head_counts
from llmserve.store.gguf_parameters import CONTEXT_LIMIT, LAYERS_LIMIT, WIDTH_LIMIT, Hyperparameters
from llmserve.store.gguf_types import FILE_TYPES
from llmserve.store.gguf_vocabulary import vocabulary_size
from llmserve.types import LayerInfo, ModelInfo

_ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
# Files that belong to a model but are none; the architecture names some, `general.type` others.
_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "adapter": "an adapter (LoRA)",
        "clip": "the image or audio encoder of a model",
        "imatrix": "an importance matrix",
        "mmproj": "the image or audio encoder of a model",
        "vocab": "a vocabulary",
    }
)
_LAYER_TENSOR = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,9})\.")
# The experts of a layer, by the names of their tensors; shared experts ("shexp"), which every token uses, are none.
_EXPERT_TENSOR = re.compile(r"\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.")
# Tensors of llama.cpp's output layer (`LLM_TENSOR_LAYER_OUTPUT` in `src/llama-arch.cpp`), by how their names begin.
_OUTPUT_PREFIXES = ("output", "cls", "dense_2", "dense_3", "enc.output_norm", "dec.output_norm", "altup_", "hc_head")
_EMBEDDING_TENSOR = "token_embd.weight"


def describe(header: GgufHeader) -> ModelInfo:
    """What the planner and the user want to know of the model. Raises `InvalidModel` if the header makes no sense.

    Every tensor counts once: a file without an output matrix of its own has only a norm in `output_bytes`, and the
    planner adds the copy of the token embeddings that llama.cpp makes when the output layer is offloaded.
    """
    _refuse_parts(header)
    parameters = Hyperparameters(header)
    layer_count = parameters.integer("block_count", 1, LAYERS_LIMIT)
    embedding_length = parameters.integer("embedding_length", 1, WIDTH_LIMIT)
    parameters.check(layer_count)
    kind = _kind(parameters)
    _check_embeddings(header, parameters, embedding_length)
    layer_bytes, input_bytes, output_bytes = _tensor_bytes(header, layer_count)
    expert_bytes = _expert_bytes(header, layer_count)
    shapes = cache_shapes(parameters, layer_count, embedding_length)
    types = Counter(tensor.type.name for tensor in header.tensors)
    return ModelInfo(
        format="gguf",
        architecture=parameters.architecture,
        kind=kind,
        name=header.text("general.name"),
        parameters=sum(tensor.elements for tensor in header.tensors),
        quantization=_quantization(header),
        size_bytes=header.file_size_bytes,
        context_length=parameters.integer("context_length", 1, CONTEXT_LIMIT),
        embedding_length=embedding_length,
        feed_forward_length=max(
            parameters.per_layer("feed_forward_length", layer_count, WIDTH_LIMIT, [0] * layer_count)
        ),
        heads=max(head_counts(parameters, layer_count)),
        vocabulary=_vocabulary(header, parameters),
        layers=tuple(
            LayerInfo(
                weight_bytes=weight_bytes,
                kv_heads=shape.kv_heads,
                key_length=shape.key_length,
                value_length=shape.value_length,
                sliding_window=shape.sliding_window,
                state_bytes=shape.state_bytes,
                expert_bytes=experts,
            )
            for weight_bytes, experts, shape in zip(layer_bytes, expert_bytes, shapes, strict=True)
        ),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        chat_template=header.text("tokenizer.chat_template"),
        license=header.text("general.license"),
        tensor_types=tuple(types.most_common()),
    )


def with_adapter(model: ModelInfo, adapter: GgufHeader) -> ModelInfo:
    """`model` with the bytes of an adapter's tensors beside those of the tensors they belong to: there llama.cpp has
    them in memory, on whatever device that is. Raises `InvalidModel` for layers that the model does not have."""
    layer_bytes, input_bytes, output_bytes = _tensor_bytes(adapter, len(model.layers))
    expert_bytes = _expert_bytes(adapter, len(model.layers))
    layers = (
        replace(layer, weight_bytes=layer.weight_bytes + weights, expert_bytes=layer.expert_bytes + experts)
        for layer, weights, experts in zip(model.layers, layer_bytes, expert_bytes, strict=True)
    )
    return replace(
        model,
        layers=tuple(layers),
        input_bytes=model.input_bytes + input_bytes,
        output_bytes=model.output_bytes + output_bytes,
    )


def _refuse_parts(header: GgufHeader) -> None:
    for key in ("general.architecture", "general.type"):
        if part := _PARTS.get(header.text(key) or ""):
            refuse(f"it is {part}, not a model to be loaded by itself")
    if not header.tensors:
        refuse("it has no tensors")


def _kind(parameters: Hyperparameters) -> Literal["generate", "embed"]:
    """An encoder, or a decoder that names how to pool its output (0: not at all), gives embeddings."""
    pools = parameters.integer("pooling_type", 0, 16, 0) != 0
    causal = parameters.flag("attention.causal", default=True)
    if parameters.architecture in _ENCODERS or pools or (parameters.has("pooling_type") and not causal):
        return "embed"
    return "generate"


def _check_embeddings(header: GgufHeader, parameters: Hyperparameters, embedding_length: int) -> None:
    tensor = next((tensor for tensor in header.tensors if tensor.name == _EMBEDDING_TENSOR), None)
    if tensor is None:
        return
    width = parameters.integer("features_length", 1, WIDTH_LIMIT, embedding_length)
    rows = vocabulary_size(header)
    if tensor.shape[0] != width or (rows is not None and tensor.elements != width * rows):
        refuse(f"{_EMBEDDING_TENSOR} has the shape {tensor.shape} for {rows} tokens of {width} elements")


def _tensor_bytes(header: GgufHeader, layer_count: int) -> tuple[list[int], int, int]:
    """Bytes of each layer, of the input (all that is neither layer nor output: llama.cpp keeps it in RAM), and of the
    output."""
    layers = [0] * layer_count
    input_bytes = output_bytes = 0
    for tensor in header.tensors:
        if match := _LAYER_TENSOR.match(tensor.name):
            layers[_layer(tensor, int(match[1]), layer_count)] += tensor.size_bytes
        elif tensor.name.startswith(_OUTPUT_PREFIXES):
            output_bytes += tensor.size_bytes
        else:
            input_bytes += tensor.size_bytes
    return layers, input_bytes, output_bytes


def _expert_bytes(header: GgufHeader, layer_count: int) -> list[int]:
    """Bytes of the experts of each layer."""
    layers = [0] * layer_count
    for tensor in header.tensors:
        if (match := _LAYER_TENSOR.match(tensor.name)) and _EXPERT_TENSOR.search(tensor.name):
            layers[_layer(tensor, int(match[1]), layer_count)] += tensor.size_bytes
    return layers


def _layer(tensor: GgufTensor, index: int, layer_count: int) -> int:
    if index >= layer_count:
        refuse(f"the tensor {quoted(tensor.name)} belongs to none of the {layer_count} layers")
    return index


def _quantization(header: GgufHeader) -> str:
    """The file's own name for its quantization, or else the tensor type that holds most of its bytes."""
    file_type = header.metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type.name] += tensor.size_bytes
    return sizes.most_common(1)[0][0]


def _vocabulary(header: GgufHeader, parameters: Hyperparameters) -> int:
    listed = vocabulary_size(header)
    return parameters.integer("vocab_size", 0, WIDTH_LIMIT, 0) if listed is None else listed
