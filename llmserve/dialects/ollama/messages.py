"""The messages of `/api/chat`, and what they are as ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, StrictStr, model_validator

from llmserve.dialects.ollama.fields import MESSAGE_POLICY
from llmserve.openai.fields import Policy, WithoutEffect
from llmserve.openai.json import dump_json
from llmserve.openai.messages import MAX_TOOL_CALLS
from llmserve.openai.schema import Line, Schema, refuse


def _arguments(arguments: object) -> object:
    if not isinstance(arguments, dict):
        refuse("must be an object")
    return arguments


class CalledFunction(Schema):
    place: ClassVar[str] = "messages[].tool_calls[].function."
    policy: ClassVar[Policy] = {
        "index": WithoutEffect("calls are kept in the order given"),
        "description": WithoutEffect("`tools` describe the functions"),
    }

    name: Annotated[Line, Field(max_length=64)]
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)] = Field(default={})


class OllamaToolCall(Schema):
    place: ClassVar[str] = "messages[].tool_calls[]."
    policy: ClassVar[Policy] = {"type": WithoutEffect("every tool is a function")}

    id: Annotated[Line, Field(max_length=64)] | None = None
    function: CalledFunction


class OllamaMessage(Schema):
    """A message of `/api/chat`."""

    place: ClassVar[str] = "messages[]."
    policy: ClassVar[Policy] = MESSAGE_POLICY

    role: Literal["system", "user", "assistant", "tool"] = Field(description="`system`, `user`, `assistant` or `tool`.")
    content: StrictStr = Field(default="", description="The text.")
    thinking: StrictStr | None = Field(
        default=None, description="Of an `assistant`: what it thought before it answered."
    )
    tool_calls: Annotated[tuple[OllamaToolCall, ...], FailFast(), Field(max_length=MAX_TOOL_CALLS)] = Field(
        default=(),
        description=f"Of an `assistant`: up to {MAX_TOOL_CALLS} calls it made earlier (`function` with `name` and an "
        "object of `arguments`, and perhaps an `id`).",
    )
    tool_name: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="Of a `tool`: the function whose result this is."
    )
    tool_call_id: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="Of a `tool`: the call that this message answers, where the call had an `id`."
    )

    @model_validator(mode="after")
    def _check_parts_of_role(self) -> Self:
        if self.role != "assistant" and self.tool_calls:
            refuse("belongs to a message of the role `assistant`", "tool_calls")
        if self.role != "assistant" and self.thinking is not None:
            refuse("belongs to a message of the role `assistant`", "thinking")
        return self


def internal_messages(messages: Iterable[OllamaMessage]) -> list[dict[str, Any]]:
    """`messages` as a chat request has them: each call gets an id, and each result the id of the call it answers.

    A result without an id answers the oldest open call of its function or, where it names none, the oldest of all.
    """
    open_calls: dict[str, str] = {}
    made = 0
    result: list[dict[str, Any]] = []
    for message in messages:
        internal: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            internal["reasoning_content"] = message.thinking
        calls: list[dict[str, Any]] = []
        for call in message.tool_calls:
            identity = call.id or f"call_{made}"
            made += 1
            open_calls[identity] = call.function.name
            arguments = dump_json(call.function.arguments).decode()
            function = {"name": call.function.name, "arguments": arguments}
            calls.append({"id": identity, "type": "function", "function": function})
        if calls:
            internal["tool_calls"] = calls
        if message.role == "tool":
            identity = message.tool_call_id or _answered(open_calls, message.tool_name) or f"call_{made}"
            open_calls.pop(identity, None)
            internal["tool_call_id"] = identity
            if message.tool_name is not None:
                internal["name"] = message.tool_name
        result.append(internal)
    return result


def _answered(open_calls: dict[str, str], function: str | None) -> str | None:
    return next((identity for identity, name in open_calls.items() if function in (None, name)), None)
