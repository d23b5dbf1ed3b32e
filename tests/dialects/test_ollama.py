"""Ollama's dialect: requests become ours, answers the lines that its clients read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from llmserve.dialects.ollama.answers import EmbeddingTranslation, TextTranslation, timestamp
from llmserve.dialects.ollama.duration import keep_alive_seconds
from llmserve.dialects.ollama.models import SPOKEN_VERSION, capabilities, description, parameter_size
from llmserve.dialects.ollama.progress import progress_line
from llmserve.dialects.ollama.requests import (
    OllamaChatRequest,
    OllamaCreateRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
)
from llmserve.dialects.ollama.schemas import closed
from llmserve.errors import InvalidRequest
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_request
from llmserve.openai.responses import Choice, ToolInvocation
from tests.api.fakes import INFO, MODEL
from tests.dialects.streams import (
    DIED,
    broken_stream,
    call_stream,
    cut_call_stream,
    cuts,
    text_stream,
    thought_stream,
    whole,
)

HELLO = {"role": "user", "content": "hi"}
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


class StoppedClock:
    def now(self) -> datetime:
        return WHEN

    def elapsed_nanoseconds(self) -> int:
        return 30_000_000


def chat(**fields: Any) -> dict[str, Any]:
    """The chat request that a body of `/api/chat` with these fields means."""
    parsed = parse_request(OllamaChatRequest, dump_json({"model": "m", "messages": [HELLO], "stream": False, **fields}))
    return dict(json.loads(parsed.request.internal().canonical()))


def generate(**fields: Any) -> dict[str, Any]:
    parsed = parse_request(OllamaGenerateRequest, dump_json({"model": "m", "prompt": "hi", "stream": False, **fields}))
    return dict(json.loads(parsed.request.internal().canonical()))


# --- requests --------------------------------------------------------------------------------------------------------


def test_the_smallest_chat() -> None:
    assert chat() == {"model": "m", "messages": [HELLO]}
    assert chat(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"options": {"num_predict": 7}}, {"max_tokens": 7}),
        ({"options": {"temperature": 0, "top_k": 5, "seed": 3}}, {"temperature": 0.0, "top_k": 5, "seed": 3}),
        ({"options": {"repeat_penalty": 1.1, "stop": ["a"]}}, {"repetition_penalty": 1.1, "stop": ["a"]}),
        ({"options": {"stop": "a"}}, {"stop": ["a"]}),
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"think": False}, {"reasoning_effort": "none"}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"think": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= chat(**fields).items()


@pytest.mark.parametrize("options", [{"num_predict": -1}, {"num_predict": -2}, {"seed": -1}, {"num_ctx": 4096}, {}])
def test_what_leaves_the_servers_own_choice(options: dict[str, Any]) -> None:
    assert chat(options=options, format="", keep_alive="5m", tools=[]) == chat()


def test_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = chat(format=schema)["response_format"]
    assert form == {
        "type": "json_schema",
        "json_schema": {"name": "format", "schema": {**schema, "additionalProperties": False}, "strict": True},
    }


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
PAIR = {"type": "object", "properties": {"a": {"$ref": "#/$defs/P"}, "b": {"type": "array", "items": PERSON}}}


def test_a_schema_names_all_properties() -> None:
    no_more = {"additionalProperties": False}
    assert closed(PERSON) == {**PERSON, **no_more}
    inner = {"a": {"$ref": "#/$defs/P"}, "b": {"type": "array", "items": {**PERSON, **no_more}}}
    assert closed({**PAIR, "$defs": {"P": PERSON}}) == {
        **{"type": "object", "properties": inner, "$defs": {"P": {**PERSON, **no_more}}},
        **no_more,
    }
    optional = {"anyOf": [PERSON, {"type": "null"}]}
    assert closed(optional) == {"anyOf": [{**PERSON, **no_more}, {"type": "null"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**PERSON, "additionalProperties": True},
        {**PERSON, "additionalProperties": {"type": "integer"}},
        {**PERSON, "required": ["name", "age"]},
        {**PERSON, "anyOf": [{"required": ["a"]}]},
        {"allOf": [PERSON, {"properties": {"age": {"type": "integer"}}}]},
        {"$defs": {"P": PERSON}, "properties": {"age": {"type": "integer"}}, "$ref": "#/$defs/P"},
        {**PERSON, "patternProperties": {"^x": {}}},
        # A property of that name, not the keyword.
        {"type": "object", "properties": {"properties": True}, "additionalProperties": True},
    ],
)
def test_a_schema_stays_open_where_it_is_not_said_to_be_whole(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_calls_get_ids_and_results_find_them() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"a": 1}}}

    sent = chat(
        messages=[
            HELLO,
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("add"), call("now")]},
            {"role": "tool", "tool_name": "now", "content": "noon"},
            {"role": "tool", "content": "3"},
        ]
    )["messages"]
    assert [made["id"] for made in sent[1]["tool_calls"]] == ["call_0", "call_1"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1}'}
    assert sent[1]["reasoning_content"] == "hm"
    assert [(result["tool_call_id"], result["content"]) for result in sent[2:]] == [("call_1", "noon"), ("call_0", "3")]


def test_what_suits_the_model_holds_where_the_request_says_nothing() -> None:
    request = OllamaChatRequest.model_validate({"model": "m", "messages": [HELLO], "options": {"temperature": 1}})
    internal = request.internal("Be kind.", {"temperature": 0.2, "top_p": 0.5})
    assert (internal.temperature, internal.top_p) == (1, 0.5)
    assert (internal.messages[0].role, internal.messages[0].content) == ("system", "Be kind.")
    own = OllamaChatRequest.model_validate({"model": "m", "messages": [{"role": "system", "content": "x"}, HELLO]})
    assert own.internal("Be kind.").messages[0].content == "x"


def test_generate_is_a_chat_of_one_message_or_a_completion() -> None:
    assert generate(system="Be kind.")["messages"] == [{"role": "system", "content": "Be kind."}, HELLO]
    assert generate(raw=True) == {"model": "m", "prompt": ["hi"]}
    assert generate(suffix="end") == {"model": "m", "prompt": ["hi"], "suffix": "end"}


def test_embed() -> None:
    parsed = parse_request(OllamaEmbedRequest, b'{"model": "m", "input": "a", "truncate": true, "dimensions": 8}')
    assert json.loads(parsed.request.internal().canonical()) == {"model": "m", "input": ["a"], "dimensions": 8}


@pytest.mark.parametrize("body", [b'{"name": "m"}', b'{"model": "m"}', b'{"model": "m", "name": "m"}'])
def test_either_name_of_the_model(body: bytes) -> None:
    assert parse_request(OllamaShowRequest, body).request.model == "m"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{**HELLO, "images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{**HELLO, "tool_calls": [{"function": {"name": "a"}}]}]}, "messages[0].tool_calls"),
        ({"options": {"num_predict": "many"}}, "options.num_predict"),
        ({"options": {"top_p": 3}}, "options.top_p"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": []}, "options"),
        ({"format": "xml"}, "format"),
        ({"format": {"type": 3}}, "format.type"),
        ({"think": "a lot"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": True}, "keep_alive"),
        ({"model": ""}, "model"),
        ({"name": "other"}, "name"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        ("0", 0),
        (300, 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (-1, -1),
        ("-10m", -1),
        ("99999h", 3.1536e7),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert keep_alive_seconds(value) == seconds


def test_a_created_model_keeps_what_it_can() -> None:
    body = {"model": "a:b", "from": "m", "system": "x", "parameters": {"temperature": 0.1, "num_predict": 9}}
    request = parse_request(OllamaCreateRequest, dump_json(body)).request
    assert (request.source, request.parameters.internal()) == ("m", {"temperature": 0.1, "max_tokens": 9})
    for field, value in (("files", {"a": "sha256:1"}), ("quantize", "q4_0"), ("parameters", {"top_k": 3})):
        with pytest.raises(InvalidRequest, match="not supported"):
            parse_request(OllamaCreateRequest, dump_json({**body, field: value}))


# --- answers ---------------------------------------------------------------------------------------------------------


def translated(events: list[bytes], *, is_chat: bool = True) -> list[dict[str, Any]]:
    translation = TextTranslation("m", StoppedClock(), chat=is_chat)
    told = b"".join(translation.stream(chunk) for chunk in events)
    assert told.endswith(b"\n")
    return [json.loads(line) for line in told.splitlines()]


END = {
    "total_duration": 30_000_000,
    "load_duration": 8_500_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 1_500_000,
    "eval_count": 5,
    "eval_duration": 20_000_000,
}


def test_text_however_it_is_cut() -> None:
    for pieces in cuts(text_stream(["Hel", "lo"])):
        lines = translated(pieces)
        assert [line["message"]["content"] for line in lines] == ["Hel", "lo", ""]
        assert [line["done"] for line in lines] == [False, False, True]
        assert lines[-1]["done_reason"] == "stop"
        assert END.items() <= lines[-1].items()
        assert all(line["created_at"] == "2026-01-02T03:04:05.678901Z" and line["model"] == "m" for line in lines)


def test_generate_answers_in_its_own_field() -> None:
    lines = translated(text_stream(["x"], "length"), is_chat=False)
    assert [line["response"] for line in lines] == ["x", ""]
    assert lines[-1]["done_reason"] == "length"


def test_thoughts() -> None:
    lines = translated(thought_stream())
    assert [line["message"].get("thinking") for line in lines] == ["let me ", "see", None, None]


def test_calls_come_whole() -> None:
    calls = [line["message"]["tool_calls"] for line in translated(call_stream()) if "tool_calls" in line["message"]]
    assert calls == [
        [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}],
        [{"function": {"name": "now", "arguments": {}}}],
    ]


def test_a_call_that_is_cut_off_is_text() -> None:
    lines = translated(cut_call_stream())
    assert lines[0]["message"]["content"] == '{"a": 1,'
    assert lines[-1]["done_reason"] == "length"


def test_a_worker_that_dies_on_the_way() -> None:
    assert translated(broken_stream())[-1] == {"error": DIED.message}


def test_a_whole_answer() -> None:
    calls = (ToolInvocation("call_a", "add", '{"a": 1}'), ToolInvocation("call_b", "add", '{"a'))
    body = whole(Choice("hi", "tool_calls", "hm", calls))
    answer = json.loads(TextTranslation("m", StoppedClock(), chat=True).whole(body))
    assert answer["message"] == {
        "role": "assistant",
        "content": 'hi{"a',
        "thinking": "hm",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
    }
    assert END.items() <= answer.items()


def test_embeddings() -> None:
    body = dump_json({"data": [{"embedding": [1, 0]}, {"embedding": [0, 1]}], "usage": {"prompt_tokens": 3}})
    many = json.loads(EmbeddingTranslation("m", StoppedClock(), single=False).whole(body))
    assert (many["embeddings"], many["prompt_eval_count"]) == ([[1, 0], [0, 1]], 3)
    assert json.loads(EmbeddingTranslation("m", StoppedClock(), single=True).whole(body)) == {"embedding": [1, 0]}


@pytest.mark.parametrize(
    ("body", "message"),
    [(b'{"error": {"message": "why"}}', "why"), (b'{"error": "why"}', "why"), (b"<html>", "the request failed")],
)
def test_errors_are_one_sentence(body: bytes, message: str) -> None:
    translation = TextTranslation("m", StoppedClock(), chat=True)
    assert json.loads(translation.error(400, body)) == {"error": message}


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_version_that_clients_can_compare() -> None:
    assert all(part.isdigit() for part in SPOKEN_VERSION.split("."))


def test_timestamps_are_those_that_python_and_go_read() -> None:
    assert datetime.fromisoformat(timestamp(WHEN)) == WHEN
    assert timestamp(WHEN).endswith("Z")


@pytest.mark.parametrize(("count", "text"), [(134_515_008, "134.5M"), (7_241_732_096, "7.2B"), (4_096, "4.1K")])
def test_sizes(count: int, text: str) -> None:
    assert parameter_size(count) == text


def test_capabilities() -> None:
    assert capabilities(INFO) == ["completion", "tools"]
    assert capabilities(replace(INFO, chat_template="{% if enable_thinking %}")) == ["completion", "tools", "thinking"]
    assert capabilities(replace(INFO, kind="embed")) == ["embedding"]


def test_a_description_states_what_suits_the_model() -> None:
    shown = description(MODEL, INFO, "Be kind.", {"temperature": 0.25, "max_tokens": 9})
    assert (shown["system"], shown["parameters"]) == ("Be kind.", "temperature 0.25\nnum_predict 9")
    assert shown["modelfile"].startswith("FROM tiny:1m\nPARAMETER temperature 0.25\n")


def test_progress() -> None:
    line = progress_line("m", {"stage": "downloading", "completed": 5, "total": 10})
    assert line == {"status": "pulling m", "digest": "m", "completed": 5, "total": 10}
    # A bar without a share would show 100 % in Open WebUI.
    for completed, total in ((5, None), (0, 10)):
        line = progress_line("m", {"stage": "downloading", "completed": completed, "total": total})
        assert line == {"status": "pulling m"}
    assert progress_line("m", {"stage": "publishing", "completed": 1, "total": 1}) == {"status": "writing manifest"}
    assert "Q4_0" in progress_line("m", {"stage": "choosing", "option": "Q4_0", "reason": "it fits"})["status"]
