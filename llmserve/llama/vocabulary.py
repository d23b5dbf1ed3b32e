"""The tokens of a loaded model: text to token ids and back, as llama.cpp does it."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from functools import cached_property, partial
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


class Vocabulary:
    """The model's tokens. Reading it is safe from any thread."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self.ends = tuple(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, token))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]:
        """Token ids of `text`. `special`: control tokens in it are recognised. `whole`: what the model's texts begin
        and end with is added, as far as the file says so."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, whole, special)
        if count < 0:
            room = -count
            tokens = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, whole, special)
        return tokens[:count]

    def detokenize(self, tokens: Collection[int]) -> str:
        """The text of token ids inside the vocabulary, control tokens spelt out."""
        count = len(tokens)
        ids = (ctypes.c_int32 * count)(*tokens)
        room = 8 * count + 64
        text = ctypes.create_string_buffer(room)
        length = llama_cpp.llama_detokenize(self._vocab, ids, count, text, room, False, True)
        if length < 0:
            room = -length
            text = ctypes.create_string_buffer(room)
            length = llama_cpp.llama_detokenize(self._vocab, ids, count, text, room, False, True)
        return text.raw[:length].decode(errors="replace")

    def piece(self, token: int) -> bytes:
        """The bytes `token` stands for in text: nothing for control tokens, perhaps part of a character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def spelling(self, token: int) -> bytes:
        """The bytes of `token`, a control token written out."""
        return self.piece(token) or self._read_piece(token, special=True)

    def entry(self, token: int) -> str:
        """How the vocabulary itself writes `token`, for instance with `Ġ` or `▁` for a space."""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    def control_texts(self) -> tuple[str, ...]:
        """How the control tokens are written, longest first."""
        control = self._with_attributes(llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN)
        texts = {self._read_piece(token, special=True).decode(errors="replace") for token in control}
        return tuple(sorted((text for text in texts if text), key=len, reverse=True))

    def text(self, token: int) -> str:
        """How a special token is written ("" if `token` is negative, which means the model has none)."""
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    @property
    def bos(self) -> int:
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        return int(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def fill_in_the_middle(self) -> tuple[int, int, int] | None:
        """The tokens before the text in front of a gap, the text behind it and the gap's own text, if it has them."""
        prefix = int(llama_cpp.llama_vocab_fim_pre(self._vocab))
        suffix = int(llama_cpp.llama_vocab_fim_suf(self._vocab))
        middle = int(llama_cpp.llama_vocab_fim_mid(self._vocab))
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    def spellings(self) -> list[bytes]:
        """How every token is written, by id: control tokens too. Takes up to half a second."""
        return [self._read_piece(token, special=True) for token in range(self.size)]

    def special(self) -> list[int]:
        """The tokens that are not text: control tokens, and the user-defined ones that look like those."""
        control = self._with_attributes(llama_cpp.LLAMA_TOKEN_ATTR_CONTROL)
        defined = [
            token
            for token in self._with_attributes(llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED)
            if (written := self._read_piece(token, special=True)).startswith(b"<") and written.endswith(b">")
        ]
        return sorted({*control, *defined})

    def _with_attributes(self, some: int) -> list[int]:
        """The tokens that have one of these attributes."""
        return [int(token) for token in np.flatnonzero(self._attributes & some)]

    @cached_property
    def _attributes(self) -> npt.NDArray[np.int32]:
        """int32 [size], llama.cpp's attributes of each token: read once, which takes a while for a large vocabulary."""
        read = partial(llama_cpp.llama_vocab_get_attr, self._vocab)
        return np.fromiter(map(read, range(self.size)), dtype=np.int32, count=self.size)

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer, for the grammar library's reader of vocabularies."""
        return self._vocab

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(0, length)]
