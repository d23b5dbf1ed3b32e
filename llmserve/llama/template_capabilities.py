"""What a chat template makes of a conversation, found out by rendering small ones.

Hugging Face fixes the names that a template gets, but not whether it wants text as a string or in parts, arguments as
an object or as text, or what it does with system messages and tools. Reading its source would need a rule for every
family; looking at what it writes needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from llmserve.errors import InvalidRequest

Render = Callable[[Mapping[str, Any]], str]

_USUAL = "reasoning_content"

# Words that stand in no template. They are of letters and digits only, so that no filter changes them.
_TEXT = "zq7Text"
_SYSTEM = "zq7System"
_NAME = "zq7name"
_ARGUMENT = "zq7argument"
_VALUE = "zq7value"
_RESULT = "zq7result"
_REASON = "zq7Reason"
_DOCUMENT = "zq7Document"
_ID = "zq7zq7zq7zq7"
# Mistral's templates insist on identifiers of nine letters and digits.
_SHORT_ID_LENGTH = 9
_REASONING_FIELDS = (_USUAL, "thinking", "reasoning")

_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {_ARGUMENT: {"type": "string", "description": "A text."}}},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateCapabilities:
    """The defaults are what a template gets that could not be probed.

    `parts`: content has to be a list of parts. `system`: system messages are shown where they stand first. `tools`:
    the tools of a request are shown. `documents`: so are its documents. `tool_calls`: calls and their results in the
    conversation are shown. `tool_results`: results are, whether or not the calls are. `argument_objects`: a call's
    arguments are given as an object, not as JSON text. `null_content`: a message that only calls has no content,
    rather than an empty one. `call_id_length`: how long the identifier of a call has to be, None for any length.
    `reasoning_field`: the field of a message in which the template looks for its reasoning.
    """

    parts: bool = False
    system: bool = True
    tools: bool = False
    documents: bool = False
    tool_calls: bool = False
    tool_results: bool = False
    argument_objects: bool = True
    null_content: bool = False
    call_id_length: int | None = None
    reasoning_field: str = "reasoning_content"


class _Form(NamedTuple):
    """One way to write calls down."""

    parts: bool
    call_id_length: int | None
    argument_objects: bool
    null_content: bool


def probe(render: Render) -> TemplateCapabilities:
    """`render` raises `InvalidRequest` for what the template refuses."""
    parts = not _shows(render, [_message("user", _TEXT)], _TEXT) and _shows(
        render, [_message("user", _TEXT, parts=True)], _TEXT
    )
    user = _message("user", _TEXT, parts=parts)
    forms = [_Form(parts, *rest) for rest in product((None, _SHORT_ID_LENGTH), (True, False), (False, True))]
    found = next((form for form in forms if _shows_calls(render, form)), None)
    form = found or forms[0]
    return TemplateCapabilities(
        parts=parts,
        system=_shows(render, [_message("system", _SYSTEM, parts=parts), user], _SYSTEM),
        tools=_shows(render, [user], _NAME),
        documents=_shows_documents(render, user),
        tool_calls=found is not None,
        tool_results=_shows_results(render, form),
        argument_objects=form.argument_objects,
        null_content=form.null_content,
        call_id_length=form.call_id_length,
        reasoning_field=next((name for name in _REASONING_FIELDS if _shows_reasoning(render, form, name)), _USUAL),
    )


def _shows_calls(render: Render, form: _Form) -> bool:
    text = _render(render, _conversation(form), [_TOOL]) or ""
    # The name also stands in the list of tools, which most templates begin with and some put before the last message.
    listed = _render(render, [_message("user", _TEXT, parts=form.parts)], [_TOOL]) or ""
    # Single quotes are Python's way to write an object, backslashes come from JSON inside of JSON: no model was
    # trained on either.
    return (
        _RESULT in text
        and _VALUE in text
        and text.count(_NAME) > listed.count(_NAME)
        and f"'{_VALUE}'" not in text
        and f'\\"{_VALUE}' not in text
    )


def _shows_results(render: Render, form: _Form) -> bool:
    """Only of a template that knows tools: any other shows them in a role that its model never saw."""
    question, _, result = _conversation(form)
    answered = [question, _message("assistant", _SYSTEM, parts=form.parts), result]
    text = _render(render, answered, [_TOOL]) or ""
    return _RESULT in text and _NAME in text


def _shows_reasoning(render: Render, form: _Form, field: str) -> bool:
    return _shows(render, _conversation(form, **{field: _REASON}), _REASON)


def _shows_documents(render: Render, user: dict[str, Any]) -> bool:
    documents = [{"title": _NAME, "text": _DOCUMENT}]
    variables = {"messages": [user], "documents": documents, "add_generation_prompt": True}
    return any(_DOCUMENT in (_rendered(render, {**variables, "tools": tools}) or "") for tools in (None, [_TOOL]))


def _conversation(form: _Form, **fields: str) -> list[dict[str, Any]]:
    """A question, a call whose message has `fields` besides, and the call's result."""
    identity = _ID[: form.call_id_length] if form.call_id_length else f"call_{_ID}"
    arguments = {_ARGUMENT: _VALUE} if form.argument_objects else f'{{"{_ARGUMENT}": "{_VALUE}"}}'
    call = {"id": identity, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return [
        _message("user", _TEXT, parts=form.parts),
        {"role": "assistant", "content": None if form.null_content else "", "tool_calls": [call], **fields},
        {**_message("tool", _RESULT, parts=form.parts), "tool_call_id": identity, "name": _NAME},
    ]


def _shows(render: Render, messages: Sequence[dict[str, Any]], word: str) -> bool:
    """Whether `word` is shown, with tools or without: some templates exist for one of the two only."""
    return any(word in (_render(render, messages, tools) or "") for tools in (None, [_TOOL]))


def _render(
    render: Render, messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> str | None:
    return _rendered(render, {"messages": messages, "tools": tools, "add_generation_prompt": True})


def _rendered(render: Render, variables: Mapping[str, Any]) -> str | None:
    try:
        return render(variables)
    except InvalidRequest:
        return None


def _message(role: str, text: str, *, parts: bool = False) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
