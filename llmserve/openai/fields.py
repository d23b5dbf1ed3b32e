"""The field policy: what becomes of each request field that the schema itself does not hold.

Every field that OpenAI publishes has a decision. A field of the schema (`requests.py`) is honoured. A field here is
refused with a 400 that says why, unless its value asks for nothing, or it is accepted and has no effect, which is
allowed only where the answer is the same without it. A field in neither place is unknown: never forwarded, and
reported. null is the same as absent, for every field.

Fields of other servers that would silently change what the answer means are refused too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refused:
    """A field answered with a 400, and the sentence why.

    `harmless` are the values that ask for nothing and are therefore accepted; so is one equal to the request's field
    `same_as`, where an absent field counts as 1.
    """

    reason: str
    harmless: tuple[object, ...] = ()
    same_as: str | None = None

    def accepts(self, value: object, request: Mapping[str, object]) -> bool:
        accepted = self.harmless
        if self.same_as is not None:
            accepted = (*accepted, request.get(self.same_as, 1))
        # The type counts too: 0 == False in Python, and they are different answers to the same question.
        return any(type(value) is type(item) and value == item for item in accepted)


@dataclass(frozen=True, slots=True)
class WithoutEffect:
    """A field that is accepted and changes nothing here, and the sentence why."""

    reason: str


Policy = Mapping[str, Refused | WithoutEffect]

_NOW_TOOLS = "it was replaced by `tools` and `tool_choice`"
_NO_AUDIO = "this server writes text, not audio"
_NO_TEMPLATE = "a text completion has no chat template"
_OWN_TEMPLATE = "the model's own chat template is used as it is"
_OWN_WHITE_SPACE = "how much white space JSON may hold is fixed"
_NO_ACCOUNTS = "there are no end-user accounts here, and requests are not kept"
_OWN_CACHE = "the prompt cache is always on, finds shared prefixes by itself and lives with the model"

_FOREIGN: Policy = {
    "prompt_embeds": Refused("a prompt is text or token ids, never tensors"),
    "chat_template": Refused(_OWN_TEMPLATE),
    "grammar": Refused("use `structured_outputs` with `grammar`", harmless=("",)),
    "json_schema": Refused("use `response_format`, or `structured_outputs` with `json`"),
    "guided_json": Refused("use `structured_outputs` with `json`"),
    "guided_regex": Refused("use `structured_outputs` with `regex`"),
    "guided_choice": Refused("use `structured_outputs` with `choice`"),
    "guided_grammar": Refused("use `structured_outputs` with `grammar`"),
}

CHAT_POLICY: Policy = {
    "functions": Refused(_NOW_TOOLS, harmless=([],)),
    "function_call": Refused(_NOW_TOOLS, harmless=("none",)),
    "audio": Refused(_NO_AUDIO),
    "modalities": Refused(_NO_AUDIO, harmless=(["text"],)),
    "prediction": Refused("this server does not take predicted output"),
    "web_search_options": Refused("this server does not search the web"),
    "moderation": Refused("this server does not moderate text"),
    "verbosity": Refused("no model here has a setting for how much it writes", harmless=("medium",)),
    "user": WithoutEffect(_NO_ACCOUNTS),
    "safety_identifier": WithoutEffect(_NO_ACCOUNTS),
    "metadata": WithoutEffect(_NO_ACCOUNTS),
    "store": WithoutEffect("answers are not stored, whatever the value"),
    "service_tier": WithoutEffect("there is one tier"),
    "prompt_cache_key": WithoutEffect(_OWN_CACHE),
    "prompt_cache_options": WithoutEffect(_OWN_CACHE),
    "prompt_cache_retention": WithoutEffect(_OWN_CACHE),
    **_FOREIGN,
}

COMPLETION_POLICY: Policy = {
    "best_of": Refused("every candidate is returned, so it must equal `n`", same_as="n"),
    "chat_template_kwargs": Refused(_NO_TEMPLATE, harmless=({},)),
    "add_generation_prompt": Refused(_NO_TEMPLATE, harmless=(True,)),
    "continue_final_message": Refused(_NO_TEMPLATE, harmless=(False,)),
    "thinking_token_budget": Refused("the reasoning in a text completion is not told from the rest"),
    "user": WithoutEffect(_NO_ACCOUNTS),
    **_FOREIGN,
}

MESSAGE_POLICY: Policy = {
    "audio": Refused(_NO_AUDIO),
    "function_call": Refused("it was replaced by `tool_calls`"),
    "refusal": WithoutEffect("a past refusal is no part of the prompt"),
    "annotations": WithoutEffect("notes on a past answer are no part of the prompt"),
}

TOOL_CALL_POLICY: Policy = {
    "index": WithoutEffect("calls are kept in the order given"),
}

STREAM_OPTIONS_POLICY: Policy = {
    "include_obfuscation": WithoutEffect("events are never padded"),
}

STRUCTURED_OUTPUTS_POLICY: Policy = {
    "json_object": Refused("use `response_format` of the type `json_object`", harmless=(False,)),
    "structural_tag": Refused("use `grammar`"),
    "whitespace_pattern": Refused(_OWN_WHITE_SPACE),
    "disable_any_whitespace": Refused(_OWN_WHITE_SPACE, harmless=(False,)),
    "disable_additional_properties": Refused("use `additionalProperties` in the schema", harmless=(False,)),
}

EMBEDDING_POLICY: Policy = {
    "user": WithoutEffect(_NO_ACCOUNTS),
}

TOKENIZE_POLICY: Policy = {
    "parse_special": Refused("text never becomes control tokens", harmless=(False,)),
    "with_pieces": Refused("use `return_token_strs`", harmless=(False,)),
}

TOKENIZE_CHAT_POLICY: Policy = {
    "prompt": Refused("a request has either `prompt` or `messages`"),
    "content": Refused("a request has either `content` or `messages`"),
    "chat_template": Refused(_OWN_TEMPLATE),
    "add_special_tokens": WithoutEffect("the prompt has the special tokens that the chat's has, whatever the value"),
    **TOKENIZE_POLICY,
}
