"""A conversation in the shape that a model's template can show, without losing any of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmserve.errors import InvalidRequest
from llmserve.llama.template_capabilities import TemplateCapabilities
from llmserve.openai.json import parse_json

Message = dict[str, Any]


def shape(messages: Sequence[Mapping[str, Any]], template: TemplateCapabilities) -> list[Message]:
    """`messages` as OpenAI has them, in the forms and fields that `template` reads; nothing given is changed."""
    shaped = [dict(message) for message in messages]
    _name_results(shaped)
    if not template.tool_calls:
        shaped = [_calls_as_text(message, template) for message in shaped]
    if not template.system:
        shaped = _system_into_user(shaped)
    for message in shaped:
        if "tool_calls" in message:
            message["tool_calls"] = [_call(call, template) for call in message["tool_calls"]]
        if "tool_call_id" in message and template.call_id_length:
            message["tool_call_id"] = _fitting_id(message["tool_call_id"], template.call_id_length)
        if message.get("content") is None:
            message["content"] = None if template.null_content else ""
        elif template.parts:
            message["content"] = [{"type": "text", "text": message["content"]}]
        if "reasoning_content" in message:
            message[template.reasoning_field] = message.pop("reasoning_content")
    return shaped


def with_system_text(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """`messages` (OpenAI's shape) with `text` in the system message, behind its own text if there is one."""
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _name_results(messages: list[Message]) -> None:
    """Give every result the name of the function it comes from, which some templates print."""
    names: dict[str, str] = {}
    for message in messages:
        names.update((call["id"], call["function"]["name"]) for call in message.get("tool_calls", ()))
        name = names.get(message.get("tool_call_id", ""))
        if name is not None:
            message.setdefault("name", name)


def _call(call: Mapping[str, Any], template: TemplateCapabilities) -> Message:
    function = dict(call["function"])
    if template.argument_objects:
        function["arguments"] = _arguments(function["arguments"])
    identity = _fitting_id(call["id"], template.call_id_length) if template.call_id_length else call["id"]
    return {"id": identity, "type": "function", "function": function}


def _arguments(text: str) -> Any:
    """The object that `text` is the JSON of; `text` itself where it is not."""
    try:
        value = parse_json((text.strip() or "{}").encode())
    except InvalidRequest:
        return text
    return value if isinstance(value, dict) else text


def _fitting_id(identity: str, length: int) -> str:
    """An identifier of letters and digits that is the same for equal `identity`: another model may have made it up."""
    if len(identity) == length and identity.isascii() and identity.isalnum():
        return identity
    return hashlib.sha256(identity.encode()).hexdigest()[:length]


def _calls_as_text(message: Message, template: TemplateCapabilities) -> Message:
    """Calls and results as most models have seen them written, for a template that would drop them."""
    if message["role"] == "tool" and not template.tool_results:
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.pop("tool_calls", ())
    if calls:
        texts = [message.get("content") or "", *map(_call_text, calls)]
        message["content"] = "\n".join(filter(None, texts))
    return message


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    written = {"name": function["name"], "arguments": _arguments(function["arguments"])}
    return f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"


def _system_into_user(messages: list[Message]) -> list[Message]:
    """System messages put before the text of the user's message that follows, or left as one where none does."""
    merged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
            continue
        if message["role"] == "user" and waiting:
            message["content"] = "\n\n".join([*waiting, message["content"]])
            waiting = []
        merged.append(message)
    if waiting:
        merged.append({"role": "user", "content": "\n\n".join(waiting)})
    return merged
