"""Output that must follow a JSON schema: masks over the vocabulary from llguidance."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidRequest
from llmserve.openai.response_format import ResponseFormat

# llguidance's own bounds, tightened: a schema that needs more gets a 400 instead of the engine's time.
_MAX_GRAMMAR_SIZE = 500_000
_INITIAL_FUEL = 1_000_000
_STEP_FUEL = 200_000
_MAX_STEP_ITEMS = 50_000
_MAX_LEXER_STATES = 250_000


class ConstraintFactory:
    """Compiles schemas for one vocabulary. `tokenizer` builds llguidance's view of it, once, when first needed."""

    def __init__(self, tokenizer: Callable[[], Any], vocabulary_size: int) -> None:
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._size = vocabulary_size

    def for_response_format(self, response_format: ResponseFormat | None) -> Constraint | None:
        """The constraint an OpenAI `response_format` asks for; None for text.

        Takes about a second the first time, and up to some tens of milliseconds later: not for the engine thread.
        Raises `InvalidRequest` naming the field where llguidance refuses the schema.
        """
        if response_format is None or response_format.type == "text":
            return None
        schema = response_format.json_schema.definition if response_format.json_schema else {"type": "object"}
        return Constraint(self._matcher(schema), self._size)

    def _matcher(self, schema: dict[str, Any]) -> Any:
        import llguidance

        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        limits = llguidance.LLParserLimits(
            max_grammar_size=_MAX_GRAMMAR_SIZE,
            initial_lexer_fuel=_INITIAL_FUEL,
            step_lexer_fuel=_STEP_FUEL,
            step_max_items=_MAX_STEP_ITEMS,
            max_lexer_states=_MAX_LEXER_STATES,
        )
        try:
            # Free white space would let a small model write blanks for ever.
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_pattern": r"[\x20\x0A]{0,2}"}
            )
            matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        except ValueError as error:
            raise _refusal(str(error)) from error
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return matcher


class Constraint:
    """One sequence's place in its grammar."""

    def __init__(self, matcher: Any, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((vocabulary_size + 31) // 32, dtype=np.int32)
        self._size = vocabulary_size

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Rule out every token the grammar does not allow next, in place. `logits`: float32 [vocabulary]."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        allowed = np.unpackbits(self._mask.view(np.uint8), count=self._size, bitorder="little")
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> bool:
        """`token` was chosen. False where it did not fit: only a grammar that ran into a limit lets that happen."""
        return bool(self._matcher.consume_token(token))

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def fork(self) -> Constraint:
        """The same grammar from its current place, for another sequence."""
        return Constraint(self._matcher.deep_copy(), self._size)


def _refusal(detail: str) -> InvalidRequest:
    sentence = detail.strip().splitlines()[0][:200] if detail.strip() else "unknown reason"
    return InvalidRequest(f"the JSON schema cannot be used: {sentence}", param="response_format.json_schema.schema")
