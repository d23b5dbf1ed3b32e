"""What a chat's answers are going to look like: how the tools are told, what is enforced, how the text is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmserve.llama.choice_output import ChoiceOutput
from llmserve.llama.grammar import Grammar, check_enforceable
from llmserve.llama.output.formats import HARMONY, OutputFormat
from llmserve.llama.output.generic_tools import with_tools_prompt
from llmserve.llama.output.reasoning import ThinkingBudget
from llmserve.llama.output.tool_grammar import Demand, tool_grammar
from llmserve.llama.output.tools import Tool
from llmserve.llama.prompt import Chat
from llmserve.llama.thought_gate import Speller, ThoughtGate
from llmserve.llama.token_rule import TokenRule
from llmserve.openai.chat_input import ChatInput
from llmserve.openai.requests import ChatRequest
from llmserve.openai.tools import FunctionTool, NamedTool


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """How one model writes. `plain` and `with_tools` are the formats of chats without and with tools.

    `special_tokens` are by their texts the ids of what is not text, and `invisible` those whose text is not shown.
    `tokenize` recognises control tokens, `spell` writes them out.
    """

    plain: OutputFormat
    with_tools: OutputFormat
    special_tokens: Mapping[str, int]
    invisible: frozenset[int]
    tokenize: Callable[[str], list[int]]
    spell: Callable[[int], str]

    def format(self, asked: ChatInput) -> OutputFormat:
        return self.with_tools if asked.offered_tools else self.plain

    def chat(self, asked: ChatInput) -> Chat:
        """What to render."""
        form = self.format(asked)
        messages: list[Mapping[str, Any]] = [message.model_dump(exclude_defaults=True) for message in asked.messages]
        tools = [tool.for_template() for tool in asked.offered_tools]
        if tools and not form.accepts_tools:
            messages, tools = with_tools_prompt(messages, tools), []
        stated = asked.chat_template_kwargs
        enable_thinking = stated.get("enable_thinking")
        control = form.control.arguments(
            asked.reasoning_effort, enable_thinking if isinstance(enable_thinking, bool) else None
        )
        return Chat(
            messages,
            tools=tools,
            documents=[document.model_dump(exclude_none=True) for document in asked.documents],
            arguments={**control, **stated},
            add_generation_prompt=asked.add_generation_prompt is not False,
            continue_final_message=asked.continue_final_message,
        )


class ChatOutput:
    """The same for one request."""

    def __init__(self, model: ModelOutput, request: ChatRequest) -> None:
        self._model = model
        self._request = request
        self._offered = request.offered_tools
        self._format = model.format(request)

    @property
    def chat(self) -> Chat:
        """What to render."""
        return self._model.chat(self._request)

    @cached_property
    def grammars(self) -> list[Grammar]:
        """What the answer has to follow: the first of these that can be compiled; empty where it is free.

        Schemas of tools that are not strict are a help where they can be enforced and no reason to refuse a request
        where they cannot. Raises `InvalidRequest` for a schema of which a keyword would be followed too loosely.
        """
        asked = Grammar.of_request(self._request.response_format, self._request.structured_outputs)
        demand = self._demand(asked)
        if demand is None:
            return [asked] if asked is not None else []
        for schema in self.promised:
            check_enforceable(schema)
        demands = [demand]
        if not all(tool.strict for tool in demand.tools):
            demands.append(demand.loosened())
        return [
            Grammar("grammar", tool_grammar(self._format, demand, self._model.special_tokens), "tools")
            for demand in demands
        ]

    @property
    def promised(self) -> list[Grammar]:
        """The schemas that have to be enforced where the answer may call: each alone, to tell which cannot be."""
        used = {tool.function.name for tool in self._request.demanded_tools or self._offered}
        promised = [
            Grammar.of_schema(tool.function.parameters, f"tools[{number}].function.parameters")
            for number, tool in enumerate(self._request.tools)
            if tool.function.strict and tool.function.parameters is not None and tool.function.name in used
        ]
        answer = Grammar.of_request(self._request.response_format, None)
        return promised if answer is None or self._request.demanded_tools else [*promised, answer]

    @cached_property
    def shown(self) -> dict[int, bytes]:
        """Text for control tokens that the parser has to see."""
        reasoning = self._format.reasoning
        thoughts = (*reasoning.openings, *reasoning.closings, *reasoning.hidden)
        wanted = [
            marker
            for marker in self._format.markers
            if self._offered or self._format.name == HARMONY or any(marker in text for text in thoughts)
        ]
        ids = {self._model.special_tokens[marker]: marker for marker in wanted if marker in self._model.special_tokens}
        return {token: marker.encode() for token, marker in ids.items() if token in self._model.invisible}

    def choice(self, prompt_end: str, constraint: TokenRule | None) -> ChoiceOutput:
        """The reader of one answer, which `constraint` holds for behind the thoughts."""
        parser = self._format.parser([_tool(tool) for tool in self._offered], prompt_end)
        return ChoiceOutput(parser, self._rule(prompt_end, constraint), lambda text: len(self._model.tokenize(text)))

    def _rule(self, prompt_end: str, constraint: TokenRule | None) -> TokenRule | None:
        style = self._format.reasoning
        limit = self._request.thinking_token_budget
        inside = style.begins_inside(prompt_end)
        thinks = self._format.name != HARMONY and (inside or (self._format.thinks and not style.is_over(prompt_end)))
        if not thinks or (constraint is None and limit is None):
            return constraint
        special = self._model.special_tokens
        openings = [special[opening] for opening in style.openings if opening in special]
        speller = Speller(self._model.spell, self._model.tokenize, openings)
        return ThoughtGate(ThinkingBudget(style, limit, inside=inside), constraint, speller)

    def _demand(self, asked: Grammar | None) -> Demand | None:
        """What is to be enforced of calls, beside or instead of the grammar that the request has asked for."""
        request = self._request
        tools = [_tool(tool) for tool in request.demanded_tools or self._offered]
        if request.demanded_tools:
            named = isinstance(request.tool_choice, NamedTool)
            return Demand(tools, required=True, parallel=request.parallel_tool_calls and not named)
        answer = self._answer_schema()
        if not tools and self._format.name != HARMONY:
            return None
        enforced = asked is None and any(tool.strict for tool in tools)
        if not enforced and answer is None:
            return None
        return Demand(tools, required=False, parallel=request.parallel_tool_calls, answer=answer)

    def _answer_schema(self) -> Mapping[str, Any] | None:
        """The schema that `response_format` wants of an answer that calls nothing."""
        form = self._request.response_format
        if form is None or form.type == "text":
            return None
        return form.json_schema.definition if form.json_schema is not None else {"type": "object"}


def _tool(tool: FunctionTool) -> Tool:
    function = tool.function
    return Tool(function.name, function.description, function.parameters, function.strict)
