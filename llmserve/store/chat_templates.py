"""Chat templates that a user states for a model, checked before anything is made of them."""

from __future__ import annotations

import re

from llmserve.errors import InvalidRequest

TEMPLATE_LIMIT_CHARACTERS = 256 * 1024
# What marks the model's own words for training; Jinja does not know it, and it means nothing here.
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def check_template(source: str) -> None:
    """Raise `InvalidRequest` for text that is no Jinja template of a conversation. Nothing is rendered."""
    from jinja2 import TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(source) > TEMPLATE_LIMIT_CHARACTERS:
        raise _refusal(f"it is longer than {TEMPLATE_LIMIT_CHARACTERS // 1024} KiB")
    try:
        ImmutableSandboxedEnvironment(extensions=[loopcontrols]).parse(_GENERATION.sub("", source))
    except TemplateSyntaxError as error:
        raise _refusal(f"line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise _refusal("it is nested too deeply") from error
    if "messages" not in source:
        raise _refusal("it does not use `messages`")


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"the template cannot be used: {problem}",
        param="template",
        hint="it is Jinja, as in tokenizer_config.json; `llmserve show MODEL --template` prints a model's own",
    )
