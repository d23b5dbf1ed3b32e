"""The items of a conversation: a closed schema of what a request may send, and the chat messages that they are.

Kept items (those of earlier responses) are plain objects in the shape in which the API shows them; they were validated
when they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, StrictStr, ValidationInfo, model_validator

from llmserve.dialects.kinds import as_text_parts, one_of, only
from llmserve.dialects.responses.fields import ITEM_POLICY, PART_POLICY
from llmserve.openai.fields import Policy
from llmserve.openai.schema import Line, Schema, refuse

MAX_ITEMS = 4096
MAX_PARTS = 4096

_TYPES = ("message", "function_call", "function_call_output", "reasoning")
_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_REQUIRED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class Part(Schema):
    place: ClassVar[str] = "input[].content[]."
    policy: ClassVar[Policy] = PART_POLICY

    type: Annotated[str, BeforeValidator(only(_TEXT_PARTS, "is not supported: only parts of text are"))]
    text: StrictStr


def _role(role: object) -> object:
    if role not in _ROLES:
        refuse(f"must be one of {', '.join(_ROLES)}")
    return role


_Parts = Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS), BeforeValidator(as_text_parts)]


class InputItem(Schema):
    """One item of `input`; which fields it has depends on its type."""

    place: ClassVar[str] = "input[]."
    policy: ClassVar[Policy] = ITEM_POLICY

    type: Annotated[str, BeforeValidator(one_of(_TYPES, "items"))] = Field(
        default="message",
        description="`message` (the default), `function_call`, `function_call_output` or `reasoning`.",
    )
    id: Annotated[Line, Field(max_length=128)] | None = Field(
        default=None, description="Kept, and made up where it is absent."
    )
    role: Annotated[str, BeforeValidator(_role)] | None = Field(
        default=None, description="Of a `message`: `user`, `assistant`, `system` or `developer` (the same)."
    )
    content: _Parts | None = Field(
        default=None,
        description="Of a `message`: a string or parts of text, which are joined with line feeds. Of a `reasoning`: "
        "its text.",
    )
    summary: _Parts = Field(default=(), description="Of a `reasoning`: read where it has no `content`.")
    call_id: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="Of a `function_call` and its `function_call_output`."
    )
    name: Annotated[Line, Field(max_length=64)] | None = Field(default=None, description="Of a `function_call`.")
    arguments: StrictStr | None = Field(default=None, description="Of a `function_call`: JSON text.")
    output: _Parts | None = Field(
        default=None, description="Of a `function_call_output`: a string or parts of text, joined with line feeds."
    )

    @model_validator(mode="before")
    @classmethod
    def _check_is_an_item(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, dict) and data.get("type") is None and data.get("id") and "role" not in data:
            refuse("is not supported: a reference to an item; send the item itself", unsupported=True)
        return data

    @model_validator(mode="after")
    def _check_what_its_type_needs(self) -> Self:
        for name in _REQUIRED[self.type]:
            if getattr(self, name) is None:
                refuse("is required", name)
        return self

    def shown(self, id: str) -> dict[str, Any]:
        """The item as the API shows it and as it is kept; `id` is the one it gets where it has none."""
        head = {"id": self.id or id, "type": self.type}
        match self.type:
            case "message":
                kind = "output_text" if self.role == "assistant" else "input_text"
                notes: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
                content = [{"type": kind, "text": part.text, **notes} for part in self.content or ()]
                return {**head, "status": "completed", "role": self.role, "content": content}
            case "function_call":
                fields = {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
                return {**head, "status": "completed", **fields}
            case "function_call_output":
                return {**head, "status": "completed", "call_id": self.call_id, "output": _joined(self.output)}
            case _:
                content = [{"type": "reasoning_text", "text": part.text} for part in self.content or self.summary]
                return {**head, "summary": [], "content": content}


def _as_items(items: object) -> object:
    return [{"type": "message", "role": "user", "content": items}] if isinstance(items, str) else items


def _not_empty(items: tuple[InputItem, ...]) -> tuple[InputItem, ...]:
    if not items:
        refuse("must not be empty")
    return items


InputItems = Annotated[
    tuple[InputItem, ...],
    FailFast(),
    Field(max_length=MAX_ITEMS),
    BeforeValidator(_as_items),
    AfterValidator(_not_empty),
]


def shown_items(items: Iterable[InputItem], response_id: str) -> list[dict[str, Any]]:
    """`items` as the API shows them, with ids that are the same each time they are asked for."""
    return [item.shown(item_id(item.type, response_id, f"i{index}")) for index, item in enumerate(items)]


def item_id(kind: str, response_id: str, place: str) -> str:
    """The id of the item at a place in a response."""
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}_{place}"


def internal_messages(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kept `items` as the messages of a chat: an assistant's thoughts, text and calls that follow are one message."""
    result: list[dict[str, Any]] = []
    turn: dict[str, Any] = {}  # what the assistant has said since somebody else spoke

    def end_turn() -> None:
        # Thoughts alone are nothing that a chat could hold.
        if "content" in turn or "tool_calls" in turn:
            result.append({"role": "assistant", **turn})
        turn.clear()

    for item in items:
        match item["type"]:
            case "reasoning":
                if "content" in turn or "tool_calls" in turn:
                    end_turn()
                turn["reasoning_content"] = turn.get("reasoning_content", "") + _text(item["content"])
            case "message" if item["role"] == "assistant":
                if "content" in turn or "tool_calls" in turn:
                    end_turn()
                turn["content"] = _text(item["content"])
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                turn.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
            case "function_call_output":
                end_turn()
                result.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
            case _:
                end_turn()
                result.append({"role": _ROLES[item["role"]], "content": _text(item["content"])})
    end_turn()
    return result


def _text(parts: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(part["text"] for part in parts)


def _joined(parts: Iterable[Part] | None) -> str:
    return "\n".join(part.text for part in parts or ())
