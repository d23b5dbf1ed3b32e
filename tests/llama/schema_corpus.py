"""JSON schemas in the families that people ask for, made from a seed."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

JsonSchema = dict[str, Any]

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (
    "^[a-z]+$",
    "^[A-Z]{2}[0-9]{2,4}$",
    "^(red|green|blue)(-dark)?$",
    "^\\d{3}-\\d{4}$",
    "[aeiou]",
    "^\\S+@\\S+$",
    '^[^"\\\\]{1,8}$',
    "x$",
    "^(?:a|bc)*d\\.$",
    "^\\w{2,5}$",
)


@dataclass(frozen=True)
class Case:
    """`unsupported` is the keyword that makes llguidance refuse the schema; None where it has to be followed."""

    name: str
    schema: JsonSchema
    unsupported: str | None = None


class _Maker:
    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)

    def name(self) -> str:
        letters = string.ascii_lowercase + "_-é $"
        return "".join(self.choose.choice(letters) for _ in range(self.choose.randint(1, 8)))

    def leaf(self) -> JsonSchema:
        return self.choose.choice(
            [
                self.integer,
                self.number,
                self.text,
                self.enum,
                lambda: {"type": "boolean"},
                lambda: {"type": "null"},
            ]
        )()

    def integer(self) -> JsonSchema:
        low, high = sorted(self.choose.sample(range(-1200, 1200), 2))
        return self._bounded({"type": "integer"}, low, high + 3)

    def number(self) -> JsonSchema:
        low = round(self.choose.uniform(-50, 50), self.choose.randint(0, 2))
        return self._bounded({"type": "number"}, low, low + round(self.choose.uniform(1, 99), 1))

    def _bounded(self, schema: JsonSchema, low: float, high: float) -> JsonSchema:
        if self.choose.random() < 0.8:
            schema[self.choose.choice(["minimum", "exclusiveMinimum"])] = low
        if self.choose.random() < 0.8:
            schema[self.choose.choice(["maximum", "exclusiveMaximum"])] = high
        return schema

    def text(self) -> JsonSchema:
        schema: JsonSchema = {"type": "string"}
        kind = self.choose.random()
        if kind < 0.3:
            schema["pattern"] = self.choose.choice(PATTERNS)
        elif kind < 0.8:
            shortest = self.choose.randint(0, 4)
            schema |= {"minLength": shortest, "maxLength": shortest + self.choose.randint(0, 5)}
        return schema

    def enum(self) -> JsonSchema:
        values: list[Any] = ["a", "b c", 'quoted "x"', "é\n", "", 0, -7, 2.5, 1e6, True, None, [], [1, "x"], {"k": []}]
        picked = self.choose.sample(values, self.choose.randint(1, 5))
        return {"const": picked[0]} if len(picked) == 1 else {"enum": picked}

    def object(self, inner: Callable[[], JsonSchema], *, closed: bool | None = None) -> JsonSchema:
        names = list(dict.fromkeys(self.name() for _ in range(self.choose.randint(1, 5))))
        required = [name for name in names if self.choose.random() < 0.6]
        schema: JsonSchema = {"type": "object", "properties": {name: inner() for name in names}, "required": required}
        if closed if closed is not None else self.choose.random() < 0.6:
            schema["additionalProperties"] = False
        return schema

    def array(self, items: JsonSchema) -> JsonSchema:
        least = self.choose.randint(0, 3)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + self.choose.randint(0, 3)}


def _nested(make: _Maker, depth: int = 3) -> JsonSchema:
    if not depth:
        return make.leaf()
    inner = lambda: _nested(make, depth - 1 - make.choose.randint(0, depth - 1))  # noqa: E731
    return make.object(inner) if make.choose.random() < 0.7 else make.array(inner())


def _references(make: _Maker) -> JsonSchema:
    leaf = {"$ref": "#/$defs/leaf"}
    return {
        "$defs": {
            "leaf": make.leaf(),
            "pair": {"type": "array", "prefixItems": [leaf, make.leaf()], "items": False, "minItems": 2},
            "a/b~c": make.object(lambda: leaf, closed=True),
        },
        **make.object(
            lambda: {"$ref": make.choose.choice(["#/$defs/leaf", "#/$defs/pair", "#/$defs/a~1b~0c"])}, closed=True
        ),
    }


def _recursive(make: _Maker) -> JsonSchema:
    node = make.object(make.leaf, closed=True)
    node["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    node["properties"]["children"] = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}


def _alternatives(make: _Maker) -> JsonSchema:
    kind = make.choose.choice(["anyOf", "types", "oneOf", "tagged"])
    if kind == "types":
        return {"type": make.choose.sample(["string", "integer", "boolean", "null", "array"], 2), "maxLength": 4}
    if kind == "oneOf":
        return {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}, {"type": "null"}]}
    if kind == "tagged":
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": tag}, "value": make.leaf()},
                    "required": ["kind", "value"],
                    "additionalProperties": False,
                }
                for tag in ("x", "y")
            ]
        }
    return {"anyOf": [make.leaf(), make.leaf(), make.object(make.leaf, closed=True)]}


def _conjunctions(make: _Maker) -> JsonSchema:
    return make.choose.choice(
        [
            {"allOf": [{"type": "integer"}, {"minimum": make.choose.randint(0, 9)}, {"maximum": 50}]},
            {"type": "string", "allOf": [{"minLength": 2}, {"maxLength": make.choose.randint(2, 6)}]},
            {"type": "string", "pattern": "^[a-z]*$", "minLength": 1, "maxLength": make.choose.randint(2, 6)},
            {
                "allOf": [
                    {"type": "object", "properties": {"a": make.leaf()}, "required": ["a"]},
                    {"type": "object", "properties": {"b": make.leaf()}, "required": ["b"]},
                ]
            },
            {"type": "integer", "enum": [1, 5, 9, "x", None], "minimum": 2},
            {"type": "integer", "multipleOf": make.choose.randint(2, 9), "minimum": 0, "maximum": 200},
            {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 4},
        ]
    )


def _maps(make: _Maker) -> JsonSchema:
    return make.choose.choice(
        [
            {"type": "object", "additionalProperties": make.leaf()},
            {"type": "object", "properties": {"id": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
            {"type": "object", "patternProperties": {"^x_": make.leaf()}, "additionalProperties": False},
            {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 3},
            {"type": "object", "required": ["a", "b"]},
            {"type": "object"},
        ]
    )


def _tuples(make: _Maker) -> JsonSchema:
    count = make.choose.randint(1, 3)
    return make.choose.choice(
        [
            {"type": "array", "prefixItems": [make.leaf() for _ in range(count)], "items": False, "minItems": count},
            {"type": "array", "prefixItems": [make.leaf()], "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
            {"type": "array", "prefixItems": [make.leaf() for _ in range(count)], "maxItems": count},
        ]
    )


_FAMILIES: tuple[tuple[str, int, Callable[[_Maker], JsonSchema]], ...] = (
    ("nested", 35, _nested),
    ("enum", 10, _Maker.enum),
    ("integer", 12, _Maker.integer),
    ("number", 12, _Maker.number),
    ("text", 12, _Maker.text),
    ("references", 12, _references),
    ("recursive", 8, _recursive),
    ("alternatives", 15, _alternatives),
    ("conjunctions", 14, _conjunctions),
    ("maps", 10, _maps),
    ("tuples", 10, _tuples),
    ("arrays", 10, lambda make: make.array(make.leaf())),
)

_UNSUPPORTED: tuple[tuple[str, JsonSchema], ...] = (
    ("not", {"not": {"type": "string"}}),
    ("if", {"if": {"type": "string"}, "then": {"minLength": 1}}),
    ("then", {"then": {"minLength": 1}}),
    ("else", {"else": {"minLength": 1}}),
    ("uniqueItems", {"type": "array", "uniqueItems": True}),
    ("contains", {"type": "array", "contains": {"type": "integer"}}),
    ("minContains", {"type": "array", "minContains": 1}),
    ("propertyNames", {"type": "object", "propertyNames": {"pattern": "^a"}}),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
    ("dependentSchemas", {"type": "object", "dependentSchemas": {"a": {}}}),
    ("unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}),
    ("unevaluatedItems", {"type": "array", "unevaluatedItems": False}),
    ("$dynamicRef", {"$dynamicRef": "#x"}),
    ("format", {"type": "string", "format": "made-up"}),
    ("oneOf", {"oneOf": [{"minimum": 3}, {"maximum": 9}]}),
    ("pattern", {"type": "string", "pattern": "^(?=a)b"}),
    ("$ref", {"$ref": "https://example.org/schema"}),
    ("minProperties", {"type": "object", "properties": {"a": {}}, "minProperties": 1}),
    ("minimum", {"type": "integer", "minimum": 9, "maximum": 3}),
    ("enum", {"enum": []}),
)


def corpus(seed: int = 0) -> Iterator[Case]:
    """200 schemas: 160 to follow, ten of formats, and 30 with a keyword that cannot be followed, alone or inside."""
    for family, count, make in _FAMILIES:
        for number in range(count):
            yield Case(f"{family} {number}", make(_Maker(seed * 1000 + number)))
    for name in FORMATS:
        yield Case(f"format {name}", {"type": "string", "format": name})
    for keyword, schema in _UNSUPPORTED:
        yield Case(f"unsupported {keyword}", schema, keyword)
    for keyword, schema in _UNSUPPORTED[:10]:
        inside = {"type": "object", "properties": {"deep": {"type": "array", "items": schema}}, "required": ["deep"]}
        yield Case(f"unsupported {keyword} inside", inside, keyword)
