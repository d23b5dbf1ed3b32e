"""Whatever schema is accepted is followed; whatever cannot be followed is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.constraint import ConstraintFactory
from llmserve.llama.grammar import Grammar
from tests.llama.schema_corpus import Case, corpus
from tests.llama.vocabularies import factory, walk

PARAM = "response_format.json_schema.schema"
CASES = list(corpus())
WALKS = 3


@pytest.fixture(scope="module")
def constraints() -> ConstraintFactory:
    return factory()


def declared(schema: Any) -> set[str]:
    """The properties that `schema` names anywhere."""
    if isinstance(schema, list):
        return set().union(*map(declared, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", ())).union(*map(declared, schema.values()))


def parse(text: bytes, schema: Any) -> Any:
    """The value, checked for keys that stand twice: free ones may, as no grammar could prevent it."""
    names = declared(schema)

    def pairs_to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known = [key for key, _ in pairs if key in names]
        assert len(set(known)) == len(known), "a property stands twice in one object"
        return dict(pairs)

    return json.loads(text, object_pairs_hook=pairs_to_object, parse_constant=refuse_constant)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def test_the_corpus_is_of_two_hundred_schemas() -> None:
    assert len(CASES) == 200
    assert len({case.name for case in CASES}) == 200


@pytest.mark.parametrize("case", [case for case in CASES if case.unsupported is None], ids=lambda case: case.name)
def test_what_is_written_by_a_schema_validates(constraints: ConstraintFactory, case: Case) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(
        case.schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    written = 0
    for seed in range(WALKS):
        text = walk(constraints.compile(Grammar.of_schema(case.schema, PARAM)), seed)
        if text is not None:
            validator.validate(parse(text, case.schema))
            written += 1
    assert written


@pytest.mark.parametrize("case", [case for case in CASES if case.unsupported is not None], ids=lambda case: case.name)
def test_what_cannot_be_followed_is_refused_by_name(constraints: ConstraintFactory, case: Case) -> None:
    with pytest.raises(InvalidRequest) as caught:
        constraints.compile(Grammar.of_schema(case.schema, PARAM))
    assert caught.value.param == PARAM
    assert f"`{case.unsupported}`" in caught.value.message
    if case.name.endswith("inside"):
        assert "/properties/deep/items" in caught.value.message
