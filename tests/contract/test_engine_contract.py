"""One contract for all engines: the same requests, and the same shape of answers, whatever serves the model."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import httpx2
import jsonschema  # type: ignore[import-untyped]
import openai
import pytest

from llmserve.state.database import StateDatabase
from tests.contract.servers import SYSTEM, Server
from tests.support import until

QUESTION = "What is the capital of France?"
USAGE = {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
ANSWER = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
# Numbers that only one engine has, beside what the contract promises.
EXTRA = {"timings"}


ASKED = [{"role": "user", "content": QUESTION}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def events(server: Server, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The parsed events of a stream that ends as it should."""
    text = server.ask(path, stream=True, **fields).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", text[-500:]
    return [json.loads(line) for line in lines[:-1]]


def chat_events(server: Server, text: str, **fields: Any) -> list[dict[str, Any]]:
    return events(server, "/v1/chat/completions", messages=[SYSTEM, {"role": "user", "content": text}], **fields)


def joined(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_chat_answer_has_the_shape_of_openais(server: Server) -> None:
    answer = server.chat(QUESTION)
    assert answer.keys() - EXTRA == ANSWER
    assert (answer["object"], answer["model"], answer["system_fingerprint"]) == ("chat.completion", server.model, None)
    assert answer["usage"].keys() == USAGE
    (choice,) = answer["choices"]
    assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
    assert choice["message"].keys() == {"role", "content", "refusal"}
    assert "Paris" in choice["message"]["content"]
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)


def test_a_text_completion_has_the_shape_of_openais(server: Server) -> None:
    answer = server.complete("The capital of France is", max_tokens=4)
    assert answer.keys() - EXTRA == ANSWER
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert "Paris" in choice["text"]
    assert choice["finish_reason"] == "length"


def test_the_answers_id_is_the_requests(server: Server) -> None:
    request = {"model": server.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    answer = server.http.post("/v1/chat/completions", json=request)
    assert answer.json()["id"] == answer.headers["x-request-id"]
    with server.http.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as stream:
        identities = {json.loads(line[6:])["id"] for line in stream.iter_lines() if line.startswith('data: {"id"')}
        assert identities == {stream.headers["x-request-id"]}


def test_several_prompts_and_choices_are_numbered_in_order(server: Server) -> None:
    answer = server.complete(["One, two,", "The capital of France is"], n=2, max_tokens=4)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    first, again, other, other_again = (choice["text"] for choice in answer["choices"])
    assert (first, other) == (again, other_again)
    assert "Paris" in other


def test_token_ids_are_a_prompt(server: Server) -> None:
    ids = server.ask("/tokenize", prompt="The capital of France is").json()["tokens"]
    assert "Paris" in server.complete(ids, max_tokens=4)["choices"][0]["text"]
    text = server.http.post("/detokenize", json={"model": server.model, "tokens": ids}).json()
    assert text["content"] == text["prompt"] == "The capital of France is"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"continue_final_message": True, "messages": [*ASKED, {"role": "assistant", "content": "The capital"}]},
    ],
    ids=["plain", "tools", "continued"],
)
def test_a_chats_tokens_are_those_of_its_prompt(server: Server, fields: dict[str, Any]) -> None:
    request = {"model": server.model, "messages": ASKED, **fields}
    tokens = server.http.post("/tokenize", json={**request, "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["token_strs"][0] == "<|im_start|>"
    answer = server.http.post("/v1/chat/completions", json={**request, "max_tokens": 1}).json()
    assert tokens["count"] == answer["usage"]["prompt_tokens"]


def test_a_chats_tokens_may_end_before_an_answer(server: Server) -> None:
    def tokens(**fields: Any) -> list[int]:
        request = {"model": server.model, "messages": ASKED, **fields}
        return list(server.http.post("/tokenize", json=request).json()["tokens"])

    without = tokens(add_generation_prompt=False)
    assert tokens() == tokens(add_generation_prompt=True)
    assert tokens()[: len(without)] == without
    assert 0 < len(without) < len(tokens())


def test_a_prompt_is_counted_in_every_dialect(server: Server) -> None:
    said = [
        *({"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Paris."}),
        {"role": "user", "content": "And of Italy?"},
    ]
    tool = {"name": "get_weather", "input_schema": WEATHER["function"]["parameters"]}
    body = {"model": server.model, "messages": said, "system": "Be brief.", "tools": [tool]}
    body["tool_choice"] = {"type": "none"}
    counted = server.http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
    usage = server.http.post("/v1/messages", json={**body, "max_tokens": 1}).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
    asked = {"model": server.model, "input": said, "instructions": "Be brief."}
    count = server.openai.responses.input_tokens.count(**asked)
    assert count.input_tokens == server.openai.responses.create(**asked, max_output_tokens=1).usage.input_tokens


def test_an_echoed_prompt_comes_first(server: Server) -> None:
    answer = server.complete("One, two,", echo=True, max_tokens=3, logprobs=0)
    (choice,) = answer["choices"]
    assert choice["text"].startswith("One, two,")
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_a_message_is_gone_on_with(server: Server) -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital of France is"}]
    answer = server.ask("/v1/chat/completions", messages=messages, continue_final_message=True, max_tokens=3).json()
    assert answer["choices"][0]["message"]["content"].startswith(" Paris")


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_streamed_chat_is_the_whole_answer_in_pieces(server: Server) -> None:
    whole = server.chat(QUESTION)
    chunks = chat_events(server, QUESTION, stream_options={"include_usage": True})
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {server.model}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert joined(chunks) == whole["choices"][0]["message"]["content"]
    *_, last, usage = chunks
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage["usage"][count] == whole["usage"][count]


def test_a_streamed_completion_is_the_whole_answer_in_pieces(server: Server) -> None:
    whole = server.complete("The capital of France is", max_tokens=8)
    chunks = events(server, "/v1/completions", prompt="The capital of France is", max_tokens=8)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert joined(chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert all(not chunk.get("usage") for chunk in chunks)


def test_the_choices_of_a_stream_are_told_apart(server: Server) -> None:
    chunks = chat_events(server, QUESTION, n=2)
    text = server.chat(QUESTION)["choices"][0]["message"]["content"]
    assert [joined(chunks, index) for index in (0, 1)] == [text, text]


def test_openais_own_client_reads_both_kinds(server: Server) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    request: dict[str, Any] = {"model": server.model, "messages": messages, "max_tokens": 16, "temperature": 0}
    whole = server.openai.chat.completions.create(**request)
    stream = server.openai.chat.completions.create(**request, stream=True)
    text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert text == whole.choices[0].message.content


# --- what a request can ask for --------------------------------------------------------------------------------------


def test_an_answer_ends_before_a_stop_string(server: Server) -> None:
    whole = server.chat(QUESTION)["choices"][0]["message"]["content"]
    before, _, _ = whole.partition(" is")
    stops = ["never 1", "never 2", "never 3", "never 4", "never 5", " is"]
    (choice,) = server.chat(QUESTION, stop=stops)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (before, "stop")
    assert joined(chat_events(server, QUESTION, stop=stops)) == before


def test_the_same_seed_gives_the_same_answer(server: Server) -> None:
    def answer(seed: int) -> str:
        body = server.chat("Write a line about the sea.", temperature=1.5, top_p=1, seed=seed, max_tokens=12)
        return str(body["choices"][0]["message"]["content"])

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_several_drawn_answers_differ(server: Server) -> None:
    answer = server.chat("Write a line about the sea.", n=4, temperature=1.5, top_p=1, max_tokens=12)
    texts = {choice["message"]["content"] for choice in answer["choices"]}
    assert len(answer["choices"]) == 4
    assert len(texts) > 1


def test_a_bias_forbids_a_token(server: Server) -> None:
    (first, *_) = server.ask("/tokenize", prompt=" Paris", add_special_tokens=False).json()["tokens"]
    text = server.complete("The capital of France is", logit_bias={str(first): -100}, max_tokens=4)["choices"][0]
    assert " Paris" not in text["text"]


def test_the_log_probabilities_of_a_chat_belong_to_its_text(server: Server) -> None:
    answer = server.chat(QUESTION, logprobs=True, top_logprobs=3)
    (choice,) = answer["choices"]
    entries = choice["logprobs"]["content"]
    assert choice["logprobs"].keys() == {"content", "refusal"}
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry in entries:
        assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(entry["top_logprobs"]) == 3
        # Greedy: the token that was taken is the likeliest.
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0
    streamed = chat_events(server, QUESTION, logprobs=True, top_logprobs=3)
    pieces = [choice["logprobs"] for chunk in streamed for choice in chunk["choices"] if choice["logprobs"]]
    assert [entry["token"] for piece in pieces for entry in piece["content"]] == [entry["token"] for entry in entries]


def test_the_log_probabilities_of_a_completion_have_offsets(server: Server) -> None:
    (choice,) = server.complete("The capital of France is", logprobs=2, max_tokens=4)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(logprobs["tokens"]) == choice["text"]
    for token, offset, others in zip(
        logprobs["tokens"], logprobs["text_offset"], logprobs["top_logprobs"], strict=True
    ):
        assert choice["text"][offset:].startswith(token)
        assert token in others


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_schema(server: Server, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    fields: dict[str, Any] = {"response_format": form, "max_tokens": 60}
    if stream:
        text = joined(chat_events(server, "Describe Paris as JSON.", **fields))
    else:
        text = server.chat("Describe Paris as JSON.", **fields)["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("form", "wanted"), [({"choice": ["red", "blue"]}, {"red", "blue"}), ({"regex": "(yes|no)"}, {"yes", "no"})]
)
def test_an_answer_has_a_prescribed_form(server: Server, form: dict[str, Any], wanted: set[str]) -> None:
    text = server.chat("Decide.", structured_outputs=form)["choices"][0]["message"]["content"]
    assert text in wanted


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_by_name(server: Server) -> None:
    for path, field, prompt in (
        ("/v1/completions", "prompt", "word " * 40_000),
        ("/v1/chat/completions", "messages", [{"role": "user", "content": "word " * 40_000}]),
    ):
        answer = server.ask(path, **{field: prompt})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")
        assert error["param"] == field
        assert "context is" in error["message"]


def test_a_limit_beyond_the_context_is_no_error(server: Server) -> None:
    answer = server.chat(QUESTION, max_tokens=1_000_000, stop=["Paris"])
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_request_that_states_no_limit_is_answered(server: Server) -> None:
    messages = [SYSTEM, {"role": "user", "content": QUESTION}]
    request = {"model": server.model, "messages": messages, "temperature": 0, "stop": ["Paris"]}
    answer = server.http.post("/v1/chat/completions", json=request).json()
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_who_hangs_up_ends_the_work(server: Server) -> None:
    request = {"model": server.model, "prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=request) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()  # kept: its end would close the stream
        next(lines)
        assert server.open_requests() == 1
    hung_up = time.monotonic()
    until(lambda: server.open_requests() == 0, seconds=5)
    # Nothing is computed for it any more: the next answer does not wait for two thousand tokens.
    server.chat(QUESTION)
    assert time.monotonic() - hung_up < 30


def test_what_the_load_took_is_kept_for_the_next_plan(server: Server) -> None:
    with closing(sqlite3.connect(StateDatabase.in_home(server.home).path)) as database:
        rows = database.execute("SELECT build, measurement FROM load ORDER BY id DESC").fetchall()
    measured = [json.loads(text) for build, text in rows if build.startswith(server.engine)]
    taken = {entry["device"]: entry["bytes"] for entry in measured[0]["taken"]}
    (running,) = server.http.get("/admin/ps").json()["models"]
    planned = {entry["device"]: entry for entry in running["plan"]["memory"]}
    assert taken.keys() <= planned.keys()
    assert taken["ram"] > planned["ram"]["weights"]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"guided_json": {}}, "guided_json"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    answer = server.ask("/v1/chat/completions", **{"messages": [{"role": "user", "content": "Hi"}], **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_token_beyond_the_vocabulary_is_refused(server: Server) -> None:
    answer = server.ask("/v1/completions", prompt=[99_999_999])
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_schema_that_cannot_be_followed_is_refused(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "no such type"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = server.ask("/v1/completions", prompt="Hi", response_format=form)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_is_not_found(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.openai.completions.create(model="no-such-model:1b", prompt="Hi")
    assert caught.value.code == "model_not_found"


def test_a_generating_model_makes_no_embeddings(server: Server) -> None:
    answer = server.http.post("/v1/embeddings", json={"model": server.model, "input": "Hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_model_kind")


def test_unknown_fields_are_reported(server: Server) -> None:
    answer = server.ask("/v1/completions", prompt="Hi", max_tokens=1, no_such_field=1)
    assert isinstance(answer, httpx2.Response)
    assert answer.headers["x-llmserve-ignored-fields"] == "no_such_field"
