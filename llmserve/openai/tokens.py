"""Text and chats to token ids, and back: the requests and answers of `POST /tokenize` and `POST /detokenize`.

The names are vLLM's; llama.cpp's are understood too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field, StrictBool, StrictStr

from llmserve.openai.chat_input import ChatInput
from llmserve.openai.fields import TOKENIZE_CHAT_POLICY, TOKENIZE_POLICY, Policy
from llmserve.openai.prompts import token_ids
from llmserve.openai.requests import ChatRequest, ModelRequest

_SAME = "Both names mean the same and must agree."


class _Tokenized(ModelRequest):
    """What both forms of a body of `POST /tokenize` have."""

    return_token_strs: StrictBool = Field(
        default=False, description="Answer with `token_strs` too: each token as the model's vocabulary writes it."
    )


class TokenizeRequest(_Tokenized):
    """A body of `POST /tokenize` with a text."""

    policy: ClassVar[Policy] = TOKENIZE_POLICY
    extensions: ClassVar[frozenset[str]] = frozenset({"prompt", "add_special_tokens", "return_token_strs"})

    prompt: StrictStr = Field(
        validation_alias=AliasChoices("prompt", "content"), description=f"The text, which may be empty. {_SAME}"
    )
    add_special_tokens: StrictBool = Field(
        default=True,
        validation_alias=AliasChoices("add_special_tokens", "add_special"),
        description="Whether the ids start and end as the model's prompts do, for instance with a start-of-text "
        f"token; the default is true. {_SAME}",
    )


class TokenizeChatRequest(ChatInput, _Tokenized):
    """A body of `POST /tokenize` with a chat, whose prompt is taken apart."""

    policy: ClassVar[Policy] = TOKENIZE_CHAT_POLICY
    extensions: ClassVar[frozenset[str]] = ChatInput.extensions | {"return_token_strs"}

    add_generation_prompt: StrictBool | None = Field(
        default=None,
        description="Whether the prompt ends with the start of a new answer; the default is the opposite of "
        "`continue_final_message`.",
    )

    @classmethod
    def of(cls, chat: ChatRequest) -> TokenizeChatRequest:
        """The request for the prompt that `chat` is answered from."""
        stated = chat.model_fields_set & cls.model_fields.keys()
        return cls.model_construct(stated, **{field: getattr(chat, field) for field in stated})


class DetokenizeRequest(ModelRequest):
    """A body of `POST /detokenize`."""

    extensions: ClassVar[frozenset[str]] = frozenset({"tokens"})

    tokens: Annotated[tuple[int, ...], BeforeValidator(token_ids)] = Field(description="A list of token ids.")


def tokenize_answer(
    tokens: Sequence[int], max_model_len: int, token_strs: Sequence[str] | None = None
) -> dict[str, Any]:
    """`tokens`, how many there are, how many the model's context holds and, if given, how each is written."""
    answer: dict[str, Any] = {"count": len(tokens), "max_model_len": max_model_len, "tokens": list(tokens)}
    return answer if token_strs is None else {**answer, "token_strs": list(token_strs)}


def detokenize_answer(text: str) -> dict[str, Any]:
    """`text` under vLLM's name and llama.cpp's."""
    return {"prompt": text, "content": text}
