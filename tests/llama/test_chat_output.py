"""What a chat request makes of the prompt, the rules for its answer and the reader of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.chat_output import ChatOutput, ModelOutput
from llmserve.llama.choice_output import ChoiceOutput
from llmserve.llama.output.formats import detect
from llmserve.llama.thought_gate import ThoughtGate
from llmserve.openai.chat_input import ChatInput
from llmserve.openai.parse import parse_chat, parse_tokenize

SPECIAL = {"<think>": 1, "</think>": 2, "[TOOL_CALLS]": 3, "[ARGS]": 4, "<|im_end|>": 5}
QWEN = "{% if tools %}{% endif %}{% if enable_thinking %}<think>{% endif %}<tool_call>"
MISTRAL = "{{ tools }}[TOOL_CALLS]f[ARGS]{}"
PLAIN = "{{ messages }}"
HELLO = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}
STRICT = {"type": "function", "function": {**TOOL["function"], "name": "strict", "strict": True}}  # type: ignore[dict-item]
JSON = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "array"}}}


def model_output(template: str, special: Mapping[str, int] | None = None) -> ModelOutput:
    ids = SPECIAL if special is None else special
    texts = {token: text for text, token in ids.items()}
    return ModelOutput(
        plain=detect(template),
        with_tools=detect(template),
        special_tokens=ids,
        invisible=frozenset(ids.values()),
        tokenize=lambda text: list(text.encode()),
        spell=lambda token: texts.get(token, "x"),
    )


def output(template: str, special: Mapping[str, int] | None = None, **fields: Any) -> ChatOutput:
    body = {"model": "m", "messages": [HELLO], **fields}
    return ChatOutput(model_output(template, special), parse_chat(json.dumps(body).encode()).request)


class TestPrompt:
    def test_a_template_that_knows_tools_gets_them(self) -> None:
        chat = output(QWEN, tools=[TOOL]).chat
        assert chat.tools == [TOOL]
        assert [message["role"] for message in chat.messages] == ["user"]

    def test_a_template_that_knows_none_gets_them_in_words(self) -> None:
        chat = output(PLAIN, tools=[TOOL]).chat
        assert chat.tools == []
        assert chat.messages[0]["role"] == "system"
        assert '"name": "now"' in chat.messages[0]["content"]

    @pytest.mark.parametrize(("stated", "ends"), [({}, True), ({"add_generation_prompt": False}, False)])
    def test_the_prompt_to_be_counted_may_end_before_an_answer(self, stated: dict[str, bool], ends: bool) -> None:
        request = parse_tokenize(json.dumps({"model": "m", "messages": [HELLO], **stated}).encode()).request
        assert isinstance(request, ChatInput)
        chat = model_output(QWEN).chat(request)
        assert (chat.add_generation_prompt, [*chat.messages]) == (ends, [HELLO])

    @pytest.mark.parametrize("template", [QWEN, PLAIN])
    def test_tools_that_must_not_be_called_are_not_told(self, template: str) -> None:
        asked = output(template, tools=[TOOL], tool_choice="none")
        assert asked.chat.tools == []
        assert len(asked.chat.messages) == 1
        text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
        reader = asked.choice("", None)
        reader.take(text, ended=True)
        assert reader.choice("stop").text == text

    @pytest.mark.parametrize(
        ("fields", "arguments"),
        [
            ({}, {}),
            ({"reasoning_effort": "none"}, {"enable_thinking": False}),
            ({"chat_template_kwargs": {"enable_thinking": False, "a": 1}}, {"enable_thinking": False, "a": 1}),
            (
                {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
                {"enable_thinking": False},
            ),
        ],
    )
    def test_what_the_template_is_told_about_thinking(self, fields: dict[str, Any], arguments: dict[str, Any]) -> None:
        assert output(QWEN, **fields).chat.arguments == arguments


class TestGrammars:
    @pytest.mark.parametrize(
        "fields",
        [{}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "none"}],
    )
    def test_an_answer_is_free_unless_asked_otherwise(self, fields: dict[str, Any]) -> None:
        assert output(QWEN, **fields).grammars == []

    def test_a_demanded_call_is_enforced_with_its_parameters_or_without(self) -> None:
        exact, loose = output(QWEN, tools=[TOOL, STRICT], tool_choice="required").grammars
        assert exact.param == loose.param == "tools"
        assert exact.text.count('"zone"') == 2
        assert loose.text.count('"zone"') == 1

    def test_parameters_of_strict_tools_are_enforced_or_refused(self) -> None:
        assert len(output(QWEN, tools=[STRICT], tool_choice="required").grammars) == 1
        assert len(output(QWEN, tools=[STRICT]).grammars) == 1

    def test_a_keyword_that_would_be_followed_too_loosely_is_refused_where_it_is_promised(self) -> None:
        loose = {"type": "object", "properties": {"a": {"type": "object", "minProperties": 3}}}
        function = {"name": "f", "parameters": loose}
        asked = output(QWEN, tools=[STRICT, {"type": "function", "function": function}], tool_choice="required")
        assert len(asked.grammars) == 2
        strict = {"type": "function", "function": {**function, "strict": True}}
        with pytest.raises(InvalidRequest, match="minProperties") as caught:
            _ = output(QWEN, tools=[TOOL, strict], tool_choice="required").grammars
        assert caught.value.param == "tools[1].function.parameters"
        assert output(QWEN, tools=[strict], tool_choice="none").grammars == []

    def test_a_named_tool_is_called_once(self) -> None:
        choice = {"type": "function", "function": {"name": "strict"}}
        (grammar,) = output(QWEN, tools=[TOOL, STRICT], tool_choice=choice).grammars
        assert "now" not in grammar.text
        assert "{0," not in grammar.text

    @pytest.mark.parametrize(("parallel", "repeated"), [(True, True), (False, False)])
    def test_parallel_calls_can_be_ruled_out(self, parallel: bool, repeated: bool) -> None:
        asked = output(QWEN, tools=[STRICT], tool_choice="required", parallel_tool_calls=parallel)
        assert ("{0," in asked.grammars[0].text) is repeated

    def test_a_response_format_leaves_room_for_calls(self) -> None:
        assert output(QWEN, response_format=JSON).grammars[0].kind == "json_schema"
        both = output(QWEN, response_format=JSON, tools=[TOOL]).grammars[0]
        assert both.kind == "grammar"
        assert '"now\\"' in both.text or "now" in both.text
        assert '"array"' in both.text

    def test_in_harmony_a_response_format_is_a_message(self) -> None:
        asked = output("<|channel|>", special={"<|message|>": 7}, response_format=JSON).grammars[0]
        assert "<[7]> answer" in asked.text

    def test_control_tokens_are_named_by_their_ids(self) -> None:
        grammar = output(MISTRAL, tools=[TOOL], tool_choice="required").grammars[0]
        assert "<[3]>" in grammar.text
        assert "TOOL_CALLS" not in grammar.text


class TestShown:
    def test_marks_of_calls_are_shown_only_with_tools(self) -> None:
        assert output(MISTRAL, tools=[TOOL]).shown == {
            1: b"<think>",
            2: b"</think>",
            3: b"[TOOL_CALLS]",
            4: b"[ARGS]",
        }
        assert output(MISTRAL).shown == {1: b"<think>", 2: b"</think>"}

    def test_marks_that_are_text_anyway_need_no_showing(self) -> None:
        assert output(MISTRAL, special={}).shown == {}


class TestRule:
    @pytest.mark.parametrize(
        ("template", "prompt_end", "fields", "gated"),
        [
            (QWEN, "", {"thinking_token_budget": 5}, True),
            (PLAIN, "", {"thinking_token_budget": 5}, False),
            (PLAIN, "<think>\n", {"thinking_token_budget": 5}, True),
            (QWEN, "<think>\n\n</think>\n\n", {"thinking_token_budget": 5}, False),
            (QWEN, "", {}, False),
        ],
    )
    def test_thoughts_are_watched_where_there_may_be_some(
        self, template: str, prompt_end: str, fields: dict[str, Any], gated: bool
    ) -> None:
        rule = output(template, **fields).choice(prompt_end, None).rule
        assert isinstance(rule, ThoughtGate) is gated
        assert gated or rule is None


class TestAnswer:
    def test_reasoning_text_and_calls(self) -> None:
        reader = output(QWEN, tools=[TOOL]).choice("<think>\n", None)
        call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
        for piece in ("Hm", "m.</think>\n\nOne mo", f"ment.\n{call[:30]}", call[30:]):
            reader.take(piece, ended=False)
        reader.take("", ended=True)
        choice = reader.choice("stop")
        assert (choice.text, choice.reasoning, choice.finish_reason) == ("One moment.", "Hmm.", "tool_calls")
        assert [(call.name, call.arguments) for call in choice.tool_calls] == [("now", "{}")]
        assert reader.reasoning_tokens == len("Hmm.")

    @pytest.mark.parametrize(
        ("text", "reason", "expected"),
        [
            ("Hello.", "stop", "stop"),
            ('<tool_call>{"name": "now", "arguments": {}}</tool_call>', "stop", "tool_calls"),
            ('<tool_call>{"name": "now", "arguments": {', "length", "length"),
        ],
    )
    def test_why_it_ended(self, text: str, reason: Any, expected: str) -> None:
        reader = output(QWEN, tools=[TOOL]).choice("", None)
        reader.take(text, ended=True)
        assert reader.finish_reason(reason) == expected

    def test_what_could_not_be_read_is_text_and_logged_without_it(self, caplog: pytest.LogCaptureFixture) -> None:
        reader: ChoiceOutput = output(QWEN, tools=[TOOL]).choice("", None)
        text = '<tool_call>{"secret": 1}</tool_call>'
        with caplog.at_level(logging.WARNING):
            reader.take(text, ended=True)
        assert reader.choice("stop").text == text
        assert len(caplog.records) == 1
        assert "secret" not in caplog.text
