"""What a preparer does with grammars: compiles them, to see whether that is possible. Runs in the preparer only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmserve.llama.grammar import limits, to_llguidance


def vocabulary_setup(tokens: Iterable[bytes], special: Sequence[int], ends: Sequence[int]) -> dict[str, Any]:
    """What a preparer for grammars is set up with: the bytes of every token, control tokens, ends of a text."""
    return {"tokens": [token.decode("latin-1") for token in tokens], "special": list(special), "ends": list(ends)}


class GrammarWork:
    """{"kind": KIND, "text": ...} -> {"grammar": TEXT}, llguidance's form, or {"refused": llguidance's words}."""

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], ends: Sequence[int]) -> None:
        self.tokenizer = _tokenizer(tokens, special, ends)

    @classmethod
    def from_setup(cls, setup: Mapping[str, Any]) -> GrammarWork:
        return cls([token.encode("latin-1") for token in setup["tokens"]], setup["special"], setup["ends"])

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        import llguidance

        try:
            grammar = to_llguidance(request["kind"], request["text"])
        except ValueError as error:
            return {"refused": str(error)}
        except RecursionError:
            return {"refused": "it is nested too deeply"}
        matcher = llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits())
        if not matcher.is_error():
            # The first mask is the dearest: all that a grammar may begin with is open.
            matcher.compute_bitmask()
        if matcher.is_error():
            return {"refused": matcher.get_error()}
        return {"grammar": grammar}


def _tokenizer(tokens: Sequence[bytes], special: Sequence[int], ends: Sequence[int]) -> Any:
    import llguidance
    from llguidance import TokenizerWrapper

    class Tokens:
        """What llguidance asks of a tokenizer. Without the model's own, text becomes the longest tokens that fit."""

        def __init__(self) -> None:
            self.tokens = list(tokens)
            self.special_token_ids = list(special)
            self.eos_token_id = ends[0]
            self.bos_token_id = None
            self.greedy: Any = None

        def __call__(self, text: bytes) -> list[int]:
            return list(self.greedy(text.decode(errors="replace"))) if self.greedy else []

    wrapped = Tokens()
    tokenizer = llguidance.LLTokenizer(TokenizerWrapper(wrapped), eos_token=list(ends))
    wrapped.greedy = tokenizer.greedy_tokenize
    return tokenizer
