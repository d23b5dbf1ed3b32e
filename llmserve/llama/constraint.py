"""Output that must follow a grammar: masks over the vocabulary from llguidance."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidRequest
from llmserve.llama.grammar import Grammar, limits, refusal
from llmserve.llama.preparation import GaveUp

_MOST_COMPILED = 32
# Sequences of one grammar share the states of its lexer, whose number is limited: after so many a new one begins.
_MOST_FORKS = 512
# Processor time that following a grammar may take the engine's thread: an advance, and so much more for every token.
# Ordinary schemas take 0.02 to 0.3 ms a token.
_ADVANCE_SECONDS = 0.1
_SECONDS_PER_TOKEN = 0.002


class ConstraintFactory:
    """Compiles grammars for one vocabulary. Safe to use from several threads.

    `ask` is a preparer's for grammars, where each is tried first. `tokenizer` builds llguidance's view of the
    vocabulary, once, when first needed.
    """

    def __init__(
        self,
        ask: Callable[[Mapping[str, Any]], dict[str, Any]],
        tokenizer: Callable[[], Any],
        vocabulary_size: int,
    ) -> None:
        self._ask = ask
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._workspace = _Workspace(vocabulary_size)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[bytes, _Compiled] = OrderedDict()

    def compile(self, grammar: Grammar) -> Constraint:
        """A constraint at its beginning.

        A grammar that was not used lately takes about two milliseconds, the first one a second or two, and one that
        exceeds the preparer's limits as long as they allow. Raises `InvalidRequest` that names `grammar.param`.
        """
        digest = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode()).digest()
        with self._lock:
            known = self._compiled.get(digest)
            if known is not None and known.usable:
                self._compiled.move_to_end(digest)
                return known.fork(self._workspace)
        compiled = self._compile(grammar)
        with self._lock:
            self._compiled[digest] = compiled
            self._compiled.move_to_end(digest)
            while len(self._compiled) > _MOST_COMPILED:
                self._compiled.popitem(last=False)
            return compiled.fork(self._workspace)

    def _compile(self, grammar: Grammar) -> _Compiled:
        try:
            answer = self._ask({"kind": grammar.kind, "text": grammar.text})
        except GaveUp as reason:
            raise refusal(grammar, str(reason)) from None
        if "refused" in answer:
            raise refusal(grammar, answer["refused"])
        import llguidance

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
        matcher = llguidance.LLMatcher(self._tokenizer, answer["grammar"], log_level=0, limits=limits())
        if matcher.is_error():
            raise refusal(grammar, matcher.get_error())
        return _Compiled(matcher, grammar.param)


class _Compiled:
    """A compiled grammar, from which sequences are forked."""

    def __init__(self, matcher: Any, param: str) -> None:
        self._matcher = matcher
        self._param = param
        self._forks = 0
        self.exhausted = False

    @property
    def usable(self) -> bool:
        return not self.exhausted and self._forks < _MOST_FORKS

    def fork(self, workspace: _Workspace) -> Constraint:
        self._forks += 1
        return Constraint(self._matcher.deep_copy(), self, workspace)

    def error(self, detail: str) -> InvalidRequest:
        return InvalidRequest(f"the answer could not go on by its grammar: {detail}", param=self._param)


class Constraint:
    """One sequence's place in its grammar. Belongs to one thread, the same for all of a factory, once it is used.

    `failure` is set where the grammar runs into a limit: the sequence has to end with it.
    """

    def __init__(self, matcher: Any, origin: _Compiled, workspace: _Workspace) -> None:
        self._matcher = matcher
        self._origin = origin
        self._workspace = workspace
        self._seconds_left = _ADVANCE_SECONDS
        self.failure: InvalidRequest | None = None

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Rule out every token the grammar does not allow next, in place. `logits`: float32 [vocabulary].

        Nothing is left allowed once there is a `failure`.
        """
        if self.failure is None:
            self._charge(self._workspace.compute, self._matcher)
        if self.failure is None:
            self._workspace.apply(logits)
        else:
            logits.fill(-np.inf)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next: about a microsecond, where `apply` takes fifty.

        So a likeliest token can be tried before the others are ruled out.
        """
        return self.failure is None and bool(self._matcher.validate_tokens([token]))

    def accept(self, token: int) -> bool:
        """`token` was chosen. False where it did not fit, or where there is a `failure` now."""
        return self._charge(self._matcher.consume_token, token) is True and self.failure is None

    def forced(self) -> list[int]:
        """The tokens that nothing else can come instead of, as the model would have split their text. Often none.

        Nothing is accepted; never an end of text.
        """
        if self.failure is not None:
            return []
        forced: list[int] = self._charge(self._matcher.compute_ff_tokens)
        return forced if self.failure is None else []

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return self.failure is None and bool(self._matcher.is_stopped())

    def fork(self) -> Constraint:
        """The same grammar from its current place, for another sequence."""
        return Constraint(self._matcher.deep_copy(), self._origin, self._workspace)

    def _charge(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do one piece of work and see what it cost; sets `failure` where that was too much, or a limit was met."""
        before = time.thread_time()
        result = work(*arguments)
        left = self._seconds_left + _SECONDS_PER_TOKEN - (time.thread_time() - before)
        self._seconds_left = min(left, _ADVANCE_SECONDS)
        if self._matcher.is_error():
            # Its lexer's states may be used up, also for sequences yet to come: they get a new one.
            self._origin.exhausted = True
            self.failure = self._origin.error(self._matcher.get_error().partition("\n")[0][:200])
        elif self._seconds_left < 0:
            self.failure = self._origin.error("it takes too much time to follow")
        return result


class _Workspace:
    """Memory for one mask, used for all sequences one after the other."""

    def __init__(self, vocabulary_size: int) -> None:
        self._size = vocabulary_size
        self._mask = np.zeros((vocabulary_size + 31) // 32, dtype=np.int32)
        # What to add to eight logits, for each value of a mask's byte. Looking that up takes a quarter of the time of
        # unpacking bits and assigning where they are zero.
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._table = np.where(bits, np.float32(0), np.float32(-np.inf))
        self._addends = np.empty((self._mask.nbytes, 8), dtype=np.float32)

    def compute(self, matcher: Any) -> None:
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        # With "clip" numpy writes straight into `out`; no index is out of range.
        np.take(self._table, self._mask.view(np.uint8), axis=0, out=self._addends, mode="clip")
        logits += self._addends.reshape(-1)[: self._size]
