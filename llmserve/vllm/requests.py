"""A canonical request as vLLM's server takes it: the same meaning in its fields, or a refusal that names the field.

vLLM ignores what it does not know and answers 200, so nothing that it does not know may pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.json import dump_json, parse_json
from llmserve.vllm.served_model import ServedModel
from llmserve.vllm.tool_schemas import enforced

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOKENIZE = "/tokenize"

# Sampling that vLLM does not have, and the values that ask for none of it.
_ABSENT_SAMPLERS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "typical_p": (1.0,),
        "xtc_probability": (0.0,),
        "xtc_threshold": (),
        "dry_multiplier": (0.0,),
        "dry_base": (),
        "dry_allowed_length": (),
        "dry_penalty_last_n": (),
        "dry_sequence_breakers": ((), []),
        "mirostat": (0,),
        "mirostat_tau": (),
        "mirostat_eta": (),
        "repeat_last_n": (-1,),
    }
)
# Parameters of a sampler that is off mean nothing, and clients send them all the same.
_SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "xtc_threshold": "xtc_probability",
        "dry_base": "dry_multiplier",
        "dry_allowed_length": "dry_multiplier",
        "dry_penalty_last_n": "dry_multiplier",
        "dry_sequence_breakers": "dry_multiplier",
        "mirostat_tau": "mirostat",
        "mirostat_eta": "mirostat",
    }
)
_SHARED = frozenset(
    {
        *("stream", "stream_options", "max_tokens", "n", "stop", "response_format", "structured_outputs"),
        *("seed", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "logit_bias", "ignore_eos", "logprobs"),
    }
)
_KNOWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        CHAT: _SHARED
        | {
            *("messages", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs", "reasoning_effort"),
            *("thinking_token_budget", "chat_template_kwargs", "documents"),
            *("add_generation_prompt", "continue_final_message"),
        },
        COMPLETIONS: _SHARED | {"prompt", "echo"},
        "/v1/embeddings": frozenset({"input", "encoding_format", "dimensions"}),
        "/v1/rerank": frozenset({"query", "documents", "top_n", "return_documents"}),
        TOKENIZE: frozenset(
            {
                *("prompt", "add_special_tokens", "return_token_strs"),
                *("messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs", "documents"),
                *("add_generation_prompt", "continue_final_message"),
            }
        ),
        "/detokenize": frozenset({"tokens"}),
    }
)
_PROMPT_FIELDS: Mapping[str, str] = MappingProxyType(
    {CHAT: "messages", "/v1/embeddings": "input", "/v1/rerank": "query"}
)


def translated(path: str, body: bytes, model: ServedModel) -> dict[str, Any]:
    """What to send to `path` for the canonical request `body`.

    Raises `UnsupportedParameter` for what vLLM cannot do, and `InvalidRequest` for tools that nothing could read.
    """
    request = parse_json(body)
    if not isinstance(request, dict) or path not in _KNOWN:
        raise InvalidRequest("this model does not answer at this route")
    for field in request.keys() & _ABSENT_SAMPLERS.keys():
        _refuse_absent_sampler(field, request)
    if request.get("suffix"):
        raise UnsupportedParameter("vLLM does not fill gaps", param="suffix", hint="llama.cpp does, with a GGUF file")
    sent = {field: value for field, value in request.items() if field in _KNOWN[path]}
    if unknown := request.keys() - sent.keys() - _ABSENT_SAMPLERS.keys() - {"model", "suffix"}:
        field = min(unknown)
        raise UnsupportedParameter(f"`{field}` is not honoured by vLLM", param=field)
    sent["model"] = model.name
    if sent.get("max_tokens", 0) >= model.context:
        # vLLM refuses a limit beyond the context; without one, what the context leaves is the limit.
        del sent["max_tokens"]
    if path == CHAT:
        _adapt_chat(sent, model)
    elif path == TOKENIZE and "messages" in sent:
        _adapt_prompt(sent)
    return sent


def take_copies(request: dict[str, Any]) -> int:
    """How often the answer to a translated request is to be told, which is then asked for once.

    Several greedy answers are an error to vLLM, and all the same. (A draw among the likeliest one would not do: where
    two tokens are equally likely, which is frequent in 16 bits, both are in it.)
    """
    if request.get("temperature") == 0:
        return int(request.pop("n", 1))
    return 1


def encoded(request: Mapping[str, Any]) -> bytes:
    """The body to send."""
    return dump_json(request)


def prompt_field(path: str) -> str:
    """The field in which a request to `path` has its prompt."""
    return _PROMPT_FIELDS.get(path, "prompt")


def _refuse_absent_sampler(field: str, request: Mapping[str, Any]) -> None:
    if any(request[field] == harmless for harmless in _ABSENT_SAMPLERS[field]):
        return
    switch = _SWITCHES.get(field)
    if switch is not None and not request.get(switch):
        return
    raise UnsupportedParameter(f"vLLM has no `{field}`", param=field)


def _adapt_chat(request: dict[str, Any], model: ServedModel) -> None:
    """Change in place what vLLM spells otherwise."""
    if not request.get("tools"):
        # Both are errors there when no tools are beside them.
        request.pop("tools", None)
        request.pop("tool_choice", None)
    elif model.tool_parser is None and request.get("tool_choice") != "none":
        raise InvalidRequest(
            f"how `{model.name}` writes function calls is not known, so it cannot be asked for any",
            param="tools",
            hint="name its parser in models.toml (`tool_parser`, one of vLLM's), or use a GGUF file of the model",
        )
    elif request.get("tool_choice") == "required" or isinstance(request.get("tool_choice"), dict):
        request["tools"] = [enforced(tool) for tool in request["tools"]]
    if request.get("continue_final_message"):
        request["add_generation_prompt"] = False
    if model.reasoning_parser is None:
        # Nothing tells the thoughts from the rest, so there is nothing to limit.
        request.pop("thinking_token_budget", None)


def _adapt_prompt(request: dict[str, Any]) -> None:
    """Change in place a request for a chat's tokens, so that they are those of the same chat sent to be answered.

    What vLLM takes from a chat itself, it takes here from the template's arguments.
    """
    request.pop("tool_choice", None)
    if not request.get("tools"):
        request.pop("tools", None)
    if request.get("continue_final_message"):
        request["add_generation_prompt"] = False
    arguments: dict[str, Any] = {}
    effort = request.pop("reasoning_effort", None)
    if effort is not None:
        arguments |= {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    if documents := request.pop("documents", None):
        arguments["documents"] = documents
    arguments |= request.get("chat_template_kwargs", {})
    if arguments:
        request["chat_template_kwargs"] = arguments
    for message in request["messages"]:
        if (thoughts := message.pop("reasoning_content", None)) is not None:
            message["reasoning"] = thoughts
