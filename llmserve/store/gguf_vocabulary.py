"""Checks of the tokenizer tables of a GGUF file, before llama.cpp indexes with them.

llama.cpp 0.5.0 ends the process when two tokens have the same text (`src/llama-vocab.cpp`), and earlier releases
trusted byte tokens and special ids. Ids other than begin, end and unknown may be out of range: published files have
such padding ids, and llama.cpp ignores them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from llmserve.store.gguf_bytes import HeaderBytes, quoted, refuse
from llmserve.store.gguf_header import GgufArray, GgufHeader
from llmserve.store.gguf_types import ValueType

# Half as many again as the largest published vocabularies have.
TOKENS_LIMIT = 393_216
TOKENS_LIMIT_BYTES = 8 * 1024 * 1024

_TOKENS_KEY = "tokenizer.ggml.tokens"
_TYPES_KEY = "tokenizer.ggml.token_type"
_SCORES_KEY = "tokenizer.ggml.scores"
_ID_KEYS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id")
_WITHOUT_TOKENS = ("none", "no_vocab")
_CHUNK_TOKENS = 32_768
_BYTE_TYPE = 6
_BYTE_VALUES = 256
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
# Short enough to be taken for a byte token by a loader that looks at the ends only.
_BYTE_LOOK = re.compile(rb"<0x.{0,4}>", re.DOTALL)


def vocabulary_size(header: GgufHeader) -> int | None:
    """The number of tokens the file lists, or None if it lists none."""
    tokens = header.metadata.get(_TOKENS_KEY)
    return tokens.count if isinstance(tokens, GgufArray) else None


def check_vocabulary(header: GgufHeader, source: HeaderBytes) -> None:
    """Raise `InvalidModel` if the token tables contradict themselves. Moves the position of `source`."""
    model = header.text("tokenizer.ggml.model")
    if model is None:
        refuse("it has no tokenizer.ggml.model")
    if model in _WITHOUT_TOKENS:
        return
    tokens = header.metadata.get(_TOKENS_KEY)
    if not isinstance(tokens, GgufArray) or tokens.item_type is not ValueType.STRING:
        refuse(f"{_TOKENS_KEY} is missing or not an array of strings")
    if not 0 < tokens.count <= TOKENS_LIMIT:
        refuse(f"it has {tokens.count} tokens, outside 1 to {TOKENS_LIMIT}")
    if tokens.size_bytes - 8 * tokens.count > TOKENS_LIMIT_BYTES:
        refuse(f"its tokens have {tokens.size_bytes - 8 * tokens.count} bytes, over {TOKENS_LIMIT_BYTES}")
    _check_ids(header, tokens.count)
    _table(header, _SCORES_KEY, (ValueType.FLOAT32, ValueType.INT32), tokens.count)
    types = _table(header, _TYPES_KEY, (ValueType.INT32,), tokens.count)
    byte_ids = _byte_ids(types, source) if types else []
    # Hashes of the tokens, not the tokens, to bound the memory. Empty tokens (hash 0) may repeat: llama.cpp gives them
    # names of their own.
    seen: set[int] = set()
    named = 0
    for first, texts in _chunks(tokens, source):
        _check_byte_tokens(first, texts, byte_ids)
        seen.update(filter(None, map(hash, texts)))
        named += len(texts) - texts.count(b"")
    if len(seen) != named:
        _refuse_repeated(tokens, source)


def _chunks(tokens: GgufArray, source: HeaderBytes) -> Iterator[tuple[int, list[bytes]]]:
    """The tokens a few at a time, each time with the id of the first: all at once they would take too much memory."""
    position = tokens.offset
    for first in range(0, tokens.count, _CHUNK_TOKENS):
        source.position = position
        texts = source.strings(min(_CHUNK_TOKENS, tokens.count - first), _TOKENS_KEY, keep=True)
        position = source.position
        yield first, texts


def _byte_ids(types: GgufArray, source: HeaderBytes) -> list[int]:
    source.position = types.offset
    numbers = struct.unpack(f"<{types.count}i", source.take(types.size_bytes, _TYPES_KEY))
    if numbers.count(_BYTE_TYPE) > _BYTE_VALUES:
        refuse(f"{_TYPES_KEY} has {numbers.count(_BYTE_TYPE)} byte tokens, over {_BYTE_VALUES}")
    return [index for index, number in enumerate(numbers) if number == _BYTE_TYPE]


def _table(header: GgufHeader, key: str, kinds: tuple[ValueType, ...], count: int) -> GgufArray | None:
    value = header.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, GgufArray) or value.item_type not in kinds:
        refuse(f"{key} is not an array of {' or '.join(kind.name for kind in kinds)}")
    if value.count != count:
        refuse(f"{key} has {value.count} items for {count} tokens")
    return value


def _check_ids(header: GgufHeader, count: int) -> None:
    for key in _ID_KEYS:
        value = header.metadata.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            shown = value if isinstance(value, int | float) else type(value).__name__
            refuse(f"{key} is {shown}, not the id of one of {count} tokens")


def _check_byte_tokens(first: int, texts: list[bytes], byte_ids: list[int]) -> None:
    marked = [texts[index - first] for index in byte_ids if first <= index < first + len(texts)]
    for text in (*marked, *filter(_BYTE_LOOK.fullmatch, texts)):
        if not _BYTE_TOKEN.fullmatch(text):
            refuse(f"{quoted(text)} is no byte token; those are <0x00> to <0xFF>")


def _refuse_repeated(tokens: GgufArray, source: HeaderBytes) -> None:
    seen: set[int] = set()
    for first, texts in _chunks(tokens, source):
        for index, text in enumerate(texts, first):
            if text and hash(text) in seen:
                refuse(f"token {index} has the text {quoted(text)}, as an earlier token has")
            seen.add(hash(text))
