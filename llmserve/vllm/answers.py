"""vLLM's whole answers in the shape that all engines here share (`llmserve.openai.responses`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llmserve.errors import WorkerDied
from llmserve.vllm.served_model import ServedModel

# How an answer ended, as vLLM says it; "abort" and "error" are no ends of an answer.
_FINISH_REASONS: Mapping[str, str] = MappingProxyType(
    {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "repetition": "stop"}
)


def translated(
    path: str, body: Any, request: Mapping[str, Any], identity: str, model: ServedModel, copies: int = 1
) -> dict[str, Any]:
    """The answer of `path` to the translated `request`; `identity` becomes the answer's id.

    Each choice is told `copies` times.

    Raises `WorkerDied` for one that makes no sense, or was broken off.
    """
    try:
        match path:
            case "/v1/chat/completions":
                chats = copied([_chat_choice(each) for each in body["choices"]], copies)
                return _answer("chat.completion", body, identity, model, chats, copies)
            case "/v1/completions":
                texts = copied([_text_choice(each) for each in body["choices"]], copies)
                return _answer("text_completion", body, identity, model, texts, copies)
            case "/v1/rerank":
                return _ranking(body, request, model)
            case "/tokenize":
                written = ("token_strs",) if request.get("return_token_strs") else ()
                return {field: body[field] for field in ("count", "max_model_len", "tokens", *written)}
            case _:
                return {"prompt": body["prompt"], "content": body["prompt"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise WorkerDied("the worker's answer makes no sense", code="worker_protocol_error") from error


def finish_reason(choice: Mapping[str, Any], *, calls: bool = False) -> str:
    """Why a finished choice ended. Raises `WorkerDied` where it was broken off."""
    stated = choice.get("finish_reason")
    reason = _FINISH_REASONS.get(stated) if isinstance(stated, str) else None
    if reason is None:
        raise WorkerDied("the worker broke the answer off", code="worker_error")
    # A call that was asked for by name ends with "stop" there.
    return "tool_calls" if calls and reason == "stop" else reason


def chat_logprobs(choice: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """The `logprobs` of a chat choice, or of a piece of one, whose text is `text`.

    The token that ended it belongs to no text, and is left out.
    """
    logprobs = choice.get("logprobs")
    if logprobs is None:
        return None
    entries = logprobs.get("content")
    ended = choice.get("finish_reason") == "stop" and choice.get("stop_reason") is None
    if ended and entries and not text.endswith(entries[-1]["token"]):
        entries = entries[:-1]
    return {"content": entries, "refusal": None}


def stop_string(choice: Mapping[str, Any]) -> dict[str, str]:
    """The field that says which stop string ended a choice; nothing where none did (a token has a number there)."""
    stated = choice.get("stop_reason")
    return {"stop_reason": stated} if isinstance(stated, str) else {}


def timings(metrics: Mapping[str, Any] | None, counts: Mapping[str, Any]) -> dict[str, Any]:
    """The field `timings` as llama.cpp has it, of an answer with these `metrics` of vLLM's and these `usage_counts`.

    Nothing where it measured nothing: an answer of several choices has no time of its own.
    """
    stated = metrics or {}
    prompt_ms, predicted_ms = stated.get("time_to_first_token_ms"), stated.get("generation_time_ms")
    if prompt_ms is None or predicted_ms is None:
        return {}
    cached, written = counts["prompt_tokens_details"]["cached_tokens"], counts["completion_tokens"]
    # The first token comes out of the prompt's own step, so the answer's time covers the others.
    speed = (written - 1) / predicted_ms * 1000 if predicted_ms > 0 else 0.0
    return {
        "timings": {
            "prompt_n": counts["prompt_tokens"] - cached,
            "cache_n": cached,
            "prompt_ms": round(prompt_ms, 3),
            "predicted_n": written,
            "predicted_ms": round(predicted_ms, 3),
            "predicted_per_second": round(speed, 3),
        }
    }


def copied(choices: list[dict[str, Any]], copies: int) -> list[dict[str, Any]]:
    """Each choice so many times, numbered as if each had been computed."""
    if copies == 1:
        return choices
    return [{**choice, "index": choice["index"] * copies + copy} for choice in choices for copy in range(copies)]


def counts_of(counts: Mapping[str, Any], copies: int) -> dict[str, Any]:
    """The `usage_counts` of one answer, for so many of them; a prompt counts once."""
    written = counts["completion_tokens"] * copies
    more = {"completion_tokens": written, "total_tokens": counts["prompt_tokens"] + written}
    details = counts.get("completion_tokens_details")
    if details is not None:
        more["completion_tokens_details"] = {name: number * copies for name, number in details.items()}
    return {**counts, **more}


def usage_counts(usage: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """Token counts. How many were thoughts is told only where it is known."""
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if thoughts is None and model.reasoning_parser is None:
        thoughts = 0
    if thoughts is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": thoughts}
    return counts


def _chat_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    return {
        "index": choice["index"],
        "message": _message(message),
        "logprobs": chat_logprobs(choice, message.get("content") or ""),
        "finish_reason": finish_reason(choice, calls=bool(message.get("tool_calls"))),
        **stop_string(choice),
    }


def _text_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": choice["index"],
        "text": choice["text"],
        "logprobs": choice.get("logprobs"),
        "finish_reason": finish_reason(choice),
        **stop_string(choice),
    }


def _ranking(body: Any, request: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    results: list[dict[str, Any]] = [
        {"index": result["index"], "relevance_score": result["relevance_score"]} for result in body["results"]
    ]
    if request.get("return_documents"):
        for result in results:
            result["document"] = {"text": request["documents"][result["index"]]}
    tokens = body["usage"]["total_tokens"]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model.name, "results": results, "usage": usage}


def _answer(
    kind: str, body: Any, identity: str, model: ServedModel, choices: list[dict[str, Any]], copies: int
) -> dict[str, Any]:
    counts = usage_counts(body["usage"], model)
    return {
        "id": identity,
        "object": kind,
        "created": body["created"],
        "model": model.name,
        "system_fingerprint": None,
        "choices": choices,
        "usage": counts if copies == 1 else counts_of(counts, copies),
        **timings(body.get("metrics"), counts),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    content = message.get("content")
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": (content or None) if calls else (content or ""),
        "refusal": None,
    }
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        answer["reasoning_content"] = reasoning
    if calls:
        answer["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": _function(call["function"])} for call in calls
        ]
    return answer


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}
