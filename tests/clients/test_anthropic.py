"""anthropic-python: messages, streams, tools, counting and models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anthropic
import pytest

from tests.clients.servers import KEY, MODEL, SYSTEM, Server

pytestmark = pytest.mark.client("anthropic")
does = pytest.mark.does

# The client has no field for the temperature any more.
GREEDY = {"model": MODEL, "max_tokens": 24, "system": SYSTEM, "extra_body": {"temperature": 0}}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@does("messages")
def test_a_whole_answer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(messages=QUESTION, **GREEDY)
    (block,) = answer.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert answer.stop_reason == "end_turn"
    assert 0 < answer.usage.output_tokens <= 24


@does("streamed messages with its helper")
def test_a_stream(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(messages=QUESTION, **GREEDY)
    with client.messages.stream(messages=QUESTION, **GREEDY) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(texts) > 1
    assert "".join(texts) == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


@does("count_tokens")
def test_counting(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION, system=SYSTEM, tools=[TOOL])
    usage = client.messages.create(messages=QUESTION, tools=[TOOL], tool_choice={"type": "none"}, **GREEDY).usage
    plain = client.messages.count_tokens(model=MODEL, messages=QUESTION, system=SYSTEM)
    answered = client.messages.create(messages=QUESTION, **GREEDY).usage
    cached = answered.cache_read_input_tokens or 0
    assert plain.input_tokens == answered.input_tokens + cached
    assert counted.input_tokens > plain.input_tokens
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) >= plain.input_tokens


@does("tools, whole and streamed, and their results")
def test_tools(client: anthropic.Anthropic) -> None:
    question = [{"role": "user", "content": "How warm is it in Paris, in celsius?"}]
    asked = {
        **{"model": MODEL, "max_tokens": 100, "extra_body": {"temperature": 0}, "messages": question, "tools": [TOOL]},
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    }
    answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "weather"
    assert call.input.keys() == {"city", "unit"}
    with client.messages.stream(**asked) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    (streamed,) = [block for block in final.content if block.type == "tool_use"]
    assert streamed.input == call.input == snapshots[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    more = [*question, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    after = client.messages.create(**{**asked, "messages": more, "tool_choice": {"type": "none"}, "max_tokens": 16})
    assert after.stop_reason in {"end_turn", "max_tokens"}
    assert after.content[0].type == "text"


@does("an answer after a JSON schema")
def test_a_schema(client: anthropic.Anthropic) -> None:
    format = {"type": "json_schema", "schema": TOOL["input_schema"]}
    answer = client.messages.create(messages=QUESTION, output_config={"format": format}, **{**GREEDY, "max_tokens": 60})
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].text.startswith("{")


@does("stop sequences and limits")
def test_why_it_stopped(client: anthropic.Anthropic) -> None:
    stopped = client.messages.create(messages=QUESTION, stop_sequences=["Paris"], **GREEDY)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in stopped.content[0].text
    cut = client.messages.create(messages=QUESTION, **{**GREEDY, "max_tokens": 2})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)


@does("models")
def test_models(client: anthropic.Anthropic) -> None:
    assert MODEL in {model.id for model in client.models.list()}
    assert client.models.retrieve(MODEL).type == "model"


@does("errors")
def test_errors(server: Server, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**GREEDY, "model": "nothing:here"}, messages=QUESTION)
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as bad:
        client.messages.create(**{**GREEDY, "extra_body": {"temperature": 9}}, messages=QUESTION)
    assert "temperature" in bad.value.message
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0).models.list()


@does("async, four streams at a time")
def test_async(server: Server) -> None:
    async def ask(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(messages=QUESTION, **GREEDY) as stream:
            return await stream.get_final_text()

    async def ask_four() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for _ in range(4)))

    assert all("Paris" in text for text in asyncio.run(ask_four()))
