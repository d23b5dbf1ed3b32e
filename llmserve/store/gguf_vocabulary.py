"""Checks of the tokenizer tables of a GGUF file, before llama.cpp indexes with them.

llama.cpp 0.5.0 ends the process when two tokens have the same text (`src/llama-vocab.cpp`), and earlier releases
trusted byte tokens and special ids. Ids other than begin, end and unknown may be out of range: published files have
such padding ids, and llama.cpp ignores them.
"""

from __future__ import annotations

import re
import struct

from llmserve.store.gguf_bytes import HeaderBytes, quoted, refuse
from llmserve.store.gguf_header import GgufArray, GgufHeader
from llmserve.store.gguf_types import ValueType

TOKENS_LIMIT = 2**19
TOKENS_LIMIT_BYTES = 8 * 1024 * 1024

_TOKENS_KEY = "tokenizer.ggml.tokens"
_TYPES_KEY = "tokenizer.ggml.token_type"
_SCORES_KEY = "tokenizer.ggml.scores"
_ID_KEYS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id")
_WITHOUT_TOKENS = ("none", "no_vocab")
_BYTE_TYPE = 6
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
    source.position = tokens.offset
    texts = source.strings(tokens.count, _TOKENS_KEY, keep=True)
    byte_ids = []
    if types is not None:
        source.position = types.offset
        numbers = struct.unpack(f"<{types.count}i", source.take(types.size_bytes, _TYPES_KEY))
        byte_ids = [index for index, number in enumerate(numbers) if number == _BYTE_TYPE]
    _check_byte_tokens(texts, byte_ids)
    _check_distinct(texts)


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


def _check_byte_tokens(texts: list[bytes], byte_ids: list[int]) -> None:
    for index in byte_ids:
        if not _BYTE_TOKEN.fullmatch(texts[index]):
            refuse(f"token {index} is a byte token of text {quoted(texts[index])}, not <0x00> to <0xFF>")
    for index, text in enumerate(texts):
        if text.startswith(b"<0x") and _BYTE_LOOK.fullmatch(text) and not _BYTE_TOKEN.fullmatch(text):
            refuse(f"token {index} looks like a byte token but is {quoted(text)}")


def _check_distinct(texts: list[bytes]) -> None:
    # Empty tokens get a name of their own in llama.cpp.
    named = len(texts) - texts.count(b"")
    distinct = set(texts)
    distinct.discard(b"")
    if len(distinct) == named:
        return
    distinct.clear()
    for index, text in enumerate(texts):
        if text in distinct:
            refuse(f"token {index} has the text {quoted(text)}, as an earlier token has")
        if text:
            distinct.add(text)
