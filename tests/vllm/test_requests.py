"""Canonical requests as vLLM takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.parse import parse_chat, parse_completion, parse_tokenize
from llmserve.vllm.requests import CHAT, COMPLETIONS, TOKENIZE, take_copies, translated
from llmserve.vllm.served_model import ServedModel

MODEL = ServedModel("served:name", context=4096, tool_parser="hermes", reasoning_parser="qwen3")
PLAIN = ServedModel("served:name", context=4096)
TOOL = {"type": "function", "function": {"name": "weather"}}


def chat(model: ServedModel = MODEL, **fields: Any) -> dict[str, Any]:
    body = {"model": "an-alias", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return translated(CHAT, parse_chat(json.dumps(body).encode()).request.canonical(), model)


def completion(**fields: Any) -> dict[str, Any]:
    body = {"model": "an-alias", "prompt": "Hi", **fields}
    return translated(COMPLETIONS, parse_completion(json.dumps(body).encode()).request.canonical(), MODEL)


def test_the_served_name_takes_the_place_of_the_asked_one() -> None:
    assert chat()["model"] == "served:name"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 7, "repetition_penalty": 1.1},
        {"stop": ["a", "b"], "n": 2, "logprobs": True, "top_logprobs": 3, "logit_bias": {"5": -100.0}},
        {"response_format": {"type": "json_object"}, "ignore_eos": True},
        {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
        {"documents": [{"text": "a", "title": "b"}]},
    ],
)
def test_what_both_know_passes_as_it_is(fields: dict[str, Any]) -> None:
    sent = chat(**fields)
    assert {name: sent[name] for name in fields} == fields


@pytest.mark.parametrize("field", ["typical_p", "xtc_probability", "dry_multiplier", "mirostat"])
def test_a_sampler_that_vllm_lacks_is_refused_where_it_is_asked_for(field: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**{field: 2 if field == "mirostat" else 0.5})
    assert caught.value.param == field
    off = {"typical_p": 1, "mirostat": 0}.get(field, 0)
    assert field not in chat(**{field: off})


def test_parameters_of_a_sampler_that_is_off_are_dropped() -> None:
    assert "dry_base" not in chat(dry_base=1.75, xtc_threshold=0.1, mirostat_tau=5)
    with pytest.raises(UnsupportedParameter):
        chat(repeat_last_n=64)


def test_a_limit_that_the_context_cannot_hold_is_no_limit() -> None:
    assert chat(max_tokens=4095)["max_tokens"] == 4095
    assert "max_tokens" not in chat(max_tokens=4096)


@pytest.mark.parametrize(("fields", "copies"), [({"n": 3}, 3), ({"n": 1}, 1), ({}, 1)])
def test_several_greedy_answers_are_asked_for_once(fields: dict[str, int], copies: int) -> None:
    sent = chat(temperature=0, **fields)
    assert take_copies(sent) == copies
    assert sent["temperature"] == 0
    assert "n" not in sent


def test_several_draws_are_all_asked_for() -> None:
    sent = chat(temperature=0.5, n=3)
    assert (take_copies(sent), sent["n"]) == (1, 3)


def test_an_answer_that_goes_on_has_no_prompt_for_a_new_one() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The"}]
    assert chat(messages=messages, continue_final_message=True)["add_generation_prompt"] is False


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_of_a_model_whose_calls_cannot_be_read_are_refused(choice: str) -> None:
    assert chat(tools=[TOOL], tool_choice=choice)["tools"] == [TOOL]
    with pytest.raises(InvalidRequest) as caught:
        chat(PLAIN, tools=[TOOL], tool_choice=choice)
    assert caught.value.param == "tools"
    assert "models.toml" in (caught.value.hint or "")


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
    "additionalProperties": {"anyOf": [{"type": "null"}, {"enum": [1, 2]}]},
}
NAMED = {"type": "function", "function": {"name": "weather"}}


def sent_function(choice: Any, **function: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": "weather", **function}}]
    found: dict[str, Any] = chat(tools=tools, tool_choice=choice)["tools"][0]["function"]
    return found


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_the_arguments_of_a_demanded_call_follow_their_schema(choice: Any) -> None:
    assert sent_function(choice, parameters=SCHEMA)["strict"] is True
    assert "strict" not in sent_function("auto", parameters=SCHEMA)
    assert sent_function(choice, parameters=SCHEMA, strict=False)["strict"] is True


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"type": "number", "multipleOf": 2}}},
        {"type": "object", "properties": {"x": {"type": "array", "items": {"$ref": "#/$defs/y"}}}},
        {"type": "object", "additionalProperties": {"type": "string", "format": "hostname"}},
        {"anyOf": [{"type": "object"}, {"type": "string", "pattern": "a"}]},
        None,
    ],
)
def test_a_schema_that_a_grammar_may_not_follow_is_not_enforced(schema: Any) -> None:
    assert "strict" not in sent_function("required", **({} if schema is None else {"parameters": schema}))


def test_tools_that_must_not_be_called_need_no_reader() -> None:
    assert chat(PLAIN, tools=[TOOL], tool_choice="none")["tool_choice"] == "none"


def test_a_choice_of_no_tools_is_not_stated() -> None:
    assert not {"tools", "tool_choice"} & chat(tools=[], tool_choice="auto").keys()


def test_a_budget_for_thoughts_that_nothing_can_tell_is_dropped() -> None:
    assert chat(thinking_token_budget=5)["thinking_token_budget"] == 5
    assert "thinking_token_budget" not in chat(PLAIN, thinking_token_budget=5)


def test_a_gap_is_not_filled() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        completion(suffix="end")
    assert caught.value.param == "suffix"
    assert "suffix" not in completion(suffix="")


def tokens(**fields: Any) -> dict[str, Any]:
    body = {"model": "an-alias", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return translated(TOKENIZE, parse_tokenize(json.dumps(body).encode()).request.canonical(), PLAIN)


def test_a_chat_is_taken_apart_as_it_is_answered() -> None:
    documents = [{"text": "a", "title": "b"}]
    sent = tokens(reasoning_effort="low", documents=documents, tools=[TOOL], tool_choice="none", return_token_strs=True)
    assert sent == {
        "model": "served:name",
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [TOOL],
        "return_token_strs": True,
        "chat_template_kwargs": {"reasoning_effort": "low", "enable_thinking": True, "documents": documents},
    }


def test_what_the_template_is_told_goes_before_what_follows_from_the_effort() -> None:
    stated = {"enable_thinking": True, "x": 1}
    assert tokens(reasoning_effort="none", chat_template_kwargs=stated)["chat_template_kwargs"] == {
        "reasoning_effort": "none",
        **stated,
    }
    assert tokens(reasoning_effort="none")["chat_template_kwargs"]["enable_thinking"] is False
    assert tokens().keys() == {"model", "messages"}


def test_past_thoughts_have_vllms_name_where_it_does_not_rename_them() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A", "reasoning_content": "B"}]
    sent = tokens(messages=messages, continue_final_message=True)
    assert sent["messages"][1] == {"role": "assistant", "content": "A", "reasoning": "B"}
    assert sent["add_generation_prompt"] is False


def test_every_field_of_the_schemas_is_known_or_refused() -> None:
    """A field that is added to the schema has to be thought of here too."""
    from llmserve.openai.requests import ChatRequest, CompletionRequest
    from llmserve.openai.tokens import TokenizeChatRequest, TokenizeRequest
    from llmserve.vllm import requests

    schemas = ((CHAT, ChatRequest), (COMPLETIONS, CompletionRequest), (TOKENIZE, TokenizeChatRequest))
    for path, schema in (*schemas, (TOKENIZE, TokenizeRequest)):
        thought_of = requests._KNOWN[path] | requests._ABSENT_SAMPLERS.keys() | {"model", "suffix"}
        assert {field.alias or name for name, field in schema.model_fields.items()} - thought_of == set()
