"""What becomes of the fields of Anthropic's requests that the schemas do not hold."""

from __future__ import annotations

from llmserve.openai.fields import Policy, Refused, WithoutEffect

_OWN_CACHE = WithoutEffect("the prompt cache is always on and finds shared prefixes by itself")
_NO_ACCOUNTS = WithoutEffect("there are no accounts here, and requests are not kept")
_NO_SERVER_TOOLS = Refused("this server runs no tools; offer functions, which the client runs")
_ONE_SERVICE = WithoutEffect("there is one service")

MESSAGES_POLICY: Policy = {
    "cache_control": _OWN_CACHE,
    "metadata": _NO_ACCOUNTS,
    "user_profile_id": _NO_ACCOUNTS,
    "workspace_id": _NO_ACCOUNTS,
    "diagnostics": WithoutEffect("`usage` tells what the cache knew"),
    "service_tier": _ONE_SERVICE,
    "inference_geo": _ONE_SERVICE,
    "speed": _ONE_SERVICE,
    "context_management": WithoutEffect("the conversation is used as it was sent"),
    "container": _NO_SERVER_TOOLS,
    "mcp_servers": _NO_SERVER_TOOLS,
    "output_format": Refused("use `output_config` with `format`"),
    "prefill": Refused("end `messages` with a message of the `assistant`"),
}

BLOCK_POLICY: Policy = {
    "cache_control": _OWN_CACHE,
    "citations": WithoutEffect("notes on a past answer are no part of the prompt"),
    "caller": WithoutEffect("the client runs every tool"),
    "toolset_name": WithoutEffect("the client runs every tool"),
}

TOOL_POLICY: Policy = {
    "cache_control": _OWN_CACHE,
    "allowed_callers": Refused("only the model itself calls tools", harmless=(["direct"],)),
    "defer_loading": Refused("every tool is told from the start", harmless=(False,)),
    "eager_input_streaming": WithoutEffect("arguments are always streamed as they are written"),
    "input_examples": WithoutEffect("the model is told the schema and the description"),
}

THINKING_POLICY: Policy = {
    "display": WithoutEffect("thoughts are shown as they are"),
}
