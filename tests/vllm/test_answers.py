"""Whole answers of vLLM 0.32, as it wrote them, in the shape all engines share."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.errors import WorkerDied
from llmserve.vllm.answers import translated, usage_counts
from llmserve.vllm.requests import CHAT, COMPLETIONS
from llmserve.vllm.served_model import ServedModel

MODEL = ServedModel("smollm2:local", context=4096)
THINKING = ServedModel("smollm2:local", context=4096, reasoning_parser="qwen3")
USAGE = {
    "prompt_tokens": 37,
    "total_tokens": 45,
    "completion_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 16, "created_cache_tokens": 0, "multimodal_tokens": None},
    "completion_tokens_details": None,
}
ENTRY = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
END = {"token": "<|im_end|>", "logprob": -0.2, "bytes": [60], "top_logprobs": []}


def chat_body(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    nothing = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "reasoning": None}
    stated = {"index": 0, "logprobs": None, "finish_reason": "stop", "stop_reason": None, "token_ids": None, **choice}
    return {
        "id": "chatcmpl-req-1",
        "object": "chat.completion",
        "created": 1795553196,
        "model": "smollm2:local",
        "choices": [{**stated, "message": {"role": "assistant", "content": "Hi", **nothing, **message}}],
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0-1234",
        "usage": USAGE,
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    }


def chat_choice(body: dict[str, Any]) -> dict[str, Any]:
    answer = translated(CHAT, body, {}, "req-1", MODEL)
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def test_a_chat_answer() -> None:
    assert translated(CHAT, chat_body({}), {}, "req-1", MODEL) == {
        "id": "req-1",
        "object": "chat.completion",
        "created": 1795553196,
        "model": "smollm2:local",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 37,
            "completion_tokens": 8,
            "total_tokens": 45,
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_thoughts_have_the_name_that_clients_know() -> None:
    assert chat_choice(chat_body({"reasoning": "Hm."}))["message"]["reasoning_content"] == "Hm."


def test_how_many_tokens_were_thoughts_is_not_invented() -> None:
    assert "completion_tokens_details" not in usage_counts(USAGE, THINKING)
    told = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}}
    assert usage_counts(told, THINKING)["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_a_call_ends_as_a_call_and_has_no_text() -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    choice = chat_choice(chat_body({"content": "", "tool_calls": [call]}))
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("finish", "stop", "kept"),
    [("stop", None, [ENTRY]), ("stop", "END", [ENTRY, END]), ("length", None, [ENTRY, END])],
)
def test_the_token_that_ended_an_answer_is_none_of_its_text(finish: str, stop: str | None, kept: list[Any]) -> None:
    body = chat_body({}, logprobs={"content": [ENTRY, END]}, finish_reason=finish, stop_reason=stop)
    assert chat_choice(body)["logprobs"] == {"content": kept, "refusal": None}


def test_a_greedy_answer_is_told_as_often_as_it_was_asked_for() -> None:
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        for index, text in enumerate("ab")
    ]
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 1}}
    body = {"id": "cmpl-1", "created": 7, "model": "m", "choices": choices, "usage": usage}
    answer = translated(COMPLETIONS, body, {}, "req-1", MODEL, copies=3)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == list(enumerate("aaabbb"))
    told = answer["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (37, 24, 61)
    assert told["completion_tokens_details"] == {"reasoning_tokens": 3}


@pytest.mark.parametrize(("stop", "told"), [("END", {"stop_reason": "END"}), (2, {}), (None, {})])
def test_the_stop_string_that_ended_an_answer_is_told(stop: object, told: dict[str, str]) -> None:
    choice = chat_choice(chat_body({}, stop_reason=stop))
    assert {name: choice[name] for name in choice if name == "stop_reason"} == told


def test_an_answers_timings_have_llama_cpps_names() -> None:
    metrics = {"time_to_first_token_ms": 120.5, "generation_time_ms": 700.0, "queue_time_ms": 1.0, "mean_itl_ms": 100.0}
    answer = translated(CHAT, {**chat_body({}), "metrics": metrics}, {}, "req-1", MODEL)
    assert answer["timings"] == {
        **{"prompt_n": 21, "cache_n": 16, "prompt_ms": 120.5},
        **{"predicted_n": 8, "predicted_ms": 700.0, "predicted_per_second": 10.0},
    }
    one_token = {**metrics, "generation_time_ms": 0.0}
    usage = {**USAGE, "completion_tokens": 1}
    answer = translated(CHAT, {**chat_body({}), "usage": usage, "metrics": one_token}, {}, "req-1", MODEL)
    assert answer["timings"]["predicted_per_second"] == 0.0


@pytest.mark.parametrize("metrics", [None, {}, {"time_to_first_token_ms": None, "generation_time_ms": None}])
def test_what_was_not_measured_has_no_timings(metrics: dict[str, Any] | None) -> None:
    assert "timings" not in translated(CHAT, {**chat_body({}), "metrics": metrics}, {}, "req-1", MODEL)


def test_a_text_completion() -> None:
    choice = {"index": 1, "text": " of", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    body = {"id": "cmpl-1", "created": 7, "model": "m", "choices": [choice], "usage": USAGE}
    answer = translated(COMPLETIONS, body, {}, "req-1", MODEL)
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 1, "text": " of", "logprobs": None, "finish_reason": "length"}]


def test_tokens_have_their_spellings_where_they_were_asked_for() -> None:
    body = {"count": 1, "max_model_len": 64, "tokens": [5], "token_strs": ["a"]}
    assert translated("/tokenize", body, {"return_token_strs": True}, "req-1", MODEL) == body
    assert translated("/tokenize", {**body, "token_strs": None}, {}, "req-1", MODEL).keys() == {*body} - {"token_strs"}


def test_a_ranking_has_the_texts_that_were_asked_for() -> None:
    results = [{"index": 1, "document": {"text": "b"}, "relevance_score": 0.9}]
    body = {"id": "x", "model": "m", "results": results, "usage": {"total_tokens": 9}}
    request = {"documents": ["a", "b"], "return_documents": True}
    answer = translated("/v1/rerank", body, request, "req-1", MODEL)
    assert answer["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_answer_that_was_broken_off_is_an_error(reason: str | None) -> None:
    with pytest.raises(WorkerDied):
        chat_choice(chat_body({}, finish_reason=reason))


@pytest.mark.parametrize("body", [None, {}, {"choices": 1}, {"choices": [{}]}, []])
def test_nonsense_is_an_error(body: Any) -> None:
    with pytest.raises(WorkerDied):
        translated(CHAT, body, {}, "req-1", MODEL)
