from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.chat_template import ChatTemplate
from llmserve.llama.conversation import shape
from llmserve.llama.preparation import GaveUp
from llmserve.llama.template_capabilities import probe
from llmserve.llama.templates import Templates
from tests.llama.template_styles import STYLES

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "SYSTEM"},
    {"role": "user", "content": "QUESTION"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "REASON",
        "tool_calls": [
            {"id": "call_17", "type": "function", "function": {"name": "lookup", "arguments": '{"word": "VALUE"}'}}
        ],
    },
    {"role": "tool", "content": "RESULT", "tool_call_id": "call_17"},
    {"role": "assistant", "content": "ANSWER"},
    {"role": "user", "content": "NEXT"},
]


@pytest.mark.parametrize("style", STYLES)
def test_what_a_template_can_show_is_found_out_by_rendering(style: str) -> None:
    source, capabilities = STYLES[style]
    assert probe(ChatTemplate(source).render) == capabilities


@pytest.mark.parametrize("style", [style for style in STYLES if style != "always fails"])
def test_nothing_of_a_conversation_is_lost(style: str) -> None:
    source, capabilities = STYLES[style]
    messages = shape(CONVERSATION, capabilities)
    text = ChatTemplate(source).render({"messages": messages, "tools": [], "add_generation_prompt": True})
    places = [text.find(word) for word in ("SYSTEM", "QUESTION", "lookup", "VALUE", "RESULT", "ANSWER", "NEXT")]
    assert -1 not in places
    assert places == sorted(places)
    assert "None" not in text


def test_a_template_that_cannot_be_probed_gets_what_most_expect() -> None:
    def give_up(_: Mapping[str, Any]) -> dict[str, Any]:
        raise GaveUp("it takes too long")

    templates = Templates({"default": "x"}, give_up)
    assert templates.capabilities().tool_calls is False
    with pytest.raises(InvalidRequest, match="it takes too long") as caught:
        templates.render("default", {}, 100)
    assert caught.value.code == "template_error"
