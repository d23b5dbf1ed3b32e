"""One choice of a text completion while it is written: its prompt where that is shown too, its text, its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmserve.llama.generation import Delta
from llmserve.llama.logprobs import first_of_prompt
from llmserve.llama.output.events import Content, OutputEvent
from llmserve.openai.logprobs import TokenLogprob
from llmserve.openai.responses import Choice, FinishReason


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it is shown: its text, and its tokens with the bytes that each shows."""

    text: str
    tokens: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, prompt: str | Sequence[int], tokens: Sequence[int], spell: Callable[[int], bytes]) -> Echo:
        """What `prompt`, which became `tokens`, shows; `spell` writes control tokens out."""
        pieces = [spell(token) for token in tokens]
        if not isinstance(prompt, str):
            return cls(b"".join(pieces).decode(errors="replace"), tuple(zip(tokens, pieces, strict=True)))
        # Tokenizers add a token at the start, a space, or both.
        written = prompt.encode()
        if b"".join(pieces[1:]).lstrip(b" ") == written.lstrip(b" "):
            pieces[0] = b""
        surplus = len(b"".join(pieces)) - len(written)
        first = next((place for place, piece in enumerate(pieces) if piece), 0)
        if surplus == 1 and pieces[first].startswith(b" "):
            pieces[first] = pieces[first][1:]
        return cls(prompt, tuple(zip(tokens, pieces, strict=True)))


class TextOutput:
    """`echo` is None where the prompt is not shown; `piece` gives a token's bytes, None where nothing is scored."""

    reasoning_tokens = 0

    def __init__(self, echo: Echo | None, piece: Callable[[int], bytes] | None) -> None:
        self._echo = echo
        self._piece = piece
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def take_delta(self, delta: Delta) -> list[tuple[OutputEvent, list[TokenLogprob]]]:
        """What `delta` shows: text, and the tokens that begin in it."""
        text, logprobs = delta.text, self._named(delta)
        if self._echo is not None:
            text, self._echo = self._echo.text + text, None
        self._text.append(text)
        self._logprobs += logprobs
        return [(Content(text), logprobs)] if text or logprobs else []

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        return reason

    def choice(self, reason: FinishReason) -> Choice:
        """The finished answer."""
        logprobs = tuple(self._logprobs) if self._piece is not None else None
        return Choice("".join(self._text), reason, logprobs=logprobs)

    def _named(self, delta: Delta) -> list[TokenLogprob]:
        if self._piece is None:
            return []
        named = [part.score.named(self._piece) for part in delta.parts if part.score is not None]
        return [*self._named_prompt(delta, self._piece), *named]

    def _named_prompt(self, delta: Delta, piece: Callable[[int], bytes]) -> list[TokenLogprob]:
        if self._echo is None:
            return []
        first, *following = self._echo.tokens
        named = [first_of_prompt(first[0], lambda _: first[1])]
        for score, (_, data) in zip(delta.prompt_scores, following, strict=True):
            named.append(replace(score.named(piece), token=data.decode(errors="replace"), bytes=data))
        return named
