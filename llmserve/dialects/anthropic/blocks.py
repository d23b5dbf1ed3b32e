"""The blocks of a message: what a conversation is made of in Anthropic's dialect, and as ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, StrictBool, StrictStr, model_validator

from llmserve.dialects.anthropic.fields import BLOCK_POLICY
from llmserve.dialects.kinds import as_text_parts, one_of, only
from llmserve.openai.fields import Policy
from llmserve.openai.json import dump_json
from llmserve.openai.schema import Line, Schema, refuse

MAX_BLOCKS = 4096

# Clients put what changes with every request here; told to the model, it would make every prompt new to the cache.
_BILLING = "x-anthropic-billing-header:"

_TYPES = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
_REQUIRED = {
    "text": ("text",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}
_ONLY_TEXT = only(("text",), "is not supported: only blocks of the type text are")


class TextBlock(Schema):
    """A block of text, as in `system` and in the result of a tool."""

    place: ClassVar[str] = "content[]."
    policy: ClassVar[Policy] = BLOCK_POLICY

    type: Annotated[Literal["text"], BeforeValidator(_ONLY_TEXT)] = "text"
    text: StrictStr


Texts = Annotated[tuple[TextBlock, ...], Field(max_length=MAX_BLOCKS), BeforeValidator(as_text_parts)]


class Block(Schema):
    """One block of a message; which fields it has depends on its type."""

    place: ClassVar[str] = "messages[].content[]."
    policy: ClassVar[Policy] = BLOCK_POLICY

    type: Annotated[str, BeforeValidator(one_of(_TYPES, "blocks"))] = Field(
        description="`text`, `thinking`, `redacted_thinking` (dropped: nobody here can read it), `tool_use` or "
        "`tool_result`."
    )
    text: StrictStr | None = Field(default=None, description="Of a `text`.")
    thinking: StrictStr | None = Field(
        default=None, description="Of a `thinking`; the model's template decides what becomes of it."
    )
    signature: StrictStr | None = Field(default=None, description="Of a `thinking`; not checked.")
    data: StrictStr | None = Field(default=None, description="Of a `redacted_thinking`.")
    id: Annotated[Line, Field(max_length=64)] | None = Field(default=None, description="Of a `tool_use`.")
    name: Annotated[Line, Field(max_length=64)] | None = Field(default=None, description="Of a `tool_use`.")
    input: dict[str, Any] | None = Field(default=None, description="Of a `tool_use`: an object.")
    tool_use_id: Annotated[Line, Field(max_length=64)] | None = Field(default=None, description="Of a `tool_result`.")
    content: Texts | None = Field(
        default=None, description="Of a `tool_result`: a string, or blocks of text, which are joined with line feeds."
    )
    is_error: StrictBool = Field(default=False, description="Of a `tool_result`: it is told to the model as an error.")

    @model_validator(mode="after")
    def _check_what_its_type_needs(self) -> Self:
        for name in _REQUIRED[self.type]:
            if getattr(self, name) is None:
                refuse("is required", name)
        return self


def _not_empty(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    if not blocks:
        refuse("must not be empty")
    return blocks


class AnthropicMessage(Schema):
    """A message of `/v1/messages`."""

    place: ClassVar[str] = "messages[]."

    role: Literal["user", "assistant", "system"] = Field(description="`user`, `assistant` or `system`.")
    content: Annotated[
        tuple[Block, ...],
        FailFast(),
        Field(max_length=MAX_BLOCKS),
        BeforeValidator(as_text_parts),
        AfterValidator(_not_empty),
    ] = Field(description=f"A string, or 1 to {MAX_BLOCKS} blocks; texts of one message are joined with line feeds.")

    @model_validator(mode="after")
    def _check_blocks_of_role(self) -> Self:
        for index, block in enumerate(self.content):
            if block.type == "tool_result" and self.role != "user":
                refuse("belongs to a message of the role `user`", "content", index)
            if block.type in {"tool_use", "thinking", "redacted_thinking"} and self.role != "assistant":
                refuse("belongs to a message of the role `assistant`", "content", index)
        return self


def system_text(blocks: Iterable[TextBlock]) -> str:
    """The system message, without what clients put there for their own accounts."""
    return "\n".join(block.text for block in blocks if not block.text.startswith(_BILLING))


def internal_messages(messages: Iterable[AnthropicMessage]) -> list[dict[str, Any]]:
    """`messages` as a chat request has them: results of tools are messages of their own, and turns are joined."""
    result: list[dict[str, Any]] = []
    for message in messages:
        for internal in _assistant(message) if message.role == "assistant" else _others(message):
            if result and _may_join(result[-1], internal):
                result[-1]["content"] += f"\n{internal['content']}"
            else:
                result.append(internal)
    return result


def _may_join(first: dict[str, Any], second: dict[str, Any]) -> bool:
    plain = {"role", "content"}
    return first["role"] == second["role"] and first.keys() == plain and second.keys() == plain


def _others(message: AnthropicMessage) -> Iterable[dict[str, Any]]:
    for block in message.content:
        if block.type == "tool_result":
            text = "\n".join(part.text for part in block.content or ())
            content = f"Error: {text}" if block.is_error else text
            yield {"role": "tool", "content": content, "tool_call_id": block.tool_use_id}
    texts = [block.text for block in message.content if block.text is not None]
    if texts:
        yield {"role": message.role, "content": "\n".join(texts)}


def _assistant(message: AnthropicMessage) -> Iterable[dict[str, Any]]:
    internal: dict[str, Any] = {"role": "assistant"}
    texts = [block.text for block in message.content if block.text is not None]
    thoughts = [block.thinking for block in message.content if block.thinking is not None]
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": dump_json(block.input).decode()},
        }
        for block in message.content
        if block.type == "tool_use"
    ]
    if texts or not calls:
        internal["content"] = "\n".join(texts)
    if thoughts:
        internal["reasoning_content"] = "\n".join(thoughts)
    if calls:
        internal["tool_calls"] = calls
    yield internal
