"""A llama model of a few hundred kilobytes that llama.cpp really loads: random weights, a small real vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

BEGIN = "<|im_start|>"
END = "<|im_end|>"
CONTROL_TOKENS = ("<|endoftext|>", BEGIN, END)
# Merged in this order, so that ordinary text takes fewer tokens than bytes. "Ġ" stands for a space.
MERGES = (
    "h e",
    "t he",
    "Ġ the",
    "i n",
    "e r",
    "o n",
    "l l",
    "he ll",
    "hell o",
    "Ġ w",
    "o r",
    "Ġw or",
    "l d",
    "Ġwor ld",
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

EMBEDDING_LENGTH = 64
HEADS = 4
KV_HEADS = 2
FEED_FORWARD_LENGTH = 128


def vocabulary() -> list[str]:
    """The tokens by id: 256 bytes in GPT-2's spelling, one token per merge, then the control tokens."""
    return [*_byte_spellings(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL_TOKENS]


def write_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    context: int = 512,
    chat_template: str | None = CHATML,
    name: str = "Tiny",
    pooling: gguf.PoolingType | None = None,
    temperature: float | None = None,
    experts: int = 0,
) -> Path:
    """Write the model to `path` and return it. The same arguments write the same bytes.

    With `pooling` it is an embedding model, whose texts are seen from left to right. `temperature` is what the file
    recommends. With `experts` every layer has so many, of which a token uses two.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context)
    writer.add_embedding_length(EMBEDDING_LENGTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD_LENGTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(EMBEDDING_LENGTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if temperature is not None:
        writer.add_sampling_temp(temperature)
    add_vocabulary(writer, chat_template)
    _add_tensors(writer, np.random.default_rng(seed), layers, experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer: gguf.GGUFWriter, chat_template: str | None) -> None:
    tokens = vocabulary()
    ordinary = len(tokens) - len(CONTROL_TOKENS)
    types = [gguf.TokenType.NORMAL] * ordinary + [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_unk_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _add_tensors(writer: gguf.GGUFWriter, random: np.random.Generator, layers: int, experts: int) -> None:
    key_value_length = EMBEDDING_LENGTH // HEADS * KV_HEADS

    def add_matrix(name: str, columns: int, rows: int) -> None:
        values = random.standard_normal((rows, columns)) / math.sqrt(columns)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def add_matrices(name: str, columns: int, rows: int) -> None:
        values = random.standard_normal((experts, rows, columns)) / math.sqrt(columns)
        writer.add_tensor(f"{name}_exps.weight", values.astype(np.float16))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING_LENGTH, dtype=np.float32))

    add_matrix("token_embd", EMBEDDING_LENGTH, len(vocabulary()))
    for layer in range(layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm")
        add_matrix(f"{block}.attn_q", EMBEDDING_LENGTH, EMBEDDING_LENGTH)
        add_matrix(f"{block}.attn_k", EMBEDDING_LENGTH, key_value_length)
        add_matrix(f"{block}.attn_v", EMBEDDING_LENGTH, key_value_length)
        add_matrix(f"{block}.attn_output", EMBEDDING_LENGTH, EMBEDDING_LENGTH)
        add_norm(f"{block}.ffn_norm")
        add = add_matrices if experts else add_matrix
        add(f"{block}.ffn_gate", EMBEDDING_LENGTH, FEED_FORWARD_LENGTH)
        add(f"{block}.ffn_up", EMBEDDING_LENGTH, FEED_FORWARD_LENGTH)
        add(f"{block}.ffn_down", FEED_FORWARD_LENGTH, EMBEDDING_LENGTH)
        if experts:
            router = random.standard_normal((experts, EMBEDDING_LENGTH)).astype(np.float32)
            writer.add_tensor(f"{block}.ffn_gate_inp.weight", router)
    add_norm("output_norm")
    add_matrix("output", EMBEDDING_LENGTH, len(vocabulary()))


def _byte_spellings() -> list[str]:
    """How GPT-2's tokenizer writes each byte: printable Latin-1 as itself, the others as U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


def write_tiny_adapter(path: Path, *, seed: int = 1, rank: int = 4) -> Path:
    """A LoRA of some of the tiny model's weights that changes what it writes; returns `path`."""
    shapes = {
        "blk.0.attn_output": (EMBEDDING_LENGTH, EMBEDDING_LENGTH),
        "blk.0.ffn_down": (FEED_FORWARD_LENGTH, EMBEDDING_LENGTH),
    }
    return write_adapter(path, shapes, seed=seed, rank=rank)


def write_adapter(
    path: Path, shapes: Mapping[str, tuple[int, int]], *, seed: int = 1, rank: int = 4, size: float = 1.0
) -> Path:
    """A LoRA of random values for the weights of these names, each with its columns and rows; returns `path`.

    `size` is the standard deviation of the values.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, (columns, rows) in shapes.items():
        for part, shape in (("lora_a", (rank, columns)), ("lora_b", (rows, rank))):
            weights = (size * random.standard_normal(shape)).astype(np.float32)
            writer.add_tensor(f"{name}.weight.{part}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
