"""ollama-python on the port that is Ollama's: chat, generate, embed, and everything about models."""

from __future__ import annotations

import math
from collections.abc import Iterator

import httpx
import ollama
import pytest
from pydantic import BaseModel

from tests.clients.servers import EMBEDDER, HUB_FILE, HUB_REPOSITORY, KEY, MODEL, SYSTEM, Server
from tests.fake_hub import FakeHub

pytestmark = pytest.mark.client("ollama")
does = pytest.mark.does

MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 24}


class Size(BaseModel):
    width: int
    height: int


@pytest.fixture(scope="module")
def client(server: Server) -> ollama.Client:
    return ollama.Client(host=server.ollama_url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)


@pytest.fixture
def copy(client: ollama.Client) -> Iterator[str]:
    """A further name of the starter model, for one test."""
    client.copy(MODEL, "copy:one")
    yield "copy:one"
    if "copy:one" in names(client):
        client.delete("copy:one")


def names(client: ollama.Client) -> set[str | None]:
    return {model.model for model in client.list().models}


@does("chat, whole and streamed")
def test_chat(client: ollama.Client) -> None:
    whole = client.chat(model=MODEL, messages=MESSAGES, options=GREEDY)
    parts = list(client.chat(model=MODEL, messages=MESSAGES, options=GREEDY, stream=True))
    assert "Paris" in (whole.message.content or "")
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count
    assert 0 < (whole.eval_duration or 0) <= (whole.total_duration or 0)


@does("functions as tools")
def test_tools(client: ollama.Client) -> None:
    def weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: its name
        """
        return city

    question = [{"role": "user", "content": "How warm is it in Paris? Call the function weather."}]
    answer = client.chat(model=MODEL, messages=question, tools=[weather], options={"temperature": 0, "num_predict": 60})
    # Whether it calls is the model's choice: `test_stream_parsers.py` has calls for certain.
    for call in answer.message.tool_calls or []:
        assert call.function.name == "weather"
        assert isinstance(call.function.arguments["city"], str)
    assert answer.message.tool_calls or answer.message.content


@does("an answer after a pydantic schema")
def test_a_schema(client: ollama.Client) -> None:
    answer = client.chat(
        model=MODEL,
        messages=[{"role": "user", "content": "How large is a door, in centimetres?"}],
        format=Size.model_json_schema(),
        options={"temperature": 0, "num_predict": 60},
    )
    assert Size.model_validate_json(answer.message.content or "").width >= 0


@does("generate, whole and streamed")
def test_generate(client: ollama.Client) -> None:
    asked = {"model": MODEL, "prompt": "What is the capital of France?", "system": SYSTEM, "options": GREEDY}
    whole = client.generate(**asked)
    assert "".join(part.response for part in client.generate(stream=True, **asked)) == whole.response
    raw = client.generate(
        model=MODEL, prompt="The capital of France is", raw=True, options={**GREEDY, "num_predict": 2}
    )
    assert (raw.done_reason, raw.eval_count) == ("length", 2)


@does("embed")
def test_embed(client: ollama.Client) -> None:
    several = client.embed(model=EMBEDDER, input=["A cat sat on the mat.", "Interest rates rose."])
    one = client.embed(model=EMBEDDER, input="A cat sat on the mat.")
    assert [len(vector) for vector in several.embeddings] == [384, 384]
    assert math.hypot(*one.embeddings[0]) == pytest.approx(1, abs=1e-5)
    assert one.embeddings[0] == pytest.approx(several.embeddings[0], abs=1e-5)
    old = client.embeddings(model=EMBEDDER, prompt="A cat sat on the mat.")
    assert old.embedding == pytest.approx(one.embeddings[0], abs=1e-5)


@does("list, show, ps")
def test_models(client: ollama.Client) -> None:
    assert names(client) >= {MODEL, EMBEDDER}
    shown = client.show(MODEL)
    assert shown.details is not None
    assert shown.details.format == "gguf"
    assert shown.capabilities is not None
    assert {"completion", "tools"} <= set(shown.capabilities)
    assert client.show(EMBEDDER).capabilities == ["embedding"]
    client.generate(model=MODEL, prompt="Hi", keep_alive="10m", options={"num_predict": 1})
    (running,) = [model for model in client.ps().models if model.model == MODEL]
    assert running.size
    assert running.expires_at is not None


@does("copy, create, delete")
def test_names_of_models(client: ollama.Client, copy: str) -> None:
    assert copy in names(client)
    progress = client.create(
        model="pirate:one", from_=copy, system="You are a pirate.", parameters={"temperature": 0}, stream=True
    )
    assert [part.status for part in progress][-1] == "success"
    assert client.show("pirate:one").modelfile is not None
    plain = client.chat(model=copy, messages=MESSAGES[1:], options={"num_predict": 1})
    pirate = client.chat(model="pirate:one", messages=MESSAGES[1:], options={"num_predict": 1})
    assert pirate.prompt_eval_count != plain.prompt_eval_count
    # It is loaded, and makes way for another of its name; what was not made like this does not.
    assert client.create(model="pirate:one", from_="pirate:one", system="You are a pirate of old.").status == "success"
    older = client.chat(model="pirate:one", messages=MESSAGES[1:], options={"num_predict": 1})
    assert (older.prompt_eval_count or 0) > (pirate.prompt_eval_count or 0)
    with pytest.raises(ollama.ResponseError) as taken:
        client.create(model=copy, from_="pirate:one")
    assert taken.value.status_code == 409
    for name in ("pirate:one", copy):
        assert client.delete(name).status == "success"
    assert names(client).isdisjoint({"pirate:one", copy})
    with pytest.raises(ollama.ResponseError) as missing:
        client.show(copy)
    assert missing.value.status_code == 404


@does("pull with progress")
def test_pull(client: ollama.Client, hub: FakeHub) -> None:
    name = f"hf.co/{HUB_REPOSITORY}:{HUB_FILE}"
    before = names(client)
    parts = list(client.pull(name, stream=True))
    assert parts[-1].status == "success"
    size = len(next(iter(hub.repositories[HUB_REPOSITORY].commits.values()))[HUB_FILE])
    assert {part.total for part in parts if part.total is not None} == {size}
    done = [part.completed for part in parts if part.completed is not None]
    assert done == sorted(done)
    (pulled,) = names(client) - before
    assert len(client.embed(model=str(pulled), input="A cat.").embeddings[0]) == 384
    assert client.pull(str(pulled)).status == "success"
    client.delete(str(pulled))
    assert names(client) == before
    with pytest.raises(ollama.ResponseError) as missing:
        client.pull("hf.co/owner/nothing")
    assert "owner/nothing" in missing.value.error


@does("errors")
def test_errors(server: Server, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat(model="nothing:here", messages=MESSAGES)
    assert missing.value.status_code == 404
    assert "nothing:here" in missing.value.error
    with pytest.raises(ollama.ResponseError) as stranger:
        ollama.Client(host=server.ollama_url).list()
    assert stranger.value.status_code == 401
    assert httpx.get(server.ollama_url, headers={"Authorization": f"Bearer {KEY}"}).text == "Ollama is running"
