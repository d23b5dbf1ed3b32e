"""A model's chat template, rendered in Jinja2's sandbox as Hugging Face specifies it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmserve.errors import InvalidModel, InvalidRequest

# Used where a model brings none: the most widely trained-on form.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LONGEST_TEMPLATE = 256 * 1024


class ChatTemplate:
    """A compiled template. Raises `InvalidModel` if it is too long or not Jinja."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        if len(source) > _LONGEST_TEMPLATE:
            raise InvalidModel(f"the chat template is longer than {_LONGEST_TEMPLATE // 1024} KiB")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=_now, bos_token=bos, eos_token=eos)
        # Jinja2's own toys, of no use in a chat and able to write without end.
        for name in ("lipsum", "cycler", "joiner"):
            environment.globals.pop(name, None)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise InvalidModel(f"the chat template is not valid: {error.message}") from error

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt text for `messages`, ending where the assistant begins. Raises `InvalidRequest`."""
        try:
            return self._template.render(messages=messages, tools=None, documents=None, add_generation_prompt=True)
        except SecurityError as error:
            raise InvalidRequest("the chat template does what is not allowed", code="template_error") from error
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}"[:300],
                param="messages",
                code="template_error",
            ) from error


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja2's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
