"""What becomes of the fields of Ollama's requests that the schemas do not hold."""

from __future__ import annotations

from llmserve.openai.fields import Policy, Refused, WithoutEffect

_NO_IMAGES = "this server reads text, not images"
_OWN_TEMPLATE = "the model's own chat template is used as it is"
_PLANNED = "how a model is loaded is planned for the machine; `llmserve plan` says why"
_NEVER_CUT = "what does not fit the context is refused with both numbers, and never cut"
_NO_QUANTIZING = "models are not converted here"

OPTIONS_POLICY: Policy = {
    "tfs_z": Refused("use `top_p`, `min_p` or `typical_p`", harmless=(1, 1.0)),
    "penalize_newline": Refused("line feeds are penalised like every token", harmless=(True,)),
    "num_keep": WithoutEffect("a running context is never cut, so nothing needs to be kept"),
    "num_ctx": WithoutEffect(f"the context is planned for the machine; {_NEVER_CUT}"),
    **dict.fromkeys(
        (
            *("num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa", "low_vram"),
            *("f16_kv", "draft_num_predict"),
        ),
        WithoutEffect(_PLANNED),
    ),
    "vocab_only": Refused(_PLANNED, harmless=(False,)),
    "embedding_only": Refused(_PLANNED, harmless=(False,)),
    "logits_all": Refused("use `logprobs`", harmless=(False,)),
}

MESSAGE_POLICY: Policy = {
    "images": Refused(_NO_IMAGES, harmless=([],)),
}

CHAT_POLICY: Policy = {
    "truncate": WithoutEffect(_NEVER_CUT),
    "shift": WithoutEffect(_NEVER_CUT),
}

GENERATE_POLICY: Policy = {
    **CHAT_POLICY,
    "images": Refused(_NO_IMAGES, harmless=([],)),
    "template": Refused(_OWN_TEMPLATE, harmless=("",)),
    "context": Refused("use `/api/chat`, which takes the conversation as messages", harmless=([],)),
    "logprobs": Refused("use `/api/chat`, or `/v1/completions`", harmless=(False,)),
    "top_logprobs": Refused("use `/api/chat`, or `/v1/completions`", harmless=(0,)),
    "width": Refused("this server writes text, not images"),
    "height": Refused("this server writes text, not images"),
    "steps": Refused("this server writes text, not images"),
}

EMBED_POLICY: Policy = {
    "truncate": WithoutEffect("an input that does not fit the context is refused, and never cut"),
}

SHOW_POLICY: Policy = {
    "verbose": WithoutEffect("the answer has everything that is known"),
}

PULL_POLICY: Policy = {
    "insecure": WithoutEffect("connections are always verified"),
    "username": Refused("set HF_TOKEN for the server instead", harmless=("",)),
    "password": Refused("set HF_TOKEN for the server instead", harmless=("",)),
}

CREATE_POLICY: Policy = {
    "files": Refused("files are not uploaded; `llmserve pull PATH` registers one where it lies", harmless=({},)),
    "adapters": Refused("files are not uploaded; `llmserve create` takes adapters", harmless=({},)),
    "messages": Refused("a model keeps no messages", harmless=([],)),
    "quantize": Refused(_NO_QUANTIZING, harmless=("",)),
    "draft_files": Refused("draft models are not supported", harmless=({},)),
    "draft_quantize": Refused(_NO_QUANTIZING, harmless=("",)),
    "license": WithoutEffect(
        "the licence is the one that the model's files state",
    ),
    "renderer": Refused(_OWN_TEMPLATE, harmless=("",)),
    "parser": Refused("the model's form of writing is read from its template", harmless=("",)),
    "requires": WithoutEffect("every model here runs with this version"),
    "modelfile": Refused("state `from`, `system` and `parameters` as fields", harmless=("",)),
    "path": Refused("state `from`, `system` and `parameters` as fields", harmless=("",)),
}

CREATE_PARAMETERS_POLICY: Policy = {
    **OPTIONS_POLICY,
    **dict.fromkeys(
        (
            *("stop", "top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty"),
            *("frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta"),
        ),
        Refused("a model keeps `temperature`, `top_p`, `seed` and `num_predict`; requests state the others"),
    ),
}
