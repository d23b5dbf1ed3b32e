"""What may restrict the tokens of one answer, as the engine sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidRequest


class TokenRule(Protocol):
    """One sequence's place in what its answer has to follow. Belongs to one thread once it is used."""

    @property
    def failure(self) -> InvalidRequest | None:
        """Set where the rule ran into a limit: the sequence has to end with it."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        ...

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Rule out every token that may not come next, in place. `logits`: float32 [vocabulary]."""
        ...

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        ...

    def accept(self, token: int) -> bool:
        """`token` was chosen. False where it did not fit, or where there is a `failure` now."""
        ...

    def forced(self) -> list[int]:
        """The tokens that nothing else can come instead of, as the model would have split their text. Often none.

        Nothing is accepted; the same text may still be written in other tokens.
        """
        ...
