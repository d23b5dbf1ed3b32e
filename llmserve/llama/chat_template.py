"""A model's chat template, rendered in Jinja2's sandbox as Hugging Face specifies it.

The sandbox keeps a template away from the process, but stops neither loops nor memory: whoever renders a stranger's
template does so in a preparer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmserve.errors import InvalidModel, InvalidRequest

_LONGEST_TEMPLATE = 256 * 1024
_LONGEST_MESSAGE = 300


class TooLong(Exception):
    """The rendered text is longer than what was asked for at most."""


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the model writes, for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (the base class has it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template. Raises `InvalidModel` if it is too long or not Jinja.

    `tokens` are how the model's special tokens are written, by the names templates know (`bos_token`, `eos_token`).
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > _LONGEST_TEMPLATE:
            raise InvalidModel(f"the chat template is longer than {_LONGEST_TEMPLATE // 1024} KiB")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(bos_token="", eos_token="")
        environment.globals.update(tokens or {})
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        # Jinja2's own toys, of no use in a chat and able to write without end.
        for name in ("lipsum", "cycler", "joiner"):
            environment.globals.pop(name, None)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise InvalidModel(f"the chat template is not valid: {error.message}"[:_LONGEST_MESSAGE]) from error
        except (SyntaxError, RecursionError, OverflowError) as error:
            # Python's own compiler has limits too: a hundred nested blocks, and so many nested parentheses.
            raise InvalidModel("the chat template is nested too deeply") from error

    def render(self, variables: Mapping[str, Any], most_characters: int | None = None) -> str:
        """The text for `messages` and the other names in `variables`.

        Raises `InvalidRequest` where the template refuses or fails, `TooLong` beyond `most_characters`.
        """
        try:
            pieces: list[str] = []
            length = 0
            for piece in self._template.generate(**{"tools": None, "documents": None, **variables}):
                length += len(piece)
                if most_characters is not None and length > most_characters:
                    raise TooLong
                pieces.append(piece)
            text = "".join(pieces)
            text.encode()
        except SecurityError as error:
            raise InvalidRequest("the chat template does what is not allowed", code="template_error") from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise _refusal(str(error)) from error
        except RecursionError as error:
            raise _refusal("it calls itself too deeply") from error
        return text


def _refusal(detail: str) -> InvalidRequest:
    message = f"the model's chat template refuses these messages: {' '.join(detail.split())}"
    return InvalidRequest(message[:_LONGEST_MESSAGE], param="messages", code="template_error")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja2's own filter escapes for HTML, which no model was trained on.
    parts = (str(separators[0]), str(separators[1])) if separators else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=parts, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)
