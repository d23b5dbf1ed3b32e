"""What all request objects have in common: closed, frozen, strict about types, and plain in what they refuse."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.fields import Policy, Refused

MAX_IGNORED_FIELDS = 32
MAX_FIELD_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 64
MAX_MESSAGE_CHARACTERS = 200
MAX_PATH_CHARACTERS = 96

_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_CONTROL = re.compile(f"[{_CONTROL_CHARACTERS}]")
SMALLEST_NORMAL_FLOAT32 = 2.0**-126


class IgnoredFields:
    """The unknown fields met in one request, each once and in a form that is safe in a header or a log line.

    A name is cut at 64 characters, odd characters become `?`, and only the first 32 names are kept. A name of more
    than 1024 characters is no field anybody meant, and refused.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, place: str, name: str) -> None:
        if len(name) > MAX_FIELD_CHARACTERS:
            refuse(f"has a field whose name is longer than {MAX_FIELD_CHARACTERS} characters")
        if len(self._names) < MAX_IGNORED_FIELDS:
            self._names[place + _printable(name)] = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)


class Schema(BaseModel):
    """Base of every object in a request.

    null is absent, and the names of one field must agree. Built directly it refuses a field it does not know.
    Validated with an `IgnoredFields` as context, as the parser does, it applies its `policy`, and lists there,
    prefixed with `place`, and drops what is in neither. `extensions` are the fields that are not OpenAI's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    place: ClassVar[str] = ""
    policy: ClassVar[Policy] = {}
    extensions: ClassVar[frozenset[str]] = frozenset()
    known: ClassVar[frozenset[str]] = frozenset()
    synonyms: ClassVar[tuple[tuple[str, ...], ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        spellings = [cls.spellings(field) for field in cls.model_fields]
        cls.known = frozenset(name for names in spellings for name in names)
        cls.synonyms = tuple(names for names in spellings if len(names) > 1)

    @classmethod
    def spellings(cls, field: str) -> tuple[str, ...]:
        """The names under which a request may state `field`, the preferred one first."""
        alias = cls.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return tuple(choice for choice in alias.choices if isinstance(choice, str))
        return (alias,) if isinstance(alias, str) else (field,)

    @model_validator(mode="before")
    @classmethod
    def _apply_policy(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        present = {name: value for name, value in data.items() if value is not None}
        ignored = info.context
        for names in cls.synonyms:
            _merge(present, names)
        if not isinstance(ignored, IgnoredFields):
            return present
        for name in present:
            if name in cls.known:
                continue
            decision = cls.policy.get(name)
            if decision is None:
                ignored.add(cls.place, name)
            elif isinstance(decision, Refused) and not decision.accepts(present[name], present):
                refuse(f"is not supported: {decision.reason}", name, unsupported=True)
        return {name: value for name, value in present.items() if name in cls.known}


def _merge(present: dict[str, Any], names: tuple[str, ...]) -> None:
    """Leave only the first of the stated `names` of one field, and refuse others that say something else."""
    first, *others = [name for name in names if name in present] or [""]
    for name in others:
        value = present.pop(name)
        # The type counts too: True == 1 in Python.
        if type(value) is not type(present[first]) or value != present[first]:
            refuse(f"differs from `{first}`", name)


def refuse(predicate: str, *at: str | int, unsupported: bool = False) -> NoReturn:
    """Refuse the value being validated, or the part of it at the path `at`. `predicate` is what to say of the field."""
    kind = "unsupported" if unsupported else "refused"
    raise PydanticCustomError(kind, "{predicate}", {"predicate": predicate, "at": at})


def vanishes(number: float) -> bool:
    """Whether `number` is not zero but loses its meaning in 32 bits, in which engines compute.

    Dividing by such a number gives infinity there.
    """
    return 0 < abs(number) < SMALLEST_NORMAL_FLOAT32


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The first thing wrong in a request, as a 400 that names the field and never repeats its value."""
    first = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    parameter = _path((*first["loc"], *context.get("at", ())))
    predicate = _PREDICATES.get(first["type"], "is not valid").format_map(context)
    subject = f"`{_shortened(parameter)}`" if parameter else "the request"
    kind = UnsupportedParameter if first["type"] == "unsupported" else InvalidRequest
    return kind(f"{subject} {predicate}"[:MAX_MESSAGE_CHARACTERS], param=parameter or None)


_PREDICATES = {
    "refused": "{predicate}",
    "unsupported": "{predicate}",
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
}


def _path(parts: tuple[str | int, ...]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{_printable(part)}"
    return path.removeprefix(".")


def _shortened(path: str) -> str:
    """`path` with its middle left out where it would crowd out what the message has to say of it."""
    half = MAX_PATH_CHARACTERS // 2
    return path if len(path) <= MAX_PATH_CHARACTERS else f"{path[:half]}...{path[-half:]}"


def _printable(name: str) -> str:
    return _UNPRINTABLE.sub("?", name[:MAX_NAME_CHARACTERS]) or "?"


def _without_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        refuse("must not hold control characters")
    return text


def _not_vanishing(number: float) -> float:
    if vanishes(number):
        refuse("is too close to zero")
    return number


# One line of text: it may end up in a log, a header or a prompt's structure.
Line = Annotated[
    StrictStr,
    Field(min_length=1, json_schema_extra={"pattern": f"^[^{_CONTROL_CHARACTERS}]*$"}),
    AfterValidator(_without_control_characters),
]
# A finite number; integers count, true and "1" do not.
Number = Annotated[StrictFloat, AfterValidator(_not_vanishing)]
