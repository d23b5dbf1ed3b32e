"""What a client writes on what is kept for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from llmserve.openai.schema import refuse

MAX_METADATA = 16


def _metadata(metadata: object) -> object:
    if not isinstance(metadata, dict) or len(metadata) > MAX_METADATA:
        refuse(f"must be an object of at most {MAX_METADATA} entries")
    for name, value in metadata.items():
        if len(name) > 64 or not isinstance(value, str) or len(value) > 512:
            refuse("must have names of up to 64 and strings of up to 512 characters")
    return metadata


Metadata = Annotated[dict[str, str], BeforeValidator(_metadata)]
