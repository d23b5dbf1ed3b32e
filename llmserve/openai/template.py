"""What a request may hand to the model's chat template beside the messages."""

from __future__ import annotations

import math
import re
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, FailFast, Field, StrictStr

from llmserve.openai.schema import MAX_NAME_CHARACTERS, Schema, refuse

MAX_ARGUMENTS = 32
MAX_ARGUMENT_CHARACTERS = 256
MAX_DOCUMENTS = 128
MAX_TITLE_CHARACTERS = 1024

Scalar = bool | int | float | str

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LARGEST_EXACT_INTEGER = 2**53

# Names that mean something else in a template: what the server passes to it, and what Jinja defines.
RESERVED_ARGUMENTS = frozenset(
    {
        *("messages", "tools", "functions", "tool_choice", "documents", "conversation"),
        *("add_generation_prompt", "continue_final_message", "chat_template", "tokenize"),
        *("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token"),
        *("raise_exception", "strftime_now", "generation"),
        *("range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop", "self", "super", "caller"),
        *("true", "false", "none", "True", "False", "None"),
    }
)


def _template_arguments(arguments: object) -> dict[str, Scalar]:
    if not isinstance(arguments, dict):
        refuse("must be an object of names and plain values")
    if len(arguments) > MAX_ARGUMENTS:
        refuse(f"must have at most {MAX_ARGUMENTS} entries")
    for name in arguments:
        if len(name) > MAX_NAME_CHARACTERS or not _IDENTIFIER.fullmatch(name):
            refuse(f"must have names of 1 to {MAX_NAME_CHARACTERS} letters, digits and underscores, a letter first")
        if name in RESERVED_ARGUMENTS:
            refuse("is not an argument a request may set", name)
    return {name: _scalar(name, value) for name, value in arguments.items() if value is not None}


def _scalar(name: str, value: object) -> Scalar:
    if isinstance(value, str):
        if len(value) > MAX_ARGUMENT_CHARACTERS:
            refuse(f"must have at most {MAX_ARGUMENT_CHARACTERS} characters", name)
    elif isinstance(value, int):
        if abs(value) > _LARGEST_EXACT_INTEGER:
            refuse("is an integer beyond 2^53", name)
    elif not isinstance(value, float) or not math.isfinite(value):
        refuse("must be true, false, a number or a string", name)
    return value


TemplateArguments = Annotated[dict[str, Scalar], BeforeValidator(_template_arguments)]


class Document(Schema):
    """A text the answer may rest on."""

    place: ClassVar[str] = "documents[]."

    text: StrictStr
    title: Annotated[StrictStr, Field(max_length=MAX_TITLE_CHARACTERS)] | None = None


Documents = Annotated[tuple[Document, ...], FailFast(), Field(max_length=MAX_DOCUMENTS)]
