"""Embeddings: the request and the answer of `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictInt

from llmserve.openai.fields import EMBEDDING_POLICY, Policy
from llmserve.openai.prompts import Prompts, prompts
from llmserve.openai.requests import ModelRequest

EncodingFormat = Literal["float", "base64"]

MAX_INPUTS = 2048
MAX_DIMENSIONS = 65_536


class EmbeddingRequest(ModelRequest):
    """A body of `POST /v1/embeddings`. `input` holds one or more inputs, all text or all token ids."""

    policy: ClassVar[Policy] = EMBEDDING_POLICY

    input: Annotated[Prompts, BeforeValidator(prompts(MAX_INPUTS))] = Field(
        description=f"A string, up to {MAX_INPUTS} strings, a list of token ids or up to {MAX_INPUTS} of those; "
        "none of them empty.",
    )
    encoding_format: EncodingFormat = Field(
        default="float", description="`float` (a list of numbers) or `base64` (of little-endian 32-bit floats)."
    )
    dimensions: Annotated[StrictInt, Field(ge=1, le=MAX_DIMENSIONS)] | None = Field(
        default=None,
        description="Keep only the first so many numbers of each vector, scaled to length 1 again; at most as many as "
        "the model gives.",
    )


def embedding_answer(
    model: str, vectors: Sequence[bytes], encoding_format: EncodingFormat, prompt_tokens: int
) -> dict[str, Any]:
    """The answer with a vector for each input, in their order. A vector is the bytes of little-endian 32-bit floats."""
    encode = _as_base64 if encoding_format == "base64" else _as_numbers
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def _as_numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)
