"""Tools for models whose chat template knows none: told in the system message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmserve.llama.conversation import with_system_text

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


def with_tools_prompt(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """`messages` (OpenAI's shape) with the tools told in the system message, behind its own text if there is one."""
    return with_system_text(messages, generic_tools_prompt(tools))
