"""The bodies of Ollama's requests, and the internal requests they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, FailFast, Field, StrictBool, StrictInt, StrictStr

from llmserve.dialects.ollama.duration import keep_alive_seconds
from llmserve.dialects.ollama.fields import (
    CHAT_POLICY,
    CREATE_PARAMETERS_POLICY,
    CREATE_POLICY,
    EMBED_POLICY,
    GENERATE_POLICY,
    OPTIONS_POLICY,
    PULL_POLICY,
    SHOW_POLICY,
)
from llmserve.dialects.ollama.messages import OllamaMessage, internal_messages
from llmserve.dialects.ollama.schemas import closed
from llmserve.dialects.translation import chat_request, internal_request
from llmserve.openai.chat_input import MAX_MESSAGES
from llmserve.openai.embeddings import MAX_DIMENSIONS, MAX_INPUTS, EmbeddingRequest
from llmserve.openai.fields import Policy
from llmserve.openai.json_schema import SCHEMA_BOUNDS, bounded_schema
from llmserve.openai.prompts import Prompts, prompts
from llmserve.openai.requests import (
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    ChatRequest,
    CompletionRequest,
    ModelRequest,
    stop_strings,
)
from llmserve.openai.sampling import Sampling
from llmserve.openai.schema import Line, Number, Schema, refuse
from llmserve.openai.tools import MAX_TOOLS, Tools

_MODEL = "Name of the model: 1 to 512 characters, no control characters."
_BOTH_NAMES = "Both names mean the same and must agree."
# What clients state for "no limit" and "until the context is full".
_NO_LIMIT = (-1, -2)

Form = dict[str, Any] | Literal["json", ""]
Thinking = bool | Literal["low", "medium", "high", "max"]


def _form(form: object) -> object:
    if form in ("json", ""):
        return form
    if not isinstance(form, dict):
        refuse("must be 'json' or a JSON schema")
    return bounded_schema(form)


def _thinking_level(thinking: object) -> object:
    if not isinstance(thinking, bool) and thinking not in ("low", "medium", "high", "max"):
        refuse("must be true, false, 'low', 'medium', 'high' or 'max'")
    return thinking


class OllamaOptions(Sampling):
    """`options` of a request; what decides how a model is loaded has no effect."""

    place: ClassVar[str] = "options."
    policy: ClassVar[Policy] = OPTIONS_POLICY
    extensions: ClassVar[frozenset[str]] = frozenset(
        {
            *("xtc_probability", "xtc_threshold", "logit_bias", "ignore_eos"),
            *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
            *("mirostat", "mirostat_tau", "mirostat_eta"),
        }
    )

    num_predict: Annotated[StrictInt, Field(ge=-2, le=MAX_TOKENS)] | None = Field(
        default=None,
        description="At most so many tokens are written; -1 and -2 leave it to the server's own limit.",
    )
    stop: Annotated[tuple[str, ...], BeforeValidator(stop_strings)] = Field(
        default=(),
        description=f"A string or up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters; "
        "the answer ends before the first that occurs.",
    )

    def internal(self) -> dict[str, Any]:
        """The options as fields of a request for text."""
        fields = self.model_dump(exclude_unset=True)
        limit = fields.pop("num_predict", None)
        if limit is not None and limit not in _NO_LIMIT:
            fields["max_tokens"] = limit
        if fields.get("seed") == -1:
            del fields["seed"]  # "a random one"
        if stop := fields.pop("stop", ()):
            fields["stop"] = list(stop)
        return fields


class _ModelBody(ModelRequest):
    """A body that names a model, under either of the names that Ollama has had for it."""

    model: Annotated[Line, Field(max_length=512)] = Field(
        validation_alias=AliasChoices("model", "name"), description=f"{_MODEL} {_BOTH_NAMES}"
    )


class _TextBody(_ModelBody):
    """What `/api/chat` and `/api/generate` share."""

    stream: StrictBool = Field(default=True, description="Send the answer as lines of JSON while it is written.")
    options: OllamaOptions = Field(
        default=OllamaOptions(), description="How tokens are chosen and when to stop; see the table of its own."
    )
    format: Annotated[Form, BeforeValidator(_form)] | None = Field(
        default=None,
        description=f"`json`, or a JSON schema the answer follows ({SCHEMA_BOUNDS}); its "
        "objects have no properties beyond those it names, unless it says that they may.",
    )
    think: Annotated[Thinking, BeforeValidator(_thinking_level)] | None = Field(
        default=None,
        description="Whether the model thinks before it answers, or how much (`low`, `medium`, `high`, `max`), where "
        "its template lets it be chosen.",
    )
    keep_alive: Annotated[float, BeforeValidator(keep_alive_seconds)] | None = Field(
        default=None,
        description="How long the model stays loaded after the answer: seconds, or a duration such as `5m`; 0 unloads "
        "it when nobody else uses it, a negative one keeps it.",
    )

    def _shared(self) -> dict[str, Any]:
        fields = self.options.internal()
        fields["model"] = self.model
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.format == "json":
            fields["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            schema = {"name": "format", "schema": closed(self.format), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields

    def _thinking(self) -> dict[str, Any]:
        if self.think is None:
            return {}
        if self.think is True:
            return {"chat_template_kwargs": {"enable_thinking": True}}
        return {"reasoning_effort": self.think or "none"}


class OllamaChatRequest(_TextBody):
    """A body of `POST /api/chat`. Without messages it loads the model, or unloads it."""

    policy: ClassVar[Policy] = CHAT_POLICY

    messages: Annotated[tuple[OllamaMessage, ...], FailFast(), Field(max_length=MAX_MESSAGES)] = Field(
        default=(),
        description=f"The conversation so far: up to {MAX_MESSAGES} messages. Without any the model is loaded or, with "
        "a `keep_alive` of 0, unloaded.",
    )
    tools: Tools = Field(
        default=(), description=f"Up to {MAX_TOOLS} functions the model may call, as in `/v1/chat/completions`."
    )
    logprobs: StrictBool = Field(default=False, description="Report the log probability of each token of the answer.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None, description=f"0 to {MAX_TOP_LOGPROBS}: so many of the likeliest tokens are reported beside each."
    )

    @property
    def asks_nothing(self) -> bool:
        return not self.messages

    def internal(self, system: str | None = None, defaults: Mapping[str, Any] | None = None) -> ChatRequest:
        """The chat request this is. `system` and the fields in `defaults` are the model's own, where it states none."""
        messages = internal_messages(self.messages)
        if system and not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": system})
        fields = {**self._shared(), **self._thinking(), "messages": messages}
        if self.tools:
            fields["tools"] = self.tools
        if self.logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        return chat_request({**(defaults or {}), **fields})


class OllamaGenerateRequest(_TextBody):
    """A body of `POST /api/generate`. Without a prompt it loads the model, or unloads it."""

    policy: ClassVar[Policy] = GENERATE_POLICY

    prompt: StrictStr = Field(
        default="",
        description="What to answer. Without one the model is loaded or, with a `keep_alive` of 0, unloaded.",
    )
    system: StrictStr | None = Field(
        default=None, description="The system message, in place of the model's own. Not with `raw` or `suffix`."
    )
    raw: StrictBool = Field(
        default=False, description="Go on with the prompt as it is, without the model's chat template."
    )
    suffix: StrictStr | None = Field(
        default=None, description="The text after the gap that the answer fills, for models trained to do so."
    )

    @property
    def asks_nothing(self) -> bool:
        return not self.prompt

    def internal(
        self, system: str | None = None, defaults: Mapping[str, Any] | None = None
    ) -> ChatRequest | CompletionRequest:
        """The request this is: a chat of one message, or a text completion with `raw` and `suffix`."""
        fields = {**(defaults or {}), **self._shared()}
        if self.raw or self.suffix:
            suffix = {"suffix": self.suffix} if self.suffix else {}
            return internal_request(CompletionRequest, {**fields, "prompt": self.prompt, **suffix})
        messages = [{"role": "user", "content": self.prompt}]
        system = system if self.system is None else self.system
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return chat_request({**fields, **self._thinking(), "messages": messages})


class OllamaEmbedRequest(_ModelBody):
    """A body of `POST /api/embed`."""

    policy: ClassVar[Policy] = EMBED_POLICY

    input: Annotated[Prompts, BeforeValidator(prompts(MAX_INPUTS))] = Field(
        description=f"A string or up to {MAX_INPUTS} strings, none of them empty."
    )
    dimensions: Annotated[StrictInt, Field(ge=1, le=MAX_DIMENSIONS)] | None = Field(
        default=None, description="Keep only the first so many numbers of each vector, scaled to length 1 again."
    )
    options: OllamaOptions = Field(default=OllamaOptions(), description="Nothing in it matters to embeddings.")
    keep_alive: Annotated[float, BeforeValidator(keep_alive_seconds)] | None = Field(
        default=None, description="As for `/api/chat`."
    )

    def internal(self) -> EmbeddingRequest:
        fields: dict[str, Any] = {"model": self.model, "input": list(self.input)}
        if self.dimensions is not None:
            fields["dimensions"] = self.dimensions
        return internal_request(EmbeddingRequest, fields)


class OllamaEmbeddingsRequest(_ModelBody):
    """A body of `POST /api/embeddings`, the older form for one text."""

    policy: ClassVar[Policy] = EMBED_POLICY

    prompt: Annotated[StrictStr, Field(min_length=1)] = Field(description="The text, not empty.")
    options: OllamaOptions = Field(default=OllamaOptions(), description="Nothing in it matters to embeddings.")
    keep_alive: Annotated[float, BeforeValidator(keep_alive_seconds)] | None = Field(
        default=None, description="As for `/api/chat`."
    )

    def internal(self) -> EmbeddingRequest:
        return internal_request(EmbeddingRequest, {"model": self.model, "input": self.prompt})


class OllamaShowRequest(_ModelBody):
    """A body of `POST /api/show`."""

    policy: ClassVar[Policy] = SHOW_POLICY


class OllamaDeleteRequest(_ModelBody):
    """A body of `DELETE /api/delete`."""


class OllamaCopyRequest(Schema):
    """A body of `POST /api/copy`."""

    source: Annotated[Line, Field(max_length=512)] = Field(description="The model to give a further name.")
    destination: Annotated[Line, Field(max_length=512)] = Field(description="The new name, of the form `family:tag`.")


class OllamaPullRequest(_ModelBody):
    """A body of `POST /api/pull`."""

    policy: ClassVar[Policy] = PULL_POLICY

    stream: StrictBool = Field(default=True, description="Send progress as lines of JSON.")


class CreateParameters(Schema):
    """`parameters` of `/api/create`, as far as a model keeps any."""

    place: ClassVar[str] = "parameters."
    policy: ClassVar[Policy] = CREATE_PARAMETERS_POLICY

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    num_predict: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None

    def internal(self) -> dict[str, Any]:
        """The parameters under the names of the request fields that they stand in for."""
        fields = self.model_dump(exclude_none=True)
        if "num_predict" in fields:
            fields["max_tokens"] = fields.pop("num_predict")
        return fields


class OllamaCreateRequest(_ModelBody):
    """A body of `POST /api/create`: a model made from one that is here."""

    policy: ClassVar[Policy] = CREATE_POLICY

    source: Annotated[Line, Field(max_length=512)] = Field(
        validation_alias=AliasChoices("from"), description="The installed model it is made from."
    )
    system: StrictStr | None = Field(default=None, description="The system message of a chat that states none.")
    template: StrictStr | None = Field(
        default=None, description="A chat template in Jinja, as model files have; Go templates are refused."
    )
    parameters: CreateParameters = Field(
        default=CreateParameters(),
        description="`temperature`, `top_p`, `seed` and `num_predict` of a request that states none.",
    )
    stream: StrictBool = Field(default=True, description="Send progress as lines of JSON.")
