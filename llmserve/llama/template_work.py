"""What a preparer does with chat templates. Runs in the preparer only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmserve.errors import InvalidModel, InvalidRequest
from llmserve.llama.chat_template import ChatTemplate, TooLong
from llmserve.llama.template_capabilities import probe


class TemplateWork:
    """The templates of one model, compiled when first used: compiling one is what it may take its time over, too.

    {"template": NAME, "variables": {...}, "most_characters": N}   ->  {"text": ...} or {"too_long": true}
    {"template": NAME, "probe": true}                              ->  {"capabilities": {...}}
    Either is answered by {"refused": SENTENCE} where the template is not valid, or fails.
    """

    def __init__(self, sources: Mapping[str, str], tokens: Mapping[str, str]) -> None:
        self._sources = sources
        self._tokens = tokens
        self._compiled: dict[str, ChatTemplate] = {}

    @classmethod
    def from_setup(cls, setup: Mapping[str, Any]) -> TemplateWork:
        return cls(setup["templates"], setup["tokens"])

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            template = self._template(request["template"])
            if "probe" in request:
                return {"capabilities": asdict(probe(template.render))}
            return {"text": template.render(request["variables"], request["most_characters"])}
        except TooLong:
            return {"too_long": True}
        except (InvalidModel, InvalidRequest) as error:
            return {"refused": error.message}

    def _template(self, name: str) -> ChatTemplate:
        template = self._compiled.get(name)
        if template is None:
            template = self._compiled[name] = ChatTemplate(self._sources[name], self._tokens)
        return template
