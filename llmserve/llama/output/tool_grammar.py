"""Grammars that make a model call tools, in the form it was trained on: Lark text for llguidance.

A grammar holds the JSON schemas of the tools' parameters as they are, so that whatever a schema says (`$ref` too) is
enforced by the compiler of schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmserve.llama.output.call_form import NAME
from llmserve.llama.output.formats import HARMONY, OutputFormat
from llmserve.llama.output.harmony import CHANNEL, END, MESSAGE, START
from llmserve.llama.output.tools import Tool
from llmserve.llama.schema_gaps import strengthened

# A model that is made to call something may go on calling; nobody needs more at once.
MAX_CALLS = 16

# As `json.dumps` writes it, which models have seen most; free white space would let a small model write it for ever.
# The other two keep a schema's own options from making it weaker than it reads.
_WRITING = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
_ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if")
_ANYTHING = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request wants of an answer.

    `tools`: those it may call, possibly none. `required`: it has to call one or more, where it may be text otherwise.
    `parallel`: more than one call is allowed. `answer`: the JSON schema of an answer that calls nothing, None for any
    text.
    """

    tools: Sequence[Tool]
    required: bool
    parallel: bool = True
    answer: Mapping[str, Any] | None = None

    def loosened(self) -> Demand:
        """The same, but with any arguments for the tools that are not strict."""
        return replace(
            self, tools=[tool if tool.strict else replace(tool, parameters=_ANY_ARGUMENTS) for tool in self.tools]
        )


def tool_grammar(output_format: OutputFormat, demand: Demand, special_tokens: Mapping[str, int]) -> str:
    """The grammar of what follows the thoughts, if there are any.

    `special_tokens`: by their texts, the ids of the tokens that llguidance does not take for text.
    """
    return _Writer(output_format, demand, special_tokens).text()


class _Writer:
    def __init__(self, output_format: OutputFormat, demand: Demand, special_tokens: Mapping[str, int]) -> None:
        self._format = output_format
        self._form = output_format.form if demand.answer is None else output_format.form.with_marker()
        self._demand = demand
        self._tokens = special_tokens
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._specials = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self._rules: list[str] = []

    def text(self) -> str:
        if not self._demand.tools:
            return self._joined(self._free_text())
        first, calls = self._calls()
        if self._demand.required:
            calls = f"{self._literal(first)} {calls}"
        else:
            calls = f"( {self._free_text()} | {self._after_text(first)} {calls} )"
        return self._joined(calls)

    def _joined(self, answer: str) -> str:
        lines = [f"start: {self._thoughts()} {answer}", *self._rules]
        # What would make the text look like GBNF, whose mark this is, can only stand inside of a schema's strings.
        return "\n".join(lines).replace("::=", r":\u003a=") + "\n"

    def _calls(self) -> tuple[str, str]:
        """The text that all calls begin with, and the rules for what follows it."""
        form = self._form
        first = form.opening or form.marker or ""
        shared = "" if form.opening else first
        for number, tool in enumerate(self._demand.tools):
            head = form.head.removeprefix(shared).replace(NAME, tool.name)
            self._rules.append(f"arguments_{number}: %json {_arguments(tool)}")
            self._rules.append(f"call_{number}: {self._literal(head)} arguments_{number} {self._literal(form.tail)}")
        call = " | ".join(f"call_{number}" for number in range(len(self._demand.tools)))
        self._rules.append(f"call: {call}")
        more = ""
        if self._demand.parallel and not form.single:
            more = f"( {self._literal(form.separator + shared)} call ){{0,{MAX_CALLS - 1}}}"
        return first, f"call {more} {self._literal(form.closing)}"

    def _free_text(self) -> str:
        """An answer without calls."""
        text = _ANYTHING
        if self._demand.answer is not None:
            self._rules.append(f"answer: %json {_json_schema(self._demand.answer)}")
            text = "answer"
        elif self._form.marker is None and self._format.name != HARMONY:
            # Without a marker a call is told from text by how it begins.
            text = r"/([^{\[](?s:.*))?/"
        return f"{self._literal(f'{CHANNEL}final{MESSAGE}')} {text}" if self._format.name == HARMONY else text

    def _after_text(self, first: str) -> str:
        """`first`, with any text before it if a marker tells the two apart."""
        marker = self._form.marker
        if marker is None or self._demand.answer is not None:
            return self._literal(first)
        if marker in self._tokens:
            return f"{_ANYTHING} {self._literal(first)}"
        # The marker ends the text as soon as it is whole, and then only a call can follow.
        self._rules.append(f"text_before[lazy]: /(?s:.*){_escaped(marker)}/")
        return f"text_before {self._literal(first.removeprefix(marker))}"

    def _thoughts(self) -> str:
        """In harmony thoughts are a message like others."""
        if self._format.name != HARMONY:
            return ""
        head = self._literal(f"{CHANNEL}analysis{MESSAGE}")
        return f"( {head} {_ANYTHING} {self._literal(f'{END}{START}assistant')} )?"

    def _literal(self, text: str) -> str:
        """`text` in a rule: special tokens by their ids, since no other tokens spell them to the model."""
        parts = self._specials.split(text) if self._specials else [text]
        return " ".join(
            f"<[{self._tokens[part]}]>" if part in self._tokens else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )


def _escaped(text: str) -> str:
    """`text` inside of a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/")


def _arguments(tool: Tool) -> str:
    """The schema of a tool's arguments: no others than those it names, unless it says that there may be."""
    schema = dict(_NO_ARGUMENTS if tool.parameters is None else tool.parameters)
    if "properties" in schema and not any(key in schema for key in (*_COMBINING, "additionalProperties")):
        schema["additionalProperties"] = False
    return _json_schema(schema)


def _json_schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**strengthened(schema), "x-guidance": _WRITING})
