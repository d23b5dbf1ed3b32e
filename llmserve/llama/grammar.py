"""Grammars that a request may prescribe for its answer: what they are, what they may cost, and why one is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmserve.errors import InvalidRequest
from llmserve.llama.ascii_classes import ascii_classes
from llmserve.llama.schema_gaps import strengthened, subschemas, unenforceable
from llmserve.openai.response_format import ResponseFormat
from llmserve.openai.structured_outputs import StructuredOutputs

GrammarKind = Literal["json_schema", "regex", "choice", "grammar"]

# llguidance's own bounds, most of them far below its defaults: a step is computed by the thread that computes everyone
# else's, and costs at most a few milliseconds with these. Two hundred optional properties fit.
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 500_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 10_000,
    "max_items_in_row": 1_000,
    # About half a kilobyte each, and shared by all sequences that follow one compiled grammar.
    "max_lexer_states": 30_000,
    # The texts of verbose errors repeat the grammar and the answer.
    "verbose_errors": False,
}
_SCHEMA_OPTIONS = {
    # Free white space would let a small model write blanks for ever.
    "whitespace_pattern": r"[\x20\x0A]{0,2}",
    # A schema may carry options of its own, which must not make it weaker than it reads.
    "lenient": False,
    "coerce_one_of": False,
}
_LONGEST_DETAIL = 200


@dataclass(frozen=True, slots=True)
class Grammar:
    """`text` is a JSON schema, a regular expression, a JSON list of strings, or GBNF or Lark, by `kind`.

    `param` names the field of the request it came from.
    """

    kind: GrammarKind
    text: str
    param: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any], param: str) -> Grammar:
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")), param)

    @classmethod
    def of_request(
        cls, response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
    ) -> Grammar | None:
        """The grammar that the two fields ask for; None where the answer is free."""
        if structured_outputs is not None:
            return _of_structured_outputs(structured_outputs)
        if response_format is None or response_format.type == "text":
            return None
        if response_format.json_schema is None:
            return cls.of_schema({"type": "object"}, "response_format")
        return cls.of_schema(response_format.json_schema.definition, "response_format.json_schema.schema")


def _of_structured_outputs(asked: StructuredOutputs) -> Grammar:
    if asked.definition is not None:
        return Grammar.of_schema(asked.definition, "structured_outputs.json")
    if asked.regex is not None:
        return Grammar("regex", asked.regex, "structured_outputs.regex")
    if asked.grammar is not None:
        return Grammar("grammar", asked.grammar, "structured_outputs.grammar")
    return Grammar("choice", json.dumps(asked.choice), "structured_outputs.choice")


def check_enforceable(schema: Grammar) -> None:
    """Raise the refusal of a JSON schema of which llguidance would follow a keyword too loosely."""
    problem = unenforceable(json.loads(schema.text))
    if problem is not None:
        raise refusal(schema, problem)


def limits() -> Any:
    """llguidance's limits, for every matcher of this program."""
    import llguidance

    return llguidance.LLParserLimits(**_LIMITS)


def to_llguidance(kind: GrammarKind, text: str) -> str:
    """The grammar in llguidance's own form. Raises `ValueError`; takes time: GBNF is converted by Python code."""
    import llguidance

    if kind == "json_schema":
        schema = json.loads(text)
        problem = unenforceable(schema)
        if problem is not None:
            raise ValueError(problem)
        options: Any = _SCHEMA_OPTIONS
        return llguidance.LLMatcher.grammar_from_json_schema(strengthened(schema), overrides=options)
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(ascii_classes(text))
    if kind == "grammar":
        if "::=" not in text:
            # Every rule of GBNF has it. The converter's own guess takes `?start: ...` for GBNF, too.
            return llguidance.LLMatcher.grammar_from_lark(text)
        text = _plain_escapes(text)
    return llguidance.grammar_from(kind, text)


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def _plain_escapes(gbnf: str) -> str:
    """GBNF with `\\u0041` and `\\U00000041` as the characters they mean, which the converter to Lark garbles."""

    def character(escape: re.Match[str]) -> str:
        code = int(escape[1] or escape[2] or "0", 16)
        usable = 0x20 <= code < 0x110000 and not 0xD800 <= code < 0xE000
        return chr(code) if usable and chr(code) not in '"\\[]^-/' else escape[0]

    return _ESCAPE.sub(character, gbnf)


# Of a schema's errors: what llguidance writes, and the keywords that are meant where it does not name them.
_UNNAMED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("regex parse error", ("pattern", "patternProperties")),
    ("lookarounds", ("pattern", "patternProperties")),
    ("patternProperty", ("patternProperties",)),
    ("min/maxProperties", ("minProperties", "maxProperties")),
    ("Unknown format", ("format",)),
    ("oneOf", ("oneOf",)),
    ("float range", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    ("integer range", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    ("Invalid type", ("type",)),
    ("type must be", ("type",)),
    ("incompatible types", ("type",)),
    ("anyOf is empty", ("enum", "anyOf")),
    ("Pointer", ("$ref",)),
    ("Resource", ("$ref",)),
    ("circular references", ("$ref",)),
)
_WORD = re.compile(r"[$A-Za-z]+")
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*?\])")


def refusal(grammar: Grammar, detail: str) -> InvalidRequest:
    """The 400 for a grammar that llguidance refused with `detail`; of a schema it names the keyword and its place."""
    param = grammar.param
    if grammar.kind != "json_schema":
        what = {"regex": "regular expression", "choice": "choice"}.get(grammar.kind, "grammar")
        return InvalidRequest(f"the {what} cannot be used: {_sentence(detail)}", param=param)
    schema = json.loads(grammar.text)
    unimplemented = _UNIMPLEMENTED.search(detail)
    if unimplemented:
        keywords = json.loads(unimplemented[1])
        places = [_named(keyword, schema) for keyword in keywords]
        return InvalidRequest(f"the JSON schema cannot be enforced: {', '.join(places)} is not supported", param=param)
    candidates = next((names for needle, names in _UNNAMED if needle in detail), _WORD.findall(detail))
    present = [keyword for keyword in candidates if _place(keyword, schema) is not None]
    place = f" ({_named(present[0], schema)})" if present else ""
    return InvalidRequest(f"the JSON schema cannot be used{place}: {_sentence(detail)}", param=param)


def _named(keyword: str, schema: Any) -> str:
    place = _place(keyword, schema)
    return f"`{keyword}`" + (f" at {place}" if place else "")


def _place(keyword: str, schema: Any) -> str | None:
    """JSON pointer of the subschema that first uses `keyword`: "" for the root, None where none does."""
    for pointer, subschema in subschemas(schema):
        if keyword in subschema:
            return pointer[:_LONGEST_DETAIL]
    return None


def _sentence(detail: str) -> str:
    """One line of what llguidance wrote: of a regular expression's error, whose first lines show it, the last."""
    lines = [line.strip() for line in detail.replace("<non-verbose/>", "").splitlines() if line.strip()]
    if not lines:
        return "unknown reason"
    explained = next((line.removeprefix("error:").strip() for line in lines if line.startswith("error:")), lines[0])
    if "NoExtension" in explained:
        return "no text fits it"
    return explained[:_LONGEST_DETAIL]
