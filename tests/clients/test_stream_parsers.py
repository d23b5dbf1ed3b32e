"""What the official clients' own parsers make of the streams of each dialect, whatever happens in them.

The worker is fake and says what the prompt scripts; gateway, translation and parsers are the real ones. Each parser
checks the order of events and builds the whole answer, which must be what was said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem

from tests.clients.servers import Server
from tests.support import until

every_stream = pytest.mark.does("every kind of stream")
every_stream_of_responses = pytest.mark.does("every kind of stream of responses")

MODEL = "tiny:local"
TEXT = ["Hel", "lo", " wörld", " 🦙", "\n"]
THOUGHTS = [{"reasoning_content": "let me "}, {"reasoning_content": "see"}]
CALLS = [
    {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "add", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1,'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ' "b": 2}'}}]},
    {"tool_calls": [{"index": 1, "id": "call_b", "type": "function", "function": {"name": "now", "arguments": ""}}]},
    {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
NONSENSE = {"type": "nonsense"}


def scripted(tokens: list[Any], **script: Any) -> list[dict[str, str]]:
    """The messages of a request that the worker answers with these tokens."""
    return [{"role": "user", "content": json.dumps({"tokens": tokens, **script})}]


def running(server: Server) -> int:
    """How many requests the model has."""
    models = httpx2.get(f"{server.url}/admin/ps").json()["models"]
    return sum(int(model["leases"]) for model in models)


@pytest.mark.client("anthropic")
class TestMessages:
    tools = ({"name": "add", "input_schema": SCHEMA}, {"name": "now", "input_schema": {"type": "object"}})

    @pytest.fixture
    def client(self, fake_gateway: Server) -> Iterator[anthropic.Anthropic]:
        with anthropic.Anthropic(base_url=fake_gateway.url, api_key="any", max_retries=0, timeout=60) as client:
            yield client

    def follow(self, client: anthropic.Anthropic, tokens: list[Any], **more: Any) -> anthropic.types.Message:
        """The message that the parser builds, equal to the one that comes whole, and whose events have their order."""
        fields = {"model": MODEL, "max_tokens": 100, "tools": self.tools, **more.pop("fields", {})}
        with client.messages.stream(messages=scripted(tokens, **more), **fields) as stream:
            raw = [event.type for event in stream if event.type.startswith(("message_", "content_block_"))]
            message = stream.get_final_message()
        assert (raw[0], raw[-2:]) == ("message_start", ["message_delta", "message_stop"])
        blocks = [kind for kind in raw if kind in {"content_block_start", "content_block_stop"}]
        assert blocks == ["content_block_start", "content_block_stop"] * len(message.content)
        assert message.usage.output_tokens == min(len(tokens), fields["max_tokens"])
        return message

    @every_stream
    def test_text(self, client: anthropic.Anthropic) -> None:
        message = self.follow(client, TEXT)
        assert [block.text for block in message.content if block.type == "text"] == ["".join(TEXT)]
        assert message.stop_reason == "end_turn"

    @every_stream
    def test_tool_calls(self, client: anthropic.Anthropic) -> None:
        message = self.follow(client, ["Wait.", *CALLS], finish_reason="tool_calls")
        text, add, now = message.content
        assert (text.type, text.text) == ("text", "Wait.")
        assert (add.type, add.name, add.input) == ("tool_use", "add", {"a": 1, "b": 2})
        assert (now.type, now.name, now.input) == ("tool_use", "now", {})
        assert message.stop_reason == "tool_use"

    @every_stream
    def test_reasoning(self, client: anthropic.Anthropic) -> None:
        thinking, text = self.follow(client, [*THOUGHTS, "42"]).content
        assert (thinking.type, thinking.thinking) == ("thinking", "let me see")
        assert (text.type, text.text) == ("text", "42")

    @every_stream
    @pytest.mark.parametrize("tokens", [TEXT, ["Wait.", *CALLS], [*THOUGHTS, "42"]])
    def test_length(self, client: anthropic.Anthropic, tokens: list[Any]) -> None:
        """Cut off after the second token, wherever that is."""
        message = self.follow(client, tokens, fields={"max_tokens": 2})
        assert message.stop_reason == "max_tokens"
        assert len(message.content) == (2 if tokens[0] == "Wait." else 1)

    @every_stream
    def test_refusal_of_a_bad_schema(self, client: anthropic.Anthropic) -> None:
        asked = {"model": MODEL, "max_tokens": 9, "messages": scripted(TEXT)}
        with (
            pytest.raises(anthropic.BadRequestError) as refused,
            client.messages.stream(output_config={"format": {"type": "json_schema", "schema": NONSENSE}}, **asked),
        ):
            pass
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        assert "type" in refused.value.message

    @every_stream
    def test_cancel(self, fake_gateway: Server, client: anthropic.Anthropic, tmp_path: Path) -> None:
        asked = {"model": MODEL, "max_tokens": 9, "messages": scripted(TEXT, gate=str(tmp_path / "never"), gate_at=2)}
        with client.messages.stream(**asked) as stream:
            assert next(stream.text_stream) == TEXT[0]
            assert running(fake_gateway) == 1
        until(lambda: running(fake_gateway) == 0)

    @every_stream
    def test_death_of_the_worker(self, client: anthropic.Anthropic) -> None:
        asked = {"model": MODEL, "max_tokens": 9, "messages": scripted(TEXT, die_at=2)}
        said = []
        with pytest.raises(anthropic.APIStatusError) as died, client.messages.stream(**asked) as stream:
            said.extend(stream.text_stream)
        assert "".join(said) == "".join(TEXT[:2])
        error = died.value.body["error"]
        assert error["type"] == "api_error"
        assert "SIGKILL" in error["message"]
        # And the next request has a worker again.
        self.follow(client, TEXT)


@pytest.mark.client("openai")
class TestResponses:
    tools = (
        {"type": "function", "name": "add", "parameters": SCHEMA, "strict": False},
        {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}, "strict": False},
    )

    @pytest.fixture
    def client(self, fake_gateway: Server) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{fake_gateway.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
            yield client

    def follow(self, client: openai.OpenAI, tokens: list[Any], **more: Any) -> Response:
        """The response that the parser builds: that of the last event, and the deltas say the same."""
        fields = {"model": MODEL, "tools": self.tools, **more.pop("fields", {})}
        with client.responses.stream(input=scripted(tokens, **more), **fields) as stream:
            events = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
        final: Response = events[-1].response
        added = [event.item.id for event in events if event.type == "response.output_item.added"]
        done = [event.item for event in events if event.type == "response.output_item.done"]
        assert added == [item.id for item in done] == [item.id for item in final.output]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == final.output_text
        arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
        assert arguments == "".join(
            item.arguments for item in final.output if isinstance(item, ResponseFunctionToolCall)
        )
        return final

    @every_stream_of_responses
    def test_text(self, client: openai.OpenAI) -> None:
        final = self.follow(client, TEXT)
        assert (final.status, final.output_text) == ("completed", "".join(TEXT))
        assert final.usage is not None
        assert final.usage.output_tokens == len(TEXT)

    @every_stream_of_responses
    def test_tool_calls(self, client: openai.OpenAI) -> None:
        text, add, now = self.follow(client, ["Wait.", *CALLS], finish_reason="tool_calls").output
        assert isinstance(text, ResponseOutputMessage)
        assert isinstance(add, ResponseFunctionToolCall)
        assert isinstance(now, ResponseFunctionToolCall)
        assert (add.name, json.loads(add.arguments), add.call_id) == ("add", {"a": 1, "b": 2}, "call_a")
        assert (now.name, json.loads(now.arguments), now.call_id) == ("now", {}, "call_b")

    @every_stream_of_responses
    def test_reasoning(self, client: openai.OpenAI) -> None:
        thoughts, text = self.follow(client, [*THOUGHTS, "42"]).output
        assert isinstance(thoughts, ResponseReasoningItem)
        assert [part.text for part in thoughts.content or []] == ["let me see"]
        assert isinstance(text, ResponseOutputMessage)

    @every_stream_of_responses
    @pytest.mark.parametrize("tokens", [TEXT, ["Wait.", *CALLS], [*THOUGHTS, "42"]])
    def test_length(self, client: openai.OpenAI, tokens: list[Any]) -> None:
        final = self.follow(client, tokens, fields={"max_output_tokens": 2})
        assert final.status == "incomplete"
        assert final.incomplete_details is not None
        assert final.incomplete_details.reason == "max_output_tokens"

    @every_stream_of_responses
    def test_refusal_of_a_bad_schema(self, client: openai.OpenAI) -> None:
        format = {"type": "json_schema", "name": "x", "schema": NONSENSE}
        with (
            pytest.raises(openai.BadRequestError) as refused,
            client.responses.stream(model=MODEL, input=scripted(TEXT), text={"format": format}),
        ):
            pass
        assert refused.value.param == "text.format.schema.type"

    @every_stream_of_responses
    def test_cancel(self, fake_gateway: Server, client: openai.OpenAI, tmp_path: Path) -> None:
        asked = scripted(TEXT, gate=str(tmp_path / "never"), gate_at=2)
        with client.responses.stream(model=MODEL, input=asked) as stream:
            assert next(event.delta for event in stream if event.type == "response.output_text.delta") == TEXT[0]
            assert running(fake_gateway) == 1
        until(lambda: running(fake_gateway) == 0)

    @every_stream_of_responses
    def test_cancel_in_the_background(self, client: openai.OpenAI, tmp_path: Path) -> None:
        asked = scripted(TEXT, gate=str(tmp_path / "never"), gate_at=2)
        events = []
        with client.responses.stream(model=MODEL, input=asked, background=True) as stream:
            for event in stream:
                events.append(event)
                if event.type == "response.output_text.delta":
                    assert client.responses.cancel(events[0].response.id).status == "cancelled"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert client.responses.retrieve(events[0].response.id).status == "cancelled"

    @every_stream_of_responses
    def test_death_of_the_worker(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model=MODEL, input=scripted(TEXT, die_at=2)) as stream:
            events = list(stream)
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
        final = events[-1]
        assert final.type == "response.failed"
        assert final.response.status == "failed"
        assert final.response.error is not None
        assert "SIGKILL" in final.response.error.message
        self.follow(client, TEXT)


@pytest.mark.client("ollama")
class TestOllama:
    @pytest.fixture
    def client(self, fake_gateway: Server) -> ollama.Client:
        return ollama.Client(host=fake_gateway.url, timeout=60)

    @every_stream
    def test_thoughts_text_and_tool_calls(self, client: ollama.Client) -> None:
        messages = scripted([*THOUGHTS, "Wait.", *CALLS], finish_reason="tool_calls")
        tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "now")]
        parts = list(client.chat(model=MODEL, messages=messages, tools=tools, think=True, stream=True))
        assert "".join(part.message.thinking or "" for part in parts) == "let me see"
        assert "".join(part.message.content or "" for part in parts) == "Wait."
        calls = [call.function for part in parts for call in part.message.tool_calls or []]
        assert [(call.name, call.arguments) for call in calls] == [("add", {"a": 1, "b": 2}), ("now", {})]
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]

    @every_stream
    def test_length(self, client: ollama.Client) -> None:
        asked = {"model": MODEL, "messages": scripted(TEXT), "options": {"num_predict": 2}}
        parts = list(client.chat(stream=True, **asked))
        assert "".join(part.message.content or "" for part in parts) == "Hello"
        assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 2)

    @every_stream
    def test_refusal_of_a_bad_schema(self, client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError) as refused:
            list(client.chat(model=MODEL, messages=scripted(TEXT), format=NONSENSE, stream=True))
        assert refused.value.status_code == 400
        assert "format.type" in refused.value.error

    @every_stream
    def test_death_of_the_worker(self, client: ollama.Client) -> None:
        said = []
        with pytest.raises(ollama.ResponseError) as died:
            for part in client.chat(model=MODEL, messages=scripted(TEXT, die_at=2), stream=True):
                said.append(part.message.content)
        assert "".join(said) == "Hello"
        assert "SIGKILL" in died.value.error
