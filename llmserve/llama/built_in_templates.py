"""Chat templates for models that bring none: small ones, by what the families were trained on.

They show system, user and assistant messages. Tools and their calls reach such a model as text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from llmserve.errors import SettingsError

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}


def _turns(
    before: str, between: str, after: str, *, start: str = "", roles: Mapping[str, str] | None = None, prompt: str = ""
) -> str:
    """Messages as `before` role `between` text `after`.

    `roles` are the family's names for OpenAI's; a message of another role is refused. `prompt` is where an answer
    begins, if that is not all that stands before its text.
    """
    names = dict(roles or _ROLES)
    return (
        f"{start}{{% set names = {names!r} %}}"
        f"{{% for message in messages %}}{{{{ {before!r} + names[message['role']] + {between!r} }}}}"
        f"{{{{ message['content'] + {after!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {(prompt or before + names['assistant'] + between)!r} }}}}{{% endif %}}"
    )


def _instructions(system_before: str, system_after: str, end: str) -> str:
    """Llama 2's and Mistral's form: questions in `[INST]`, the system message inside the first of them."""
    return (
        "{% set ns = namespace(system='') %}{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{{% set ns.system = ns.system + {system_before!r} "
        f"+ message['content'] + {system_after!r} %}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ ' ' + message['content'] + {end!r} }}}}"
        "{% else %}{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}{% set ns.system = '' %}{% endif %}"
        "{% endfor %}"
    )


CHATML = _turns("<|im_start|>", "\n", "<|im_end|>\n")
_BOS = "{{ bos_token }}"

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "chatml": CHATML,
        "llama2": _instructions("<<SYS>>\n", "\n<</SYS>>\n\n", "</s>"),
        "llama3": _turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", start=_BOS),
        "llama4": _turns("<|header_start|>", "<|header_end|>\n\n", "<|eot|>", start=_BOS),
        "mistral": _instructions("", "\n\n", "</s>"),
        "gemma": _turns(
            "<start_of_turn>", "\n", "<end_of_turn>\n", start=_BOS, roles={"user": "user", "assistant": "model"}
        ),
        "phi3": _turns("<|", "|>\n", "<|end|>\n"),
        "phi4": _turns("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        "zephyr": _turns("<|", "|>\n", "</s>\n"),
        "granite": _turns("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\n"),
        "harmony": _turns("<|start|>", "<|message|>", "<|end|>", prompt="<|start|>assistant"),
        "command-r": _turns(
            "<|START_OF_TURN_TOKEN|>",
            "",
            "<|END_OF_TURN_TOKEN|>",
            start=_BOS,
            roles={"system": "<|SYSTEM_TOKEN|>", "user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|>"},
        ),
        "deepseek": _turns(
            "", "", "", start=_BOS, roles={"system": "", "user": "<｜User｜>", "assistant": "<｜Assistant｜>"}
        ),
    }
)

# A family leaves its own control tokens in the vocabulary: the surest sign of what a model was trained on. The first
# row whose tokens are all there decides.
_BY_TOKENS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|im_start|>", "<|im_sep|>"), "phi4"),
    (("<|im_start|>",), "chatml"),
    (("<|start_header_id|>",), "llama3"),
    (("<|header_start|>",), "llama4"),
    (("<start_of_turn>",), "gemma"),
    (("<|start_of_role|>",), "granite"),
    (("<|START_OF_TURN_TOKEN|>",), "command-r"),
    (("<｜User｜>",), "deepseek"),
    (("<|start|>", "<|message|>"), "harmony"),
    (("<|assistant|>", "<|end|>"), "phi3"),
    (("[INST]",), "mistral"),
    (("<|assistant|>",), "zephyr"),
)
# Where the vocabulary says nothing. ChatML for the rest, as it is what most models have seen.
_BY_ARCHITECTURE: Mapping[str, str] = MappingProxyType(
    {
        "gemma": "gemma",
        "gemma2": "gemma",
        "gemma3": "gemma",
        "phi3": "phi3",
        "mistral3": "mistral",
        "llama4": "llama4",
        "granite": "granite",
        "granitemoe": "granite",
        "command-r": "command-r",
        "cohere2": "command-r",
        "deepseek2": "deepseek",
        "gpt-oss": "harmony",
    }
)


def choose_built_in(architecture: str | None, control_texts: Collection[str]) -> str:
    """The name of the built-in template for a model of this GGUF architecture with these control tokens."""
    known = frozenset(control_texts)
    for texts, name in _BY_TOKENS:
        if known.issuperset(texts):
            return name
    return _BY_ARCHITECTURE.get(architecture or "", "chatml")


def built_in(name: str) -> str:
    """The template of that name. Raises `SettingsError`."""
    if name not in BUILT_IN:
        raise SettingsError(f"there is no chat template named {name!r}", hint=f"there are: {', '.join(BUILT_IN)}")
    return BUILT_IN[name]
