"""The fake worker keeps the protocol that tests of the gateway rely on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from llmserve.fleet.lease import Lease
from tests.fake_worker import GARBAGE
from tests.fleet.fakes import World, until


async def stats(lease: Lease) -> dict[str, int]:
    counters: dict[str, int] = (await lease.client.get("/stats")).json()
    return counters


async def until_running(lease: Lease, number: int) -> None:
    async with asyncio.timeout(20):
        while (await stats(lease))["running"] != number:  # noqa: ASYNC110 (it happens in another process)
            await asyncio.sleep(0.005)


def chat(stream: bool = False, more: dict[str, Any] | None = None, **script: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": json.dumps(script)}], "stream": stream, **(more or {})}


async def events(lease: Lease, body: dict[str, Any]) -> list[str]:
    answer = await lease.client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line]


async def test_a_streamed_chat_is_the_same_text_as_a_whole_one(world: World) -> None:
    lease = await world.lease("alpha")
    script = {"tokens": ["Grüß ", "Gott", "!"]}
    lines = await events(lease, chat(stream=True, more={"stream_options": {"include_usage": True}}, **script))
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    usage = chunks.pop()["usage"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    whole = (await lease.client.post("/v1/chat/completions", json=chat(**script))).json()
    assert "".join(delta.get("content", "") for delta in deltas) == "Grüß Gott!"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Grüß Gott!"}
    assert usage == whole["usage"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"


async def test_limit_choices_and_id_of_the_request_are_honoured(world: World) -> None:
    lease = await world.lease("alpha")
    body = {"prompt": "no script", "max_tokens": 2, "n": 2}
    answer = await lease.client.post("/v1/completions", json=body, headers={"X-Request-Id": "cmpl-7"})
    assert answer.json()["id"] == "cmpl-7"
    assert answer.json()["model"] == "alpha"
    assert [choice["text"] for choice in answer.json()["choices"]] == ["Hello from"] * 2
    assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}


async def test_an_error_in_a_stream_is_an_event_and_there_is_no_end_mark(world: World) -> None:
    lines = await events(await world.lease("alpha"), chat(stream=True, tokens=3, error_at=2))
    assert "error" in json.loads(lines[-1])
    assert len(lines) == 4  # role, two tokens, error


async def test_a_refusal_and_garbage(world: World) -> None:
    lease = await world.lease("alpha")
    refused = await lease.client.post("/v1/chat/completions", json=chat(status=503))
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "scripted refusal")
    garbage = await lease.client.post("/v1/chat/completions", json=chat(garbage_at=0))
    assert garbage.content == GARBAGE


async def test_bodies_are_recorded_as_they_came(world: World) -> None:
    record = world.gate("record")
    world.store.add("alpha", record=str(record), answer={"tokens": ["default"]})
    lease = await world.lease("alpha")
    body = b'{"prompt":"x" , "unusual":\t1.50}'
    answer = await lease.client.post("/v1/completions", content=body)
    assert answer.json()["choices"][0]["text"] == "default"
    seen = (await lease.client.get("/requests")).json()
    assert [entry["body"] for entry in seen] == [body.decode()]
    assert [json.loads(line) for line in record.read_text().splitlines()] == seen


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_cancels_and_is_counted(world: World, stream: bool) -> None:
    lease = await world.lease("alpha")
    request = asyncio.create_task(lease.client.post("/v1/chat/completions", json=chat(stream, hang_at=1)))
    await until_running(lease, 1)
    assert (await stats(lease))["cancelled"] == 0
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await until_running(lease, 0)
    counters = await stats(lease)
    assert (counters["started"], counters["finished"], counters["cancelled"]) == (1, 0, 1)


async def test_death_at_a_token_ends_the_stream_there(world: World) -> None:
    lease = await world.lease("alpha")
    texts: list[str] = []
    with pytest.raises(httpx2.TransportError):
        async with lease.client.stream("POST", "/v1/completions", json=_completion(die_at=2)) as answer:
            async for line in answer.aiter_lines():
                if line:
                    texts.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])
    assert texts == ["t0 ", "t1 "]
    await until(lease.died.is_set)


def _completion(**script: Any) -> dict[str, Any]:
    return {"prompt": json.dumps({"tokens": 5, "delay": 0.01, **script}), "stream": True}


async def test_a_script_with_a_mistake_is_an_error(world: World) -> None:
    lease = await world.lease("alpha")
    answer = await lease.client.post("/v1/chat/completions", json=chat(tokns=3))
    assert answer.status_code == 500
