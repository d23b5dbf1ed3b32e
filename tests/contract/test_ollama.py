"""Ollama's API on both engines: the same objects, the same lines, the same errors."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.contract.asked import QUESTION, SCHEMA, SYSTEM_TEXT, TOO_LONG, WEATHER, follows
from tests.contract.servers import Server

ENDS = {"done", "done_reason", "total_duration", "prompt_eval_count", "eval_count"}
DURATIONS = {"load_duration", "prompt_eval_duration", "eval_duration"}
SYSTEM = {"role": "system", "content": SYSTEM_TEXT}


def ask(server: Server, path: str, *, options: dict[str, Any] | None = None, **fields: Any) -> httpx2.Response:
    chosen = {"temperature": 0, "num_predict": 16, **(options or {})}
    return server.http.post(path, json={"model": server.model, "stream": False, "options": chosen, **fields})


def chat(server: Server, said: Any, **fields: Any) -> dict[str, Any]:
    """The parsed answer to `/api/chat`, which must be whole and have the shape of Ollama's."""
    answer = ask(server, "/api/chat", messages=messages_of(said), **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    told: dict[str, Any] = answer.json()
    assert told.keys() - {"logprobs"} == ENDS | DURATIONS | {"model", "created_at", "message"}
    assert (told["model"], told["done"], told["message"]["role"]) == (server.model, True, "assistant")
    return told


def generate(server: Server, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = ask(server, "/api/generate", prompt=prompt, **fields)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told.keys() == ENDS | DURATIONS | {"model", "created_at", "response"}
    return told


def lines_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def messages_of(said: Any) -> Any:
    return [SYSTEM, {"role": "user", "content": said}] if isinstance(said, str) else said


def refused(answer: httpx2.Response, status: int = 400) -> str:
    """The message of an error, which must have this status and the dialect's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    return str(body["error"])


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_whole_chat(server: Server) -> None:
    told = chat(server, QUESTION)
    assert "Paris" in told["message"]["content"]
    assert told["done_reason"] == "stop"
    assert 0 < told["eval_count"] <= 16
    assert told["prompt_eval_count"] > 10


def test_an_answers_durations_are_parts_of_the_whole(server: Server) -> None:
    told = chat(server, QUESTION)
    parts = [told[name] for name in DURATIONS]
    assert min(told["prompt_eval_duration"], told["eval_duration"]) > 0
    assert sum(parts) <= told["total_duration"]


def test_the_lines_of_a_chat_build_it(server: Server) -> None:
    whole = chat(server, QUESTION)
    *pieces, last = lines_of(ask(server, "/api/chat", messages=messages_of(QUESTION), stream=True))
    assert len(pieces) > 1
    assert all(line["done"] is False and line["message"]["role"] == "assistant" for line in pieces)
    assert "".join(line["message"]["content"] for line in pieces) == whole["message"]["content"]
    assert last.keys() == ENDS | DURATIONS | {"model", "created_at", "message"}
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert (last["eval_count"], last["prompt_eval_count"]) == (whole["eval_count"], whole["prompt_eval_count"])


def test_a_text_is_generated_from_a_prompt(server: Server) -> None:
    whole = generate(server, QUESTION, system=SYSTEM_TEXT)
    assert whole["response"] == chat(server, QUESTION)["message"]["content"]
    *pieces, last = lines_of(ask(server, "/api/generate", prompt=QUESTION, system=SYSTEM_TEXT, stream=True))
    assert "".join(line["response"] for line in pieces) == whole["response"]
    assert (last["done_reason"], last["eval_count"]) == ("stop", whole["eval_count"])


def test_a_raw_prompt_is_gone_on_with(server: Server) -> None:
    told = generate(server, "The capital of France is", raw=True, options={"num_predict": 4})
    assert "Paris" in told["response"]
    assert (told["done_reason"], told["eval_count"]) == ("length", 4)


def test_without_a_prompt_the_model_is_loaded(server: Server) -> None:
    told = ask(server, "/api/generate").json()
    assert (told["done"], told["done_reason"], told["response"]) == (True, "load", "")


# --- what a request can ask for --------------------------------------------------------------------------------------


def test_options_are_honoured(server: Server) -> None:
    whole = chat(server, QUESTION)["message"]["content"]
    stopped = chat(server, QUESTION, options={"stop": ["never", "Paris"]})
    assert (stopped["message"]["content"], stopped["done_reason"]) == (whole.partition("Paris")[0], "stop")
    cut = chat(server, QUESTION, options={"num_predict": 2})
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 2)

    def drawn(seed: int) -> str:
        options = {"temperature": 1.5, "seed": seed, "top_k": 0, "top_p": 1.0, "num_predict": 12}
        return str(chat(server, "Write a line about the sea.", options=options)["message"]["content"])

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_what_clients_always_send_is_accepted(server: Server) -> None:
    options = {"num_ctx": 4096, "num_keep": 4, "tfs_z": 1.0, "typical_p": 1.0, "mirostat": 0, "repeat_penalty": 1.0}
    told = chat(server, QUESTION, options=options, think=False, keep_alive="5m", truncate=True)
    assert "Paris" in told["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_schema(server: Server, stream: bool) -> None:
    fields: dict[str, Any] = {"format": SCHEMA, "options": {"num_predict": 60}}
    if stream:
        asked = messages_of("Describe Paris as JSON.")
        lines = lines_of(ask(server, "/api/chat", messages=asked, stream=True, **fields))
        text = "".join(line["message"]["content"] for line in lines)
    else:
        text = chat(server, "Describe Paris as JSON.", **fields)["message"]["content"]
    assert follows(json.loads(text), SCHEMA)


def test_an_answer_is_json(server: Server) -> None:
    told = generate(server, "Describe Paris in one short JSON object.", format="json", options={"num_predict": 40})
    text = told["response"].strip()
    assert text.startswith("{")
    # A small model may not find the end of its object.
    assert told["done_reason"] == "length" or isinstance(json.loads(text), dict)


def test_log_probabilities_belong_to_the_text(server: Server) -> None:
    told = chat(server, QUESTION, logprobs=True, top_logprobs=2)
    assert "".join(entry["token"] for entry in told["logprobs"]) == told["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in told["logprobs"])


def test_a_tools_result_is_read(server: Server) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}}
    said = [
        {"role": "user", "content": "How warm is it in Paris, in celsius?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "21 degrees"},
    ]
    told = chat(server, said, tools=[{"type": "function", "function": WEATHER}])
    calls = told["message"].get("tool_calls", [])
    assert told["message"]["content"].strip() or calls
    assert all(isinstance(made["function"]["arguments"], dict) for made in calls)


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_described(server: Server) -> None:
    listed = {model["name"]: model for model in server.http.get("/api/tags").json()["models"]}
    details = listed[server.model]["details"]
    assert (details["family"], details["parameter_size"]) == ("llama", "134.5M")
    shown = server.http.post("/api/show", json={"model": server.model}).json()
    assert shown["details"] == details
    assert shown["model_info"]["llama.embedding_length"] == 576
    assert shown["capabilities"] == ["completion", "tools"]
    assert "<|im_start|>" in shown["template"]


def test_a_loaded_model_is_listed(server: Server) -> None:
    chat(server, QUESTION)
    (running,) = server.http.get("/api/ps").json()["models"]
    assert (running["name"], running["size_vram"]) == (server.model, 0)
    assert running["size"] > running["context_length"] > 0


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_what_exceeds_the_context_is_refused(server: Server, path: str, stream: bool) -> None:
    asked = {"prompt": TOO_LONG} if path == "/api/generate" else {"messages": messages_of(TOO_LONG)}
    assert "context is" in refused(ask(server, path, stream=stream, **asked))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"temperature": 3}}, "options.temperature"),
        ({"options": {"logit_bias": {"99999999": 1}}}, "vocab"),
        ({"format": "xml"}, "format"),
        ({"messages": [{"role": "nobody", "content": "Hi"}]}, "messages[0].role"),
        ({"format": {"type": "no such type"}}, "schema"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Server, fields: dict[str, Any], named: str) -> None:
    assert named in refused(ask(server, "/api/chat", **{"messages": messages_of("Hi"), **fields}))


def test_a_generating_model_makes_no_embeddings(server: Server) -> None:
    for path, field in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        answer = server.http.post(path, json={"model": server.model, field: "Hi"})
        assert server.model in refused(answer)


def test_an_unknown_model_is_not_found(server: Server) -> None:
    answer = ask(server, "/api/chat", messages=messages_of("Hi"), **{"model": "no-such-model:1b"})
    assert "no-such-model" in refused(answer, 404)
