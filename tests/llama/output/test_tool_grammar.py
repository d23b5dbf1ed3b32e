"""Grammars that make a model call: what they let through is what the format's parser reads as calls."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import llguidance
import pytest
from llguidance import TokenizerWrapper

from llmserve.llama.grammar import limits, to_llguidance
from llmserve.llama.output.formats import OutputFormat, by_name, detect
from llmserve.llama.output.tool_grammar import MAX_CALLS, Demand, tool_grammar
from llmserve.llama.output.tools import Tool
from tests.llama.output.test_recordings import Meaning

FORMATS = [
    *map(by_name, ("hermes", "generic", "qwen3-coder", "glm", "llama3-json", "pythonic", "mistral", "deepseek")),
    *map(by_name, ("harmony", "gemma", "gemma4", "functiongemma", "granite", "phi4", "nemotron", "seed")),
    detect("{{ tools }}[TOOL_CALLS] ["),
    detect("{{ tools }}<｜tool▁calls▁begin｜>```json"),
]
END = 256
# Control tokens of the tokenizer below: what stands for a mark in one vocabulary is spelt in another.
SPECIAL = (
    *("[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<tool_call|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "</tool_call>"),
)
SPELT: dict[str, int] = {}
CONTROLS = {text: END + 1 + number for number, text in enumerate(SPECIAL)}

# In harmony everything between messages is a control token.
CASES = [
    pytest.param(output_format, special, id=f"{output_format.name}-{'controls' if special else 'spelt'}")
    for output_format in FORMATS
    for special in ([CONTROLS] if output_format.name == "harmony" else [SPELT, CONTROLS])
]

KIND = Tool(
    "set_kind",
    parameters={
        "type": "object",
        "properties": {"kind": {"enum": ["a b", 'c"d']}, "sure": {"type": "boolean"}, "next": {"$ref": "#/$defs/n"}},
        "required": ["kind"],
        "$defs": {"n": {"enum": [1, -2.5, None, "::="]}},
    },
)
NOW = Tool("now")
NAMES = {"set_kind": {"kind", "sure", "next"}, "now": set()}


class Bytes:
    """A vocabulary of bytes, an end of text and a few control tokens, as llguidance asks for it."""

    def __init__(self) -> None:
        controls = [text.encode() for text in SPECIAL]
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", *controls]
        self.special_token_ids = list(range(END, len(self.tokens)))
        self.eos_token_id = END
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def tokenizer() -> Any:
    return llguidance.LLTokenizer(TokenizerWrapper(Bytes()))


def matcher(grammar: str) -> Any:
    made = llguidance.LLMatcher(tokenizer(), to_llguidance("grammar", grammar), log_level=0, limits=limits())
    assert not made.is_error(), made.get_error()
    return made


def tokens_of(text: str, special: dict[str, int]) -> list[int]:
    tokens: list[int] = []
    while text:
        mark = next((mark for mark in special if text.startswith(mark)), None)
        tokens += [special[mark]] if mark else text[0].encode()
        text = text[len(mark) if mark else 1 :]
    return tokens


def text_of(tokens: Sequence[int]) -> str:
    vocabulary = Bytes().tokens
    return b"".join(vocabulary[token] for token in tokens if token != END).decode()


def accepts(grammar: str, text: str, special: dict[str, int]) -> bool:
    made = matcher(grammar)
    tokens = tokens_of(text, special)
    return bool(made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting())


def walk(grammar: str, chance: random.Random) -> str:
    """A text that the grammar lets through, chosen byte by byte."""
    made = matcher(grammar)
    tokens: list[int] = []
    while not made.is_stopped():
        mask = int.from_bytes(made.compute_bitmask(), "little")
        allowed = [token for token in range(END + 1 + len(SPECIAL)) if mask >> token & 1]
        token = chance.choice(allowed)
        assert made.consume_token(token), made.get_error()
        tokens.append(token)
    return text_of(tokens)


def read(output_format: OutputFormat, text: str, tools: Sequence[Tool] = (KIND, NOW)) -> Meaning:
    parser = output_format.parser(tools)
    found = Meaning()
    found.add([*parser.feed(text), *parser.finish()])
    assert parser.warnings == ()
    return found


@pytest.mark.parametrize(("output_format", "special"), CASES)
class TestRequired:
    def test_what_it_lets_through_is_calls(self, output_format: OutputFormat, special: dict[str, int]) -> None:
        grammar = tool_grammar(output_format, Demand([KIND, NOW], required=True), special)
        for seed in range(12):
            text = walk(grammar, random.Random(seed)) if output_format.name != "harmony" else _harmony(seed)
            if output_format.name == "harmony":
                assert accepts(grammar, text, special)
            found = read(output_format, text)
            assert 1 <= len(found.names) <= MAX_CALLS
            assert found.content == ""
            for name, arguments in zip(found.names, found.arguments, strict=True):
                assert json.loads(arguments).keys() <= NAMES[name]
                assert name == "now" or "kind" in json.loads(arguments)

    def test_one_call_is_one(self, output_format: OutputFormat, special: dict[str, int]) -> None:
        grammar = tool_grammar(output_format, Demand([KIND], required=True, parallel=False), special)
        if output_format.name == "harmony":
            return
        for seed in range(4):
            assert read(output_format, walk(grammar, random.Random(seed))).names == ["set_kind"]

    def test_text_is_not_let_through(self, output_format: OutputFormat, special: dict[str, int]) -> None:
        grammar = tool_grammar(output_format, Demand([KIND, NOW], required=True), special)
        assert not accepts(grammar, "Hello.", special)
        assert not matcher(grammar).is_accepting()


def _harmony(seed: int) -> str:
    """Its thoughts are free text, in which a random walk gets lost."""
    thoughts = "<|channel|>analysis<|message|>Hm {.<|end|><|start|>assistant" if seed % 2 else ""
    return f"{thoughts}<|channel|>commentary to=functions.now <|constrain|>json<|message|>{{}}"


@pytest.mark.parametrize(("output_format", "special"), CASES)
class TestAuto:
    def test_text_or_calls_with_good_arguments(self, output_format: OutputFormat, special: dict[str, int]) -> None:
        required = tool_grammar(output_format, Demand([KIND], required=True, parallel=False), special)
        grammar = tool_grammar(output_format, Demand([KIND, NOW], required=False), special)
        call = '<|channel|>commentary to=functions.set_kind <|constrain|>json<|message|>{"kind": "a b"}'
        if output_format.name != "harmony":
            call = walk(required, random.Random(1))
        assert accepts(grammar, call, special)
        assert not accepts(grammar, call.replace("set_kind", "other"), special) or not output_format.form.marker
        text = "Hello <b>there</b>, größe!"
        assert accepts(
            grammar, f"<|channel|>final<|message|>{text}" if output_format.name == "harmony" else text, special
        )
        if output_format.form.marker:
            assert accepts(grammar, f"Let me see. {call}", special)

    def test_an_answer_may_have_a_schema_beside_the_calls(
        self, output_format: OutputFormat, special: dict[str, int]
    ) -> None:
        answer = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
        grammar = tool_grammar(output_format, Demand([NOW], required=False, answer=answer), special)
        start = "<|channel|>final<|message|>" if output_format.name == "harmony" else ""
        assert accepts(grammar, start + '{"yes": true}', special)
        assert not accepts(grammar, start + "Hello.", special)


@pytest.mark.parametrize("special", [SPELT, CONTROLS], ids=["spelt", "controls"])
def test_a_named_tool_is_the_only_one(special: dict[str, int]) -> None:
    grammar = tool_grammar(by_name("hermes"), Demand([NOW], required=True, parallel=False), special)
    assert accepts(grammar, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', special)
    assert not accepts(
        grammar, '<tool_call>\n{"name": "set_kind", "arguments": {"kind": "a b"}}\n</tool_call>', special
    )


def test_in_harmony_an_answer_with_a_schema_is_a_message_too() -> None:
    demand = Demand([], required=False, answer={"type": "boolean"})
    grammar = tool_grammar(by_name("harmony"), demand, CONTROLS)
    assert accepts(grammar, "<|channel|>final<|message|>true", CONTROLS)
    thoughts = "<|channel|>analysis<|message|>Yes.<|end|><|start|>assistant"
    assert accepts(grammar, f"{thoughts}<|channel|>final<|message|>true", CONTROLS)
    assert not accepts(grammar, "true", CONTROLS)


def test_parameters_may_be_loosened_where_tools_are_not_strict() -> None:
    strict = Tool("strict", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}, strict=True)
    loose = Tool("loose", parameters={"type": "object", "uniqueItems": True, "properties": {"a": {"type": "integer"}}})
    demand = Demand([strict, loose], required=True)
    grammar = tool_grammar(by_name("hermes"), demand.loosened(), SPELT)
    call = '<tool_call>\n{"name": "NAME", "arguments": {"b": "c"}}\n</tool_call>'
    assert accepts(grammar, call.replace("NAME", "loose"), SPELT)
    assert not accepts(grammar, call.replace("NAME", "strict"), SPELT)


def test_arguments_follow_a_schema_as_an_answer_does() -> None:
    parameters = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    grammar = tool_grammar(by_name("hermes"), Demand([Tool("f", parameters=parameters)], required=True), SPELT)
    call = '<tool_call>\n{"name": "f", "arguments": {"day": "DAY"}}\n</tool_call>'
    assert accepts(grammar, call.replace("DAY", "2028-02-29"), SPELT)
    assert not accepts(grammar, call.replace("DAY", "2027-02-29"), SPELT)


def test_as_many_tools_as_a_request_may_have() -> None:
    tools = [Tool(f"tool_{number}", parameters=KIND.parameters) for number in range(128)]
    grammar = tool_grammar(by_name("llama3-json"), Demand(tools, required=True), SPELT)
    assert accepts(grammar, '{"name": "tool_127", "parameters": {"kind": "a b"}}', SPELT)
