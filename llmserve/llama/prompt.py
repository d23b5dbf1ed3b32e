"""From a request to prompt tokens, so that nothing a user writes becomes a control token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from llmserve.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from llmserve.llama.control_guard import ControlGuard, Marks
from llmserve.llama.conversation import shape
from llmserve.llama.generic_documents import with_documents_prompt
from llmserve.llama.template_capabilities import TemplateCapabilities
from llmserve.llama.templates import Templates

# No vocabulary has longer tokens than a few hundred bytes; a prompt above this many bytes per token of context is
# refused before it is tokenised.
_MOST_BYTES_PER_TOKEN = 512
# No template makes more of a request, which is 10 MiB at most.
_LONGEST_PROMPT = 32 * 1024 * 1024
# How much of a prompt's end says whether the answer begins inside of something, such as reasoning.
_ENDING_CHARACTERS = 256
_TOOLS_REMEMBERED = 8


class Vocabulary(Protocol):
    """`fill_in_the_middle` are the tokens before a gap's prefix, its suffix and its text; None where it has none."""

    adds_bos: bool

    @property
    def bos(self) -> int: ...
    @property
    def fill_in_the_middle(self) -> tuple[int, int, int] | None: ...

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...
    def control_texts(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Chat:
    """What becomes a chat's prompt.

    `messages` and `tools` are as OpenAI has them, content as plain text; of both every string is the user's.
    `arguments` are further variables of the template. `continue_final_message` ends the prompt inside the last
    message, which must be an assistant's with text; it replaces `add_generation_prompt`. `documents` that the template
    does not show are told in the system message.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    documents: Sequence[Mapping[str, Any]] = ()
    arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """`ending`: the last characters of the prompt's text, for whoever reads the answer that goes on from there."""

    tokens: list[int]
    ending: str


class PromptBuilder:
    """Renders and tokenises prompts for one model. Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary, templates: Templates, context: int) -> None:
        self._vocabulary = vocabulary
        self._templates = templates
        self._context = context
        self._guard = ControlGuard(vocabulary.control_texts())
        # A client sends the same tools with every message, and going through them takes longer than rendering them.
        self._marked_tools = lru_cache(_TOOLS_REMEMBERED)(
            lambda tools, marks: self._guard.mark_all(json.loads(tools), marks)
        )

    def capabilities(self, *, tools: bool = False, documents: bool = False) -> TemplateCapabilities:
        """Of the template that a chat with these things gets. Slow the first time."""
        return self._templates.capabilities(self._templates.choose(tools=tools, documents=documents))

    def chat(self, chat: Chat) -> ChatPrompt:
        """Prompt tokens of a chat.

        Raises `InvalidRequest` (the template fails, with the code `template_error`) or `ContextLengthExceeded`.
        """
        prompt = self._chat(chat, min(_LONGEST_PROMPT, self._context * _MOST_BYTES_PER_TOKEN))
        self._check_length(prompt.tokens, "messages")
        return prompt

    def chat_tokens(self, chat: Chat) -> list[int]:
        """The same tokens, more than the context holds too. Raises as `chat` does, the latter above 32 MiB of text."""
        return self._chat(chat, _LONGEST_PROMPT).tokens

    def _chat(self, chat: Chat, most_characters: int) -> ChatPrompt:
        name = self._templates.choose(tools=bool(chat.tools), documents=bool(chat.documents))
        capabilities = self._templates.capabilities(name)
        stated, documents = chat.messages, chat.documents
        if documents and not capabilities.documents:
            stated, documents = with_documents_prompt(stated, documents), ()
        messages = shape(stated, capabilities)
        tools = _json(chat.tools) if chat.tools else ""
        marks = Marks.unused_in(tools, _json([messages, documents, chat.arguments]))
        marked = [self._guard.mark_all(message, marks) for message in messages]
        if chat.continue_final_message:
            _mark_end(marked, marks.end)
        variables = {
            **self._guard.mark_all(chat.arguments, marks),
            "messages": marked,
            "tools": self._marked_tools(tools, marks) if tools else None,
            "documents": self._guard.mark_all(documents, marks) or None,
            "add_generation_prompt": chat.add_generation_prompt and not chat.continue_final_message,
        }
        text = marks.restored(self._templates.render(name, variables, most_characters))
        if chat.continue_final_message:
            text, found, _ = text.rpartition(marks.end)
            if not found:
                raise InvalidRequest(
                    "the model's chat template does not show the last message as it is",
                    param="continue_final_message",
                    code="template_error",
                )
        tokens: list[int] = []
        for part, special in self._guard.parts(text, marks):
            tokens += self._vocabulary.tokenize(part, special=special)
        ending = text[-_ENDING_CHARACTERS:].translate({ord(marks.opening): None, ord(marks.closing): None})
        return ChatPrompt(self._begun(tokens, "messages"), ending)

    def completion(self, prompt: str | Sequence[int], vocabulary_size: int) -> list[int]:
        """Prompt tokens of a raw prompt: control tokens in it are recognised, since there is no template to write them.

        Raises `InvalidRequest` for a token id outside the vocabulary, or `ContextLengthExceeded`.
        """
        if isinstance(prompt, str):
            self._bound(prompt)
            return self._checked(self._vocabulary.tokenize(prompt, special=True), "prompt")
        if any(not 0 <= token < vocabulary_size for token in prompt):
            raise InvalidRequest(f"a token id is outside the vocabulary of {vocabulary_size}", param="prompt")
        return self._checked(list(prompt), "prompt", add_bos=False)

    def infill(self, prompt: str | Sequence[int], suffix: str, vocabulary_size: int) -> list[int]:
        """Prompt tokens for the text between `prompt` and `suffix`; text in both stays text.

        Raises `UnsupportedParameter` where the model was not trained for that, and otherwise as `completion` does.
        """
        markers = self._vocabulary.fill_in_the_middle
        if markers is None:
            raise UnsupportedParameter("this model cannot fill in the middle of a text", param="suffix")
        if isinstance(prompt, str):
            self._bound(prompt)
            before = self._vocabulary.tokenize(prompt, special=False)
        else:
            before = self.completion(prompt, vocabulary_size)
        self._bound(suffix)
        after = self._vocabulary.tokenize(suffix, special=False)
        prefix_marker, suffix_marker, middle_marker = markers
        return self._checked([prefix_marker, *before, suffix_marker, *after, middle_marker], "suffix")

    def _checked(self, tokens: list[int], param: str, *, add_bos: bool = True) -> list[int]:
        tokens = self._begun(tokens, param, add_bos=add_bos)
        self._check_length(tokens, param)
        return tokens

    def _begun(self, tokens: list[int], param: str, *, add_bos: bool = True) -> list[int]:
        if add_bos and self._vocabulary.adds_bos and tokens[:1] != [self._vocabulary.bos]:
            tokens.insert(0, self._vocabulary.bos)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param=param)
        return tokens

    def _check_length(self, tokens: Sequence[int], param: str) -> None:
        if len(tokens) >= self._context:
            raise ContextLengthExceeded(
                f"this model's context is {self._context} tokens and the prompt has {len(tokens)}", param=param
            )

    def _bound(self, text: str) -> None:
        if len(text) > self._context * _MOST_BYTES_PER_TOKEN:
            raise ContextLengthExceeded(
                f"this model's context is {self._context} tokens; a prompt of {len(text)} characters cannot fit"
            )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _mark_end(messages: list[dict[str, Any]], mark: str) -> None:
    """Put `mark` behind the text of the last message, where the rendered prompt will be cut."""
    last = messages[-1]
    content = last["content"]
    if last["role"] != "assistant" or not content:
        raise InvalidRequest("the last message is not an assistant's with text", param="continue_final_message")
    if isinstance(content, str):
        last["content"] = content + mark
    else:
        content[-1]["text"] += mark
