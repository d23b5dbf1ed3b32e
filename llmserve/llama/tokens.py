"""`/tokenize` and `/detokenize` for a loaded model of either kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from llmserve.errors import ContextLengthExceeded, InvalidRequest
from llmserve.openai.chat_input import ChatInput
from llmserve.openai.tokens import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
    detokenize_answer,
    tokenize_answer,
)

# No vocabulary has longer tokens than a few hundred bytes, so that a text above this many characters per token of
# context is refused before it is taken apart.
_MOST_CHARACTERS_PER_TOKEN = 512


class Vocabulary(Protocol):
    """What this needs of a model's tokens; safe to use from any thread."""

    size: int

    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]: ...
    def detokenize(self, tokens: Collection[int]) -> str: ...
    def entry(self, token: int) -> str: ...


class TokenService:
    """`chat_tokens` gives the tokens of a chat's prompt. Both methods block for as long as the text is long."""

    def __init__(self, vocabulary: Vocabulary, context: int, chat_tokens: Callable[[ChatInput], list[int]]) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._chat_tokens = chat_tokens

    def tokenize(self, request: TokenizeRequest | TokenizeChatRequest) -> dict[str, Any]:
        """The ids of the request's text or prompt, however many: more than the context holds are no error here.

        Raises what `chat_tokens` does.
        """
        if isinstance(request, TokenizeChatRequest):
            tokens = self._chat_tokens(request)
        else:
            tokens = self._vocabulary.tokenize(request.prompt, special=False, whole=request.add_special_tokens)
        entries = [self._vocabulary.entry(token) for token in tokens] if request.return_token_strs else None
        return tokenize_answer(tokens, self._context, entries)

    def detokenize(self, request: DetokenizeRequest) -> dict[str, Any]:
        """The text of the request's ids. Raises `InvalidRequest` for one outside the vocabulary."""
        check_tokens(request.tokens, self._vocabulary.size, "tokens")
        return detokenize_answer(self._vocabulary.detokenize(request.tokens))


def check_tokens(tokens: Iterable[int], vocabulary_size: int, param: str) -> None:
    """Raises `InvalidRequest` for an id outside the vocabulary, on which native code would end the process."""
    if any(not 0 <= token < vocabulary_size for token in tokens):
        raise InvalidRequest(f"a token id is outside the vocabulary of {vocabulary_size}", param=param)


def check_characters(text: str, context: int, param: str) -> None:
    """Raises `ContextLengthExceeded` for a text that is too long however its tokens turn out."""
    if len(text) > context * _MOST_CHARACTERS_PER_TOKEN:
        raise ContextLengthExceeded(
            f"this model's context is {context} tokens; {len(text)} characters cannot fit", param=param
        )
