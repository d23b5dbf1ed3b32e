"""64 grammars, expressions and schemas that are meant to cost whoever compiles or follows them dearly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from llmserve.llama.grammar import Grammar


def bombs() -> Iterator[Grammar]:
    for text in _expressions():
        yield Grammar("regex", text, "structured_outputs.regex")
    for text in [*_lark(), *_gbnf()]:
        yield Grammar("grammar", text, "structured_outputs.grammar")
    for schema in _schemas():
        yield Grammar.of_schema(schema, "structured_outputs.json")
    for choice in _choices():
        yield Grammar("choice", json.dumps(choice), "structured_outputs.choice")


def _expressions() -> Iterator[str]:
    yield "(" * 4000 + "a" + ")" * 4000
    yield "(" * 8000
    yield "(a{1,1000}){1,1000}"
    yield "((a{1,100}){1,100}){1,100}"
    yield "a{1000000000}"
    yield "(a?){3000}a{3000}"
    yield "(a*)*(b*)*" * 800
    yield "(.*a.{0,9}){99}"
    yield "(a|b)*a(a|b){500}"
    yield "(.*a.*b.*c.*){50}"
    yield r"(\p{L}|\p{N}){1,2000}"
    yield "|".join(f"x{number}y" for number in range(1200))
    yield "(?=" * 500 + "a" + ")" * 500
    yield "(a+)+$"
    yield "[" * 8000
    yield r"(\w{1,200}\s){1,200}"
    yield "(?i:" * 900 + "a" + ")" * 900
    yield "((ab|a|b)*c?){0,400}"


def _lark() -> Iterator[str]:
    yield 'start: start start | "a"'
    yield 'start: a a a a a a a a\na: b*\nb: "a"? | c\nc: b b | "a"'
    yield 'start: a{1000}\na: b{1000}\nb: c{1000}\nc: "x"'
    yield 'start: (("x"{1000}){1000}){1000}'
    yield 'start: "x"{1,300000}'
    yield "start: A\n" + "".join(f"{chr(65 + n)}: {chr(66 + n)} {chr(66 + n)}\n" for n in range(25)) + 'Z: "x"'
    yield "start: r0\n" + "".join(f'r{n}: r{n + 1} r{n + 1} | "x"\n' for n in range(1500)) + 'r1500: "y"'
    yield "start: a\na: b\nb: a"
    yield "start: A\nA: B\nB: A"
    yield "start: A\nA: /(a|b)*a(a|b){15}/ & ~/(a|b)*b(a|b){14}a/ & /.*/"
    names = "|".join(f"T{n}" for n in range(600))
    yield f"start: ({names})*\n" + "".join(f"T{n}: /[a-z]*{n}[a-z]*/\n" for n in range(600))
    yield "start: " + "(" * 5000 + '"a"' + ")" * 5000
    yield 'start: %json {"type": "array", "minItems": 100000000}'
    yield "start: " + " ".join('"a"?' for _ in range(5000))


def _gbnf() -> Iterator[str]:
    yield "root ::= " + "(" * 60000
    yield "root ::= " + "(" * 900 + '"a"' + ")" * 900
    yield 'root ::= root root | "a"'
    yield 'root ::= (((("a"{1,100}){1,100}){1,100}){1,100})'
    yield "root ::= " + "(" * 20 + '"a"' + ")*" * 20
    yield "root ::= " + " ".join('"abc"' for _ in range(9000))
    yield "root ::= " + "| " * 20000
    yield "root ::= " + " ".join(f"r{n}" for n in range(3000))
    yield "".join(f'r{n} ::= r{n + 1}? r{n + 1}? "x"\n' for n in range(800)) + 'r800 ::= "y"\nroot ::= r0'


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = wrap(schema)
    return schema


def _schemas() -> Iterator[dict[str, Any]]:
    yield _nested(14, lambda inner: {"type": "object", "properties": {"a": inner}})
    yield _nested(900, lambda inner: {"type": "array", "items": inner})
    yield {"type": "object", "properties": {f"k{n}": {"type": "string"} for n in range(2500)}}
    yield {
        "type": "object",
        "properties": {f"k{n}": {} for n in range(1500)},
        "required": [f"k{n}" for n in range(1500)],
    }
    for keyword, kind in (("minItems", "array"), ("minLength", "string"), ("maxLength", "string")):
        yield {"type": kind, keyword: 10**9}
    yield _nested(8, lambda inner: {"type": "array", "minItems": 1000, "items": inner})
    yield {"enum": [f"v{n}" for n in range(6000)]}
    yield {"allOf": [{"anyOf": [{"properties": {f"a{n}": {"const": m}}} for m in range(8)]} for n in range(20)]}
    yield {"type": "string", "allOf": [{"pattern": f"(a|b)*{c}(a|b){{12}}"} for c in "ab" * 6]}
    doubled: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    yield {"$defs": {**doubled, "d40": {"type": "object"}}, "$ref": "#/$defs/d0"}
    yield {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    yield {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}, "$ref": "#/$defs/a"}
    yield {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}, "$ref": "#/$defs/a"}
    yield {"type": "integer", "multipleOf": 99991}
    yield {"type": "integer", "allOf": [{"multipleOf": prime} for prime in (97, 89, 83, 79, 73)]}
    yield {"prefixItems": [{"type": "number", "minimum": n - 1e300, "maximum": 1e300} for n in range(300)]}
    yield {"patternProperties": {f"^(a|b)*{n}(a|b){{9}}$": {"type": "integer"} for n in range(60)}}
    yield {"type": "object", "minProperties": 10**6}


def _choices() -> Iterator[list[str]]:
    yield [f"{'a' * 60}{n}" for n in range(1024)]
    yield ["(" * 1000 + "\n" * n for n in range(20)]
    yield ['"\\' * 500]
