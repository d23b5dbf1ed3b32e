"""Tools for models whose chat template knows none: told in the system message, and played back as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_RESULT_END = "</tool_response>"
_BEFORE = """\
You can call functions to help answer the user. These are the functions, one JSON object per line, each with its name, \
what it does and the JSON schema of its arguments:

<tools>
"""
_AFTER = """
</tools>

To call a function, write a JSON object with its name and its arguments between tags, like this:

<tool_call>
{"name": "function_name", "arguments": {"argument": "value"}}
</tool_call>

Write one such block for each call and nothing after the last one; the results will follow between <tool_response> \
tags. Call a function only where it helps: otherwise answer in plain words."""


def generic_tools_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """System text that shows `tools`, in OpenAI's shape, to a model, and asks for calls in the form of Hermes."""
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    return f"{_BEFORE}{lines}{_AFTER}"


def with_generic_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """`messages` (OpenAI's shape) with nothing in them that only a template with tools understands.

    The tools join the system message. Earlier calls become text of the assistant and their results text of the user;
    results after each other, and the question after them, are one message, since templates want roles to alternate.
    """
    plain: list[dict[str, Any]] = []
    for message in messages:
        result = message["role"] == "tool"
        turned = _as_result(message) if result else _as_text(message)
        after_result = plain and _ends_in_result(plain[-1])
        if after_result and turned["role"] == "user":
            plain[-1] = {**plain[-1], "content": f"{plain[-1]['content']}\n{turned['content']}"}
        else:
            plain.append(turned)
    if not tools:
        return plain
    prompt = generic_tools_prompt(tools)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{prompt}"}, *plain[1:]]
    return [{"role": "system", "content": prompt}, *plain]


def _as_result(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n{_RESULT_END}"}


def _ends_in_result(message: Mapping[str, Any]) -> bool:
    return message["role"] == "user" and str(message["content"]).endswith(_RESULT_END)


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls, if it has any, are a part of its text."""
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    blocks = [message["content"]] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        name = json.dumps(function["name"], ensure_ascii=False)
        blocks.append(f'<tool_call>\n{{"name": {name}, "arguments": {function["arguments"] or "{}"}}}\n</tool_call>')
    return {**plain, "content": "\n".join(blocks)}
