"""langchain-openai and LiteLLM, which programs use instead of a client of their own."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import litellm
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from tests.clients.servers import EMBEDDER, KEY, MODEL, SYSTEM, Server

does = pytest.mark.does

CAPITAL = "What is the capital of France?"
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": CAPITAL}]
TEXTS = ["A cat sat on the mat.", "Interest rates rose."]


class Weather(BaseModel):
    """The weather in a city."""

    city: Annotated[str, Field(max_length=20)]
    unit: Literal["celsius", "fahrenheit"]


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": Weather.model_json_schema()}}


@pytest.mark.client("langchain-openai")
class TestLangChain:
    @pytest.fixture
    def chat(self, server: Server) -> ChatOpenAI:
        return ChatOpenAI(base_url=server.openai_url, api_key=KEY, model=MODEL, temperature=0, max_tokens=60)

    @does("invoke, stream, batch")
    def test_chat(self, chat: ChatOpenAI) -> None:
        messages = [SystemMessage(SYSTEM), HumanMessage(CAPITAL)]
        whole = chat.invoke(messages)
        parts = list(chat.stream(messages, stream_usage=True))
        assert "Paris" in whole.content
        assert "".join(str(part.content) for part in parts) == whole.content
        usage = whole.usage_metadata
        assert usage is not None
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        streamed = [part.usage_metadata for part in parts if part.usage_metadata]
        assert [one["output_tokens"] for one in streamed] == [usage["output_tokens"]]
        assert ["Paris" in str(answer.content) for answer in chat.batch([messages] * 3)] == [True] * 3

    @does("structured output")
    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_structured_output(self, chat: ChatOpenAI, method: str) -> None:
        weather = chat.with_structured_output(Weather, method=method).invoke("How warm is it in Paris, in celsius?")
        assert isinstance(weather, Weather)

    @does("tools")
    def test_tools(self, chat: ChatOpenAI) -> None:
        answer = chat.bind_tools([Weather], tool_choice="Weather").invoke("How warm is it in Paris, in celsius?")
        (call,) = answer.tool_calls
        assert call["name"] == "Weather"
        Weather.model_validate(call["args"])

    @does("the Responses API")
    def test_responses(self, server: Server) -> None:
        chat = ChatOpenAI(
            base_url=server.openai_url, api_key=KEY, model=MODEL, temperature=0, max_tokens=60, use_responses_api=True
        )
        messages = [SystemMessage(SYSTEM), HumanMessage(CAPITAL)]
        whole = chat.invoke(messages)
        assert "Paris" in whole.text
        assert "".join(part.text for part in chat.stream(messages)) == whole.text

    @does("embeddings")
    def test_embeddings(self, server: Server) -> None:
        # Texts, not the token ids of OpenAI's own models.
        embedder = OpenAIEmbeddings(
            base_url=server.openai_url, api_key=KEY, model=EMBEDDER, check_embedding_ctx_length=False
        )
        vectors = embedder.embed_documents(TEXTS)
        assert [len(vector) for vector in vectors] == [384, 384]
        assert embedder.embed_query(TEXTS[0]) == pytest.approx(vectors[0], abs=1e-5)


@pytest.mark.client("litellm")
class TestLiteLlm:
    @pytest.fixture
    def openai(self, server: Server) -> dict[str, object]:
        return {"model": f"openai/{MODEL}", "api_base": server.openai_url, "api_key": KEY, "temperature": 0}

    @does("completion, whole, streamed and async, as OpenAI's")
    def test_openai(self, openai: dict[str, object]) -> None:
        whole = litellm.completion(messages=MESSAGES, max_tokens=24, **openai)
        text = whole.choices[0].message.content
        assert "Paris" in text
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        parts = litellm.completion(messages=MESSAGES, max_tokens=24, stream=True, **openai)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == text
        again = asyncio.run(litellm.acompletion(messages=MESSAGES, max_tokens=24, **openai))
        assert "Paris" in again.choices[0].message.content

    @does("tools and schemas")
    def test_tools_and_schemas(self, openai: dict[str, object]) -> None:
        answer = litellm.completion(
            messages=MESSAGES, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, **openai
        )
        (call,) = answer.choices[0].message.tool_calls
        Weather.model_validate_json(call.function.arguments)
        parsed = litellm.completion(messages=MESSAGES, response_format=Weather, max_tokens=60, **openai)
        Weather.model_validate_json(parsed.choices[0].message.content)

    @does("completion as Anthropic's")
    def test_anthropic(self, server: Server) -> None:
        asked = {"model": f"anthropic/{MODEL}", "api_base": server.url, "api_key": KEY, "max_tokens": 24}
        whole = litellm.completion(messages=MESSAGES, temperature=0, **asked)
        assert "Paris" in whole.choices[0].message.content
        parts = litellm.completion(messages=MESSAGES, temperature=0, stream=True, **asked)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content

    @does("completion as Ollama's")
    def test_ollama(self, server: Server) -> None:
        asked = {"model": f"ollama_chat/{MODEL}", "api_base": server.ollama_url, "api_key": KEY, "max_tokens": 24}
        whole = litellm.completion(messages=MESSAGES, temperature=0, **asked)
        assert "Paris" in whole.choices[0].message.content
        parts = litellm.completion(messages=MESSAGES, temperature=0, stream=True, **asked)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content

    @does("embedding")
    def test_embedding(self, server: Server) -> None:
        answer = litellm.embedding(
            model=f"openai/{EMBEDDER}", input=TEXTS, api_base=server.openai_url, api_key=KEY, encoding_format="float"
        )
        assert [len(item["embedding"]) for item in answer.data] == [384, 384]

    @does("errors")
    def test_errors(self, openai: dict[str, object]) -> None:
        with pytest.raises(litellm.NotFoundError):
            litellm.completion(messages=MESSAGES, **{**openai, "model": "openai/nothing:here"})
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(messages=MESSAGES, **{**openai, "api_key": "wrong"})
