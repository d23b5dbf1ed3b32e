from __future__ import annotations

import copy
from typing import Any

import pytest

from llmserve.llama.conversation import shape
from llmserve.llama.template_capabilities import TemplateCapabilities

ALL = TemplateCapabilities(tools=True, tool_calls=True)


def called(arguments: str = "{}", identity: str = "call_1", content: str | None = None) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": identity, "type": "function", "function": function}],
    }


def result(identity: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": "42", "tool_call_id": identity}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ('{"a": [1, 2.5, null, "é"]}', {"a": [1, 2.5, None, "é"]}),
        ("", {}),
        (" {} ", {}),
        ("[1]", "[1]"),
        ("{a: 1}", "{a: 1}"),
        ('{"a": 1', '{"a": 1'),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("[" * 9999, "[" * 9999),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_become_an_object_where_they_are_one(text: str, given: Any) -> None:
    (message,) = shape([called(text)], ALL)
    assert message["tool_calls"][0]["function"]["arguments"] == given


def test_arguments_stay_text_for_a_template_that_wants_text() -> None:
    template = TemplateCapabilities(tool_calls=True, argument_objects=False)
    (message,) = shape([called('{"a":1}')], template)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


def test_a_result_has_the_name_of_what_was_called() -> None:
    messages = shape([called(), result(), {**result("other"), "name": "own"}], ALL)
    assert [message.get("name") for message in messages] == [None, "f", "own"]


@pytest.mark.parametrize(("null_content", "content"), [(True, None), (False, "")])
def test_a_message_that_only_calls(null_content: bool, content: str | None) -> None:
    template = TemplateCapabilities(tool_calls=True, null_content=null_content)
    assert shape([called()], template)[0]["content"] == content
    without = {"role": "assistant", "tool_calls": called()["tool_calls"]}
    assert shape([without], template)[0]["content"] == content


def test_identifiers_of_another_length_are_made_to_fit_alike() -> None:
    template = TemplateCapabilities(tool_calls=True, call_id_length=9)
    messages = shape([called(identity="call_1"), result("call_1"), called(identity="abcDEF123")], template)
    fitted = messages[0]["tool_calls"][0]["id"]
    assert len(fitted) == 9
    assert fitted.isalnum()
    assert messages[1]["tool_call_id"] == fitted
    assert messages[2]["tool_calls"][0]["id"] == "abcDEF123"


def test_calls_and_results_become_text_for_a_template_that_knows_none() -> None:
    messages = shape([called('{"a": 1}', content="Wait."), result()], TemplateCapabilities())
    assert messages == [
        {
            "role": "assistant",
            "content": 'Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        },
        {"role": "user", "content": "<tool_response>\n42\n</tool_response>"},
    ]


def test_results_stay_what_they_are_for_a_template_that_shows_them() -> None:
    messages = shape([called(content="Wait."), result()], TemplateCapabilities(tools=True, tool_results=True))
    assert messages[0]["content"].startswith("Wait.\n<tool_call>")
    assert messages[1] == {**result(), "name": "f"}


def test_system_messages_go_before_the_users_text_where_a_template_has_no_place_for_them() -> None:
    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}
    template = TemplateCapabilities(system=False)
    assert shape([system, system, user, user], template) == [{"role": "user", "content": "S\n\nS\n\nU"}, user]
    assert shape([user, system], template) == [user, {"role": "user", "content": "S"}]


def test_reasoning_goes_where_the_template_looks_for_it() -> None:
    message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    (shaped,) = shape([message], TemplateCapabilities(reasoning_field="thinking"))
    assert shaped == {"role": "assistant", "content": "A", "thinking": "R"}


def test_the_request_is_not_changed() -> None:
    messages = [{"role": "system", "content": "S"}, called('{"a": 1}'), result(), {"role": "user", "content": "U"}]
    before = copy.deepcopy(messages)
    for template in (ALL, TemplateCapabilities(parts=True, system=False)):
        shape(messages, template)
    assert messages == before
