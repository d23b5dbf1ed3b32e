"""A response while it is being written: the object, and the events that tell how it changes.

    response.created, response.in_progress,
    (response.output_item.added, what happens in the item ..., response.output_item.done) ...,
    response.completed or response.incomplete or response.failed

A response in the background is `queued` before it is in progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmserve.dialects.chat_events import (
    CallArguments,
    CallStart,
    ChatEvent,
    Content,
    Counts,
    Done,
    Failed,
    Finish,
    Thought,
)
from llmserve.dialects.responses.items import item_id
from llmserve.dialects.responses.requests import ResponsesRequest

Event = dict[str, Any]

# Statuses of a response that changes no more.
FINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})


def new_response(request: ResponsesRequest, id: str, created_at: int) -> dict[str, Any]:
    """The response to `request` before anything of it is written."""
    form = request.text.format if request.text is not None else None
    shown_form = {"type": "text"} if form is None else form.model_dump(exclude_none=True, by_alias=True)
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": "queued" if request.background else "in_progress",
        "background": request.background,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning is not None else None, "summary": None},
        "service_tier": "default",
        "store": request.store,
        "temperature": request.temperature,
        "text": {"format": shown_form},
        "tool_choice": request.tool_choice,
        "tools": [{"type": "function", **_tool(tool.model_dump(exclude_none=True))} for tool in request.tools],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _tool(stated: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": None, "strict": False, **stated}


def ended(response: dict[str, Any], status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`response` as one that ended otherwise than by being written: `cancelled`, or `failed` with this error."""
    shown = {"code": "server_error", "message": str(error["message"])} if error is not None else None
    return {**response, "status": status, "error": shown}


class ResponseWriter:
    """Writes one response from what its worker says. `response` is the object as it stands."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._item: dict[str, Any] | None = None
        self._finish = Finish("stop")
        self._counts: Counts | None = None
        self._begun = False

    @property
    def is_final(self) -> bool:
        return self.response["status"] in FINAL

    def begin(self) -> Iterable[Event]:
        """The events before anything is written; none the second time."""
        if self._begun:
            return
        self._begun = True
        yield self._state("response.created")
        if self.response["status"] == "queued":
            yield self._state("response.queued")
            self.response["status"] = "in_progress"
        yield self._state("response.in_progress")

    def write(self, event: ChatEvent) -> Iterable[Event]:
        """What `event` changes."""
        yield from self.begin()
        match event:
            case Thought(text):
                yield from self._in_text("reasoning", "reasoning_text")
                yield self._delta("response.reasoning_text.delta", "content", text)
            case Content(text, logprobs):
                yield from self._in_text("message", "output_text")
                yield self._delta("response.output_text.delta", "content", text, logprobs)
            case CallStart(_, id, name):
                yield from self._item_ended("completed")
                yield from self._item_added("function_call", {"call_id": id, "name": name, "arguments": ""})
            case CallArguments(_, text):
                yield self._delta("response.function_call_arguments.delta", "arguments", text)
            case Finish(reason):
                self._finish = event
                yield from self._item_ended("incomplete" if reason == "length" else "completed")
            case Counts():
                self._counts = event
            case Failed(error):
                yield from self._item_ended("incomplete")
                self.response |= ended(self.response, "failed", error)
                yield self._state("response.failed")
            case Done():
                yield from self._item_ended("completed")
                yield self._finished()

    # --- items ---

    def _in_text(self, kind: str, part: str) -> Iterable[Event]:
        """Begin an item of this kind with one part of text, unless one is being written."""
        if self._item is not None and self._item["type"] == kind:
            return
        yield from self._item_ended("completed")
        extra: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        yield from self._item_added(kind, {**extra, "content": []})
        yield self._of_item("response.content_part.added", content_index=0, part=_part(part))
        self._current["content"].append(_part(part))

    def _item_added(self, kind: str, fields: Mapping[str, Any]) -> Iterable[Event]:
        place = len(self.response["output"])
        identity = item_id(kind, self.response["id"], str(place))
        self._item = {"id": identity, "type": kind, "status": "in_progress", **fields}
        self.response["output"].append(self._item)
        yield {"type": "response.output_item.added", "output_index": place, "item": _copy(self._item)}

    def _item_ended(self, status: str) -> Iterable[Event]:
        if self._item is None:
            return
        item = self._current
        item["status"] = status
        if item["type"] == "function_call":
            fields = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("response.function_call_arguments.done", **fields)
        else:
            part = item["content"][0]
            kind = part["type"]
            logprobs = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
            yield self._of_item(f"response.{kind}.done", content_index=0, text=part["text"], **logprobs)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        yield {"type": "response.output_item.done", "output_index": self._place, "item": _copy(item)}
        self._item = None

    def _delta(self, kind: str, field: str, text: str, logprobs: Iterable[Mapping[str, Any]] = ()) -> Event:
        item = self._current
        if field == "arguments":
            item["arguments"] += text
            return self._of_item(kind, delta=text)
        part = item["content"][0]
        part["text"] += text
        if part["type"] != "output_text":
            return self._of_item(kind, content_index=0, delta=text)
        part["logprobs"] += logprobs
        return self._of_item(kind, content_index=0, delta=text, logprobs=list(logprobs))

    @property
    def _current(self) -> dict[str, Any]:
        if self._item is None:
            raise LookupError("nothing is being written")
        return self._item

    @property
    def _place(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "item_id": self._current["id"], "output_index": self._place, **fields}

    # --- the whole ---

    def _finished(self) -> Event:
        counts = self._counts
        if counts is not None:
            self.response["usage"] = _usage(counts)
        if self._finish.reason == "length":
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            return self._state("response.incomplete")
        self.response["status"] = "completed"
        return self._state("response.completed")

    def _state(self, kind: str) -> Event:
        return {"type": kind, "response": {**self.response, "output": list(self.response["output"])}}


def _part(kind: str) -> dict[str, Any]:
    notes: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, "text": "", **notes}


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it is now: its list of parts is still being written."""
    return {**item, "content": list(item["content"])} if "content" in item else dict(item)


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }
