"""What becomes of the fields of the Responses API that the schemas do not hold."""

from __future__ import annotations

from llmserve.openai.fields import Policy, Refused, WithoutEffect

_NO_ACCOUNTS = WithoutEffect("there are no end-user accounts here")
_OWN_CACHE = WithoutEffect("the prompt cache is always on and finds shared prefixes by itself")
_NOT_CUT = "what does not fit the context is refused with both numbers, and never cut"
_NOTED_STATUS = WithoutEffect("what is sent is taken as it is")
_CLIENTS_CHOICE = WithoutEffect("the client decides how it runs a function")

RESPONSES_POLICY: Policy = {
    "conversation": Refused("use `previous_response_id`"),
    "prompt": Refused("this server keeps no prompts"),
    "context_management": Refused(_NOT_CUT, harmless=([],)),
    "truncation": Refused(_NOT_CUT, harmless=("disabled",)),
    "moderation": Refused("this server does not moderate text"),
    "image": Refused("this server reads and writes text, not images"),
    "background_options": WithoutEffect("a response in the background begins as soon as there is room"),
    "max_tool_calls": WithoutEffect("it limits tools that a server runs, and this one runs none"),
    "stream_options": WithoutEffect("events are never padded"),
    "service_tier": WithoutEffect("there is one tier"),
    "access_programs": WithoutEffect("there is one tier"),
    "user": _NO_ACCOUNTS,
    "safety_identifier": _NO_ACCOUNTS,
    "prompt_cache_key": _OWN_CACHE,
    "prompt_cache_options": _OWN_CACHE,
    "prompt_cache_retention": _OWN_CACHE,
    "stop": Refused("this API has no stop strings; `/v1/chat/completions` has"),
    "max_tokens": Refused("use `max_output_tokens`"),
    "messages": Refused("use `input`"),
    "response_format": Refused("use `text` with `format`"),
    "reasoning_effort": Refused("use `reasoning` with `effort`"),
}

ITEM_POLICY: Policy = {
    "status": _NOTED_STATUS,
    "phase": _NOTED_STATUS,
    "caller": WithoutEffect("the client runs every tool"),
    "async": _CLIENTS_CHOICE,
    "namespace": WithoutEffect("functions are known by their names"),
    "encrypted_content": WithoutEffect("nobody here can read it"),
}

PART_POLICY: Policy = {
    "annotations": WithoutEffect("notes on a past answer are no part of the prompt"),
    "logprobs": WithoutEffect("notes on a past answer are no part of the prompt"),
    "prompt_cache_breakpoint": _OWN_CACHE,
}

TOOL_POLICY: Policy = {
    "allowed_callers": Refused("only the model itself calls functions", harmless=(["direct"],)),
    "async": _CLIENTS_CHOICE,
    "defer_loading": Refused("every function is told from the start", harmless=(False,)),
    "output_schema": WithoutEffect("the model is told the parameters and the description"),
}

REASONING_POLICY: Policy = {
    "summary": WithoutEffect("thoughts are shown as they are"),
    "generate_summary": WithoutEffect("thoughts are shown as they are"),
    "mode": WithoutEffect("the model decides how it thinks"),
    "context": WithoutEffect("the model's template decides what becomes of past thoughts"),
}

TEXT_POLICY: Policy = {
    "verbosity": Refused("no model here has a setting for how much it writes", harmless=("medium",)),
}
