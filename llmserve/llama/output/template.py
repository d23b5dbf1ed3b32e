"""What a chat template gives away about its model, read from its text without rendering it."""

from __future__ import annotations

import re

_TAG_BEGIN = re.compile(r"\{[{%]")
_TAG_END = re.compile(r"[%}]\}")


def reads(template: str, variable: str) -> bool:
    """Whether the code in `template` reads `variable`; text, strings and attributes of that name do not count."""
    mention = re.compile(rf"(?<![\w.'\"]){re.escape(variable)}(?![\w'\"])")
    return any(mention.search(tag) for tag in _tags(template))


def _tags(template: str) -> list[str]:
    return [_TAG_END.split(part, maxsplit=1)[0] for part in _TAG_BEGIN.split(template)[1:]]
