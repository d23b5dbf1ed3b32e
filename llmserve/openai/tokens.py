"""Text to token ids and back: the requests and answers of `POST /tokenize` and `POST /detokenize`.

The names are vLLM's; llama.cpp's are understood too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field, StrictBool, StrictStr

from llmserve.openai.fields import TOKENIZE_POLICY, Policy
from llmserve.openai.prompts import token_ids
from llmserve.openai.requests import ModelRequest

_SAME = "Both names mean the same and must agree."


class TokenizeRequest(ModelRequest):
    """A body of `POST /tokenize`."""

    policy: ClassVar[Policy] = TOKENIZE_POLICY
    extensions: ClassVar[frozenset[str]] = frozenset({"prompt", "add_special_tokens"})

    prompt: StrictStr = Field(
        validation_alias=AliasChoices("prompt", "content"), description=f"The text, which may be empty. {_SAME}"
    )
    add_special_tokens: StrictBool = Field(
        default=True,
        validation_alias=AliasChoices("add_special_tokens", "add_special"),
        description="Whether the ids start and end as the model's prompts do, for instance with a start-of-text "
        f"token; the default is true. {_SAME}",
    )


class DetokenizeRequest(ModelRequest):
    """A body of `POST /detokenize`."""

    extensions: ClassVar[frozenset[str]] = frozenset({"tokens"})

    tokens: Annotated[tuple[int, ...], BeforeValidator(token_ids)] = Field(description="A list of token ids.")


def tokenize_answer(tokens: Sequence[int], max_model_len: int) -> dict[str, Any]:
    """`tokens`, how many there are, and how many the model's context holds."""
    return {"count": len(tokens), "max_model_len": max_model_len, "tokens": list(tokens)}


def detokenize_answer(text: str) -> dict[str, Any]:
    """`text` under vLLM's name and llama.cpp's."""
    return {"prompt": text, "content": text}
