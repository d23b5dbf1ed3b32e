"""The chat templates of one model, as the worker sees them: rendered elsewhere, within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmserve.errors import ContextLengthExceeded, InvalidRequest
from llmserve.llama.preparation import GaveUp
from llmserve.llama.template_capabilities import TemplateCapabilities

DEFAULT = "default"
# What Hugging Face calls the further templates of a model: for requests with tools, and with documents.
NAMES = (DEFAULT, "tool_use", "rag")


class Templates:
    """`sources` by name, "default" among them. `ask` is a preparer's, set up with `setup()`.

    Safe to use from several threads.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        ask: Callable[[Mapping[str, Any]], dict[str, Any]],
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._sources = dict(sources)
        self._ask = ask
        self._tokens = dict(tokens or {})
        self._capabilities: dict[str, TemplateCapabilities] = {}

    def setup(self) -> dict[str, Any]:
        """What the preparer has to be set up with."""
        return {"templates": self._sources, "tokens": self._tokens}

    def choose(self, *, tools: bool = False, documents: bool = False) -> str:
        """The name of the template for a request with these things."""
        if tools and "tool_use" in self._sources:
            return "tool_use"
        if documents and "rag" in self._sources:
            return "rag"
        return DEFAULT

    def source(self, name: str = DEFAULT) -> str:
        return self._sources[name]

    def capabilities(self, name: str = DEFAULT) -> TemplateCapabilities:
        """What the template can show; the defaults where it fails even on the smallest conversation.

        The first call for a name renders a dozen conversations.
        """
        known = self._capabilities.get(name)
        if known is None:
            try:
                answer = self._ask({"template": name, "probe": True})
            except GaveUp:
                answer = {}
            known = self._capabilities[name] = TemplateCapabilities(**answer.get("capabilities", {}))
        return known

    def render(self, name: str, variables: Mapping[str, Any], most_characters: int) -> str:
        """Raises `InvalidRequest` with the code `template_error`, or `ContextLengthExceeded` for a longer text."""
        try:
            answer = self._ask({"template": name, "variables": variables, "most_characters": most_characters})
        except GaveUp as reason:
            raise _template_error(f"the model's chat template fails on these messages: {reason}") from None
        if "refused" in answer:
            raise _template_error(answer["refused"])
        if "too_long" in answer:
            raise ContextLengthExceeded(
                f"the prompt is longer than {most_characters} characters, which cannot fit this model's context",
                param="messages",
            )
        text: str = answer["text"]
        return text


def _template_error(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="messages", code="template_error")
