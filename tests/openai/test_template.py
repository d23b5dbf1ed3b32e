"""What a request may hand to the chat template, and where the answer starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.openai.parse import parse_chat
from llmserve.openai.template import RESERVED_ARGUMENTS

from .bodies import HELLO, chat, chat_body, chat_refusal

PARTIAL = {"role": "assistant", "content": "The sky is"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_arguments() -> None:
    arguments = {"enable_thinking": False, "budget": 2**53, "ratio": -0.5, "date_string": "26 Jul 2026", "off": None}
    request = chat(chat_template_kwargs=arguments)
    del arguments["off"]
    assert request.chat_template_kwargs == arguments
    assert type(request.chat_template_kwargs["enable_thinking"]) is bool
    assert json.loads(request.canonical())["chat_template_kwargs"] == arguments
    assert chat(chat_template_kwargs={}).chat_template_kwargs == {}
    assert len(chat(chat_template_kwargs={f"a{number}": "x" * 256 for number in range(32)}).chat_template_kwargs) == 32


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ([], ""),
        ("enable_thinking", ""),
        ({f"a{number}": 1 for number in range(33)}, ""),
        ({"": 1}, ""),
        ({"__class__": 1}, ""),
        ({"_private": 1}, ""),
        ({"a b": 1}, ""),
        ({"a.b": 1}, ""),
        ({"1a": 1}, ""),
        ({"é": 1}, ""),
        ({"a" * 65: 1}, ""),
        ({"a": "x" * 257}, ".a"),
        ({"a": []}, ".a"),
        ({"a": {"b": 1}}, ".a"),
        ({"a": 2**53 + 1}, ".a"),
        ({"a": -(10**30)}, ".a"),
        *(({name: 1}, f".{name}") for name in ("messages", "tools", "tokenize", "chat_template", "range", "eos_token")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_arguments_refused(arguments: object, param: str) -> None:
    assert chat_refusal(chat_template_kwargs=arguments).param == f"chat_template_kwargs{param}"


def test_what_requests_state_elsewhere_is_reserved() -> None:
    assert {"messages", "tools", "tool_choice", "documents"} <= RESERVED_ARGUMENTS
    assert {"add_generation_prompt", "continue_final_message", "chat_template"} <= RESERVED_ARGUMENTS
    assert not {"enable_thinking", "reasoning_effort", "thinking", "date_string"} & RESERVED_ARGUMENTS


def test_documents() -> None:
    documents = [{"text": "one"}, {"title": "Two", "text": ""}]
    request = chat(documents=documents)
    assert [(document.title, document.text) for document in request.documents] == [(None, "one"), ("Two", "")]
    assert json.loads(request.canonical())["documents"] == documents
    parsed = parse_chat(chat_body(documents=[{"text": "a", "doc_id": 1}]))
    assert parsed.ignored_fields == ("documents[].doc_id",)


@pytest.mark.parametrize(
    ("documents", "param"),
    [
        ("a", "documents"),
        ({}, "documents"),
        (["a"], "documents[0]"),
        ([{"title": "a"}], "documents[0].text"),
        ([{"text": 1}], "documents[0].text"),
        ([{"text": "a", "title": "x" * 1025}], "documents[0].title"),
        ([{"text": "a"}] * 129, "documents"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_documents_refused(documents: object, param: str) -> None:
    assert chat_refusal(documents=documents).param == param


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_reasoning_effort(effort: str) -> None:
    assert chat(reasoning_effort=effort).reasoning_effort == effort


@pytest.mark.parametrize("effort", ["", "LOW", "ultra", 1, True, {"effort": "low"}])
def test_reasoning_effort_refused(effort: object) -> None:
    assert chat_refusal(reasoning_effort=effort).param == "reasoning_effort"


# --- where the answer starts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "continued"),
    [
        ({}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": True, "continue_final_message": False}, False),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": True, "add_generation_prompt": None}, True),
    ],
    ids=repr,
)
def test_the_last_message_is_answered_or_continued(fields: dict[str, Any], continued: bool) -> None:
    request = chat(messages=[HELLO, PARTIAL], **fields)
    assert request.continue_final_message is continued
    assert parse_chat(request.canonical(), strict=True).request == request


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"add_generation_prompt": False, "continue_final_message": False}, "add_generation_prompt"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "messages": [HELLO]}, "continue_final_message"),
        (
            {"continue_final_message": True, "messages": [HELLO, {**PARTIAL, "tool_calls": [CALL]}]},
            "continue_final_message",
        ),
        (
            {"continue_final_message": True, "messages": [HELLO, {"role": "assistant", "tool_calls": [CALL]}]},
            "continue_final_message",
        ),
        ({"continue_final_message": "yes"}, "continue_final_message"),
        ({"add_generation_prompt": 1}, "add_generation_prompt"),
    ],
    ids=repr,
)
def test_starts_refused(fields: dict[str, Any], param: str) -> None:
    assert chat_refusal(**{"messages": [HELLO, PARTIAL], **fields}).param == param
