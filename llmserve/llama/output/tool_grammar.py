"""Grammars that make a model call tools, in the form it was trained on: Lark text for llguidance.

A grammar holds the JSON schemas of the tools' parameters as they are, so that whatever a schema says (`$ref` too) is
enforced by the compiler of schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmserve.llama.output.call_form import NAME
from llmserve.llama.output.formats import HARMONY, OutputFormat
from llmserve.llama.output.harmony import CHANNEL, END, MESSAGE, START
from llmserve.llama.output.tools import Tool

# A model that is made to call something may go on calling; nobody needs more at once.
MAX_CALLS = 16

# As `json.dumps` writes it, which models have seen most; free white space would let a small model write it for ever.
_WRITING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if")
_ANYTHING = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request wants of an answer.

    `tools`: those it may call. `choice`: "required" for a call or more, "auto" for calls or text. `parallel`: more
    than one call is allowed.
    """

    tools: Sequence[Tool]
    choice: Literal["auto", "required"]
    parallel: bool = True


def tool_grammar(
    output_format: OutputFormat, demand: Demand, control_tokens: Mapping[str, int], *, inside: bool = False
) -> str:
    """The grammar's text. `control_tokens`: ids of the vocabulary's control tokens by their texts.

    `inside`: the prompt has opened the thoughts. A model that knows of thoughts may write some before it calls.
    """
    return _Writer(output_format, demand, control_tokens, inside=inside).text()


class _Writer:
    def __init__(
        self, output_format: OutputFormat, demand: Demand, control_tokens: Mapping[str, int], *, inside: bool
    ) -> None:
        self._format = output_format
        self._form = output_format.form
        self._demand = demand
        self._tokens = control_tokens
        self._inside = inside
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._controls = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self._rules: list[str] = []

    def text(self) -> str:
        thoughts = self._thoughts()
        first, calls = self._calls()
        if self._demand.choice == "auto":
            calls = f"( {self._free_text()} | {self._after_text(first)} {calls} )"
        else:
            calls = f"{self._literal(first)} {calls}"
        return "\n".join([f"start: {thoughts} {calls}", *self._rules]) + "\n"

    def _calls(self) -> tuple[str, str]:
        """The text that all calls begin with, and the rules for what follows it."""
        form = self._form
        first = form.opening or form.marker or ""
        shared = "" if form.opening else first
        for number, tool in enumerate(self._demand.tools):
            head = form.head.removeprefix(shared).replace(NAME, tool.name)
            self._rules.append(f"arguments_{number}: %json {json.dumps(_schema(tool))}")
            self._rules.append(f"call_{number}: {self._literal(head)} arguments_{number} {self._literal(form.tail)}")
        call = " | ".join(f"call_{number}" for number in range(len(self._demand.tools)))
        self._rules.append(f"call: {call}")
        more = ""
        if self._demand.parallel and not form.single:
            more = f"( {self._literal(form.separator + shared)} call ){{0,{MAX_CALLS - 1}}}"
        return first, f"call {more} {self._literal(form.closing)}"

    def _free_text(self) -> str:
        """An answer without calls."""
        if self._format.name == HARMONY:
            return f"{self._literal(f'{CHANNEL}final{MESSAGE}')} {_ANYTHING}"
        # Without a marker a call is told from text by how it begins.
        return _ANYTHING if self._form.marker else r"/([^{\[](?s:.*))?/"

    def _after_text(self, first: str) -> str:
        """`first`, with any text before it if a marker tells the two apart."""
        marker = self._form.marker
        if marker is None:
            return self._literal(first)
        if marker in self._tokens:
            return f"{_ANYTHING} {self._literal(first)}"
        # The marker ends the text as soon as it is whole, and then only a call can follow.
        self._rules.append(f"text_before[lazy]: /(?s:.*){_escaped(marker)}/")
        return f"text_before {self._literal(first.removeprefix(marker))}"

    def _thoughts(self) -> str:
        if self._format.name == HARMONY:
            head = self._literal(f"{CHANNEL}analysis{MESSAGE}")
            return f"( {head} {_ANYTHING} {self._literal(f'{END}{START}assistant')} )?"
        style = self._format.reasoning
        closing = style.closings[0]
        if closing in self._tokens:
            self._rules.append(f"thoughts: {_ANYTHING} {self._literal(closing)}")
        else:
            self._rules.append(f"thoughts[lazy]: /(?s:.*){_escaped(closing)}/")
        rest = r"thoughts ( /\n{1,2}/ )?"
        if self._inside:
            return rest
        self._rules = self._rules if self._format.thinks else []
        return f"( {self._literal(style.openings[0])} {rest} )?" if self._format.thinks else ""

    def _literal(self, text: str) -> str:
        """`text` in a rule: control tokens by their ids, since no other tokens spell them to the model."""
        parts = self._controls.split(text) if self._controls else [text]
        return " ".join(
            f"<[{self._tokens[part]}]>" if part in self._tokens else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )


def _escaped(text: str) -> str:
    """`text` inside of a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/")


def _schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: no others than those it names, unless it says that there may be."""
    schema = dict(_NO_ARGUMENTS if tool.parameters is None else tool.parameters)
    if "properties" in schema and not any(key in schema for key in (*_COMBINING, "additionalProperties")):
        schema["additionalProperties"] = False
    return {**schema, "x-guidance": _WRITING}
