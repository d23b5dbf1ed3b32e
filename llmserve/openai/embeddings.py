"""Embeddings: the request and the answer of `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictInt

from llmserve.openai.fields import EMBEDDING_POLICY, Policy
from llmserve.openai.prompts import Prompts, prompts
from llmserve.openai.requests import ModelRequest

MAX_INPUTS = 2048
MAX_DIMENSIONS = 65_536


class EmbeddingRequest(ModelRequest):
    """A body of `POST /v1/embeddings`. `input` holds one or more inputs, all text or all token ids."""

    policy: ClassVar[Policy] = EMBEDDING_POLICY

    input: Annotated[Prompts, BeforeValidator(prompts(MAX_INPUTS))] = Field(
        description=f"A string, up to {MAX_INPUTS} strings, a list of token ids or up to {MAX_INPUTS} of those; "
        "none of them empty.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="`float` (a list of numbers) or `base64` (of little-endian 32-bit floats)."
    )
    dimensions: Annotated[StrictInt, Field(ge=1, le=MAX_DIMENSIONS)] | None = Field(
        default=None,
        description="Keep only the first so many numbers of each vector, scaled to length 1 again; at most as many as "
        "the model gives.",
    )
