"""openai-python: chat, completions, responses, embeddings, batches and models, with its helpers for streams and
schemas."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Annotated, Literal

import openai
import pytest
from openai.types import Batch
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel, ConfigDict, Field

from tests.clients.servers import EMBEDDER, KEY, MODEL, SYSTEM, Server
from tests.support import until

pytestmark = pytest.mark.client("openai")
does = pytest.mark.does

CAPITAL = "What is the capital of France?"
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": CAPITAL}]
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 24}


# A small model does not find the end of a text by itself.
ShortText = Annotated[str, Field(max_length=20)]


class City(BaseModel):
    """What the model is to fill in."""

    model_config = ConfigDict(extra="forbid")

    name: ShortText
    continent: Literal["Africa", "Asia", "Europe"]


class Weather(BaseModel):
    """The weather in a city."""

    model_config = ConfigDict(extra="forbid")

    city: ShortText
    unit: Literal["celsius", "fahrenheit"]


WEATHER_SCHEMA = Weather.model_json_schema()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.openai_url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@does("models")
def test_models(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert names >= {MODEL, EMBEDDER}
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nothing:here")
    assert missing.value.code == "model_not_found"


class TestChat:
    @does("chat")
    def test_a_whole_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
        (choice,) = answer.choices
        assert choice.message.role == "assistant"
        assert "Paris" in (choice.message.content or "")
        assert choice.finish_reason == "stop"
        usage = answer.usage
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert 0 < usage.completion_tokens <= 24
        assert answer._request_id == answer.id

    @does("streamed chat with its helper")
    def test_a_stream(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
        with client.chat.completions.stream(
            messages=MESSAGES, stream_options={"include_usage": True}, **GREEDY
        ) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert len(deltas) > 1
        assert "".join(deltas) == final.choices[0].message.content == whole.choices[0].message.content
        assert final.choices[0].finish_reason == whole.choices[0].finish_reason
        assert final.usage is not None
        assert whole.usage is not None
        assert final.usage.completion_tokens == whole.usage.completion_tokens

    @does("several choices, a seed, logprobs")
    def test_choices_and_logprobs(self, client: openai.OpenAI) -> None:
        def ask() -> list[str | None]:
            answer = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, n=3, seed=5, temperature=1.5, max_tokens=8
            )
            assert [choice.index for choice in answer.choices] == [0, 1, 2]
            return [choice.message.content for choice in answer.choices]

        assert len(set(ask())) > 1
        scored = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
        )
        logprobs = scored.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert "".join(token.token for token in logprobs.content) == scored.choices[0].message.content
        for token in logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 3
            # Greedy: what was taken is the likeliest.
            assert token.top_logprobs[0].token == token.token

    @does("`parse` with pydantic")
    def test_parse(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.parse(
            model=MODEL, messages=MESSAGES, response_format=City, temperature=0, max_tokens=100
        )
        message = answer.choices[0].message
        assert isinstance(message.parsed, City)
        assert message.parsed == City.model_validate_json(message.content or "")

    @does("`parse` that the limit cuts off")
    def test_parse_cut_off(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.LengthFinishReasonError) as cut:
            client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City, max_tokens=3)
        assert cut.value.completion.usage is not None
        assert cut.value.completion.usage.completion_tokens == 3

    @does("tools, whole and streamed")
    def test_tools(self, client: openai.OpenAI) -> None:
        tool = openai.pydantic_function_tool(Weather, name="weather")
        asked = {
            **{"model": MODEL, "temperature": 0, "max_tokens": 100, "tools": [tool]},
            **{"tool_choice": "required", "parallel_tool_calls": False},
        }
        messages = [{"role": "user", "content": "How warm is it in Paris, in celsius?"}]
        answer = client.chat.completions.parse(messages=messages, **asked)
        assert answer.choices[0].finish_reason == "tool_calls"
        calls = answer.choices[0].message.tool_calls
        assert calls
        weather = calls[0].function.parsed_arguments
        assert isinstance(weather, Weather)
        with client.chat.completions.stream(messages=messages, **asked) as stream:
            final = stream.get_final_completion()
        streamed = final.choices[0].message.tool_calls
        assert streamed
        assert streamed[0].function.parsed_arguments == weather
        assert streamed[0].id != calls[0].id
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": "21 degrees"}
        call = {
            "id": calls[0].id,
            "type": "function",
            "function": {"name": "weather", "arguments": weather.model_dump_json()},
        }
        after = client.chat.completions.create(
            messages=[*messages, {"role": "assistant", "content": None, "tool_calls": [call]}, result],
            **{**asked, "tool_choice": "none", "max_tokens": 8},
        )
        assert after.choices[0].message.tool_calls is None
        assert after.choices[0].message.content

    @does("a stream left early")
    def test_a_stream_left_early(self, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
        )
        first = next(iter(stream))
        stream.close()
        assert first.choices[0].delta.role == "assistant"
        assert client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content

    @does("async, eight at a time")
    def test_async(self, server: Server) -> None:
        async def ask() -> list[str]:
            async with openai.AsyncOpenAI(base_url=server.openai_url, api_key=KEY, max_retries=0) as client:
                answers = await asyncio.gather(
                    *(client.chat.completions.create(messages=MESSAGES, **GREEDY) for _ in range(8))
                )
                return [answer.choices[0].message.content or "" for answer in answers]

        texts = asyncio.run(ask())
        assert len(texts) == 8
        assert all("Paris" in text for text in texts)


@does("completions, whole and streamed, with echo and logprobs")
def test_completions(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**asked)
    streamed = "".join(part.choices[0].text for part in client.completions.create(stream=True, **asked) if part.choices)
    assert whole.choices[0].text
    assert streamed == whole.choices[0].text
    echoed = client.completions.create(**{**asked, "echo": True, "logprobs": 1, "max_tokens": 0})
    assert echoed.choices[0].text == asked["prompt"]
    scores = echoed.choices[0].logprobs
    assert scores is not None
    assert "".join(scores.tokens or []) == asked["prompt"]
    first, *others = scores.token_logprobs or []
    assert first is None
    assert all(score <= 0 for score in others)


class TestResponses:
    @does("responses")
    def test_a_conversation(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model=MODEL, instructions=SYSTEM, input=CAPITAL, temperature=0)
        assert first.status == "completed"
        assert "Paris" in first.output_text
        assert first.usage is not None
        assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
        second = client.responses.create(
            model=MODEL, previous_response_id=first.id, input="And of Italy?", temperature=0, max_output_tokens=16
        )
        assert second.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens
        assert client.responses.retrieve(first.id).output_text == first.output_text
        items = client.responses.input_items.list(first.id)
        assert [item.role for item in items if item.type == "message"] == ["user"]
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)

    @does("streamed responses with its helper")
    def test_a_stream(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "instructions": SYSTEM, "input": CAPITAL, "temperature": 0, "store": False}
        whole = client.responses.create(**asked)
        with client.responses.stream(**asked) as stream:
            events = list(stream)
            final = stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == final.output_text == whole.output_text

    @does("responses parsed with pydantic")
    def test_parse(self, client: openai.OpenAI) -> None:
        answer = client.responses.parse(model=MODEL, input=CAPITAL, text_format=City, temperature=0)
        assert isinstance(answer.output_parsed, City)
        assert answer.output_parsed == City.model_validate_json(answer.output_text)

    @does("tools of responses")
    def test_tools(self, client: openai.OpenAI) -> None:
        tool = {"type": "function", "name": "weather", "parameters": WEATHER_SCHEMA, "strict": True}
        asked = {"model": MODEL, "temperature": 0, "tools": [tool], "parallel_tool_calls": False}
        question = {"role": "user", "content": "How warm is it in Paris?"}
        answer = client.responses.create(input=[question], tool_choice="required", **asked)
        (call,) = [item for item in answer.output if isinstance(item, ResponseFunctionToolCall)]
        assert call.name == "weather"
        Weather.model_validate_json(call.arguments)
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        after = client.responses.create(
            input=[question, *answer.output, result], tool_choice="none", max_output_tokens=16, **asked
        )
        assert after.output_text

    @does("a background response, followed and cancelled")
    def test_background(self, client: openai.OpenAI) -> None:
        begun = client.responses.create(
            model=MODEL, input="Count.", background=True, max_output_tokens=4000, extra_body={"ignore_eos": True}
        )
        assert begun.status in {"queued", "in_progress"}
        with client.responses.stream(response_id=begun.id) as stream:
            assert next(event.type for event in stream if event.type.endswith("delta")) == "response.output_text.delta"
        assert client.responses.cancel(begun.id).status == "cancelled"
        assert client.responses.retrieve(begun.id).status == "cancelled"

    @does("a response cut off by its limit")
    def test_incomplete(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(model=MODEL, input=CAPITAL, max_output_tokens=2)
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@does("embeddings")
def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "Interest rates rose again."]
    # The client asks for base64 and decodes it where nothing is stated.
    packed = client.embeddings.create(model=EMBEDDER, input=texts)
    plain = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    cat, kitten, rates = [item.embedding for item in packed.data]
    assert len(cat) == 384
    assert [item.embedding for item in plain.data] == [
        pytest.approx(vector, abs=1e-6) for vector in (cat, kitten, rates)
    ]
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-5)
    assert dot(cat, kitten) > dot(cat, rates) + 0.2


class TestBatches:
    """A file of requests, uploaded, answered and read."""

    CHAT = "/v1/chat/completions"

    def start(self, client: openai.OpenAI, lines: list[dict[str, object]]) -> Batch:
        content = "".join(
            json.dumps({"custom_id": f"line {number}", "method": "POST", "url": self.CHAT, "body": body}) + "\n"
            for number, body in enumerate(lines)
        )
        file = client.files.create(file=("requests.jsonl", content.encode()), purpose="batch")
        assert (file.purpose, file.bytes) == ("batch", len(content))
        assert client.files.retrieve(file.id).filename == "requests.jsonl"
        return client.batches.create(
            input_file_id=file.id, endpoint=self.CHAT, completion_window="24h", metadata={"of": "the clients"}
        )

    def polled(self, client: openai.OpenAI, batch: Batch) -> Batch:
        """The batch as soon as nothing happens to it any more."""

        def is_final() -> bool:
            nonlocal batch
            batch = client.batches.retrieve(batch.id)
            return batch.status in {"failed", "completed", "expired", "cancelled"}

        until(is_final, seconds=120)
        return batch

    @does("batches: upload, create, poll, the answers and errors, list, delete")
    def test_a_batch(self, client: openai.OpenAI) -> None:
        asked = {**GREEDY, "messages": MESSAGES}
        begun = self.start(client, [asked, asked, {**asked, "temperature": 9}])
        batch = self.polled(client, begun)
        assert (batch.status, batch.metadata) == ("completed", {"of": "the clients"})
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        assert {answer["custom_id"] for answer in answers} == {"line 0", "line 1"}
        for answer in answers:
            assert answer["response"]["status_code"] == 200
            assert "Paris" in answer["response"]["body"]["choices"][0]["message"]["content"]
        (refused,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
        assert (refused["custom_id"], refused["response"]["status_code"]) == ("line 2", 400)
        assert batch.id in [listed.id for listed in client.batches.list(limit=1)]
        files = {file.id for file in client.files.list(purpose="batch")}
        assert batch.input_file_id in files
        assert client.files.delete(batch.input_file_id).deleted
        assert batch.input_file_id not in {file.id for file in client.files.list()}

    @does("a batch cancelled")
    def test_cancel(self, client: openai.OpenAI) -> None:
        endless = {**GREEDY, "messages": MESSAGES, "max_tokens": 4000, "ignore_eos": True}
        begun = self.start(client, [endless, endless])
        assert client.batches.cancel(begun.id).status in {"cancelling", "cancelled"}
        assert self.polled(client, begun).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_nothing")


@does("errors")
def test_errors(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as schema:
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    assert "nonsense" not in (schema.value.param or "")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.openai_url, api_key="wrong", max_retries=0).models.list()
    raw = client.chat.completions.with_raw_response.create(messages=MESSAGES, **GREEDY)
    assert json.loads(raw.text)["id"] == raw.headers["x-request-id"]
