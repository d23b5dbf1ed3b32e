"""Every family's outputs mean the same, whatever pieces they arrive in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from llmserve.llama.output.events import Content, OutputEvent, Reasoning, ToolCallArguments, ToolCallStart
from llmserve.llama.output.formats import by_name
from llmserve.llama.output.parser import OutputParser
from tests.llama.output.recorded import RECORDINGS, TOOLS, Recording


@dataclass(slots=True)
class Meaning:
    """What the events of one answer add up to."""

    content: str = ""
    reasoning: str = ""
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def add(self, events: Iterable[OutputEvent]) -> None:
        for event in events:
            match event:
                case Content(text):
                    self.content += text
                case Reasoning(text):
                    self.reasoning += text
                case ToolCallStart(index, identity, name):
                    assert index == len(self.names)
                    self.names.append(name)
                    self.ids.append(identity)
                    self.arguments.append("")
                case ToolCallArguments(index, text):
                    assert index == len(self.names) - 1
                    self.arguments[index] += text

    @property
    def shown(self) -> tuple[str, str, list[str], list[str]]:
        """All but the ids, which are random."""
        return self.content, self.reasoning, self.names, self.arguments


def parser_for(recording: Recording) -> OutputParser:
    return by_name(recording.format).parser(TOOLS, recording.prompt_end)


def meaning(recording: Recording, pieces: Iterable[str]) -> Meaning:
    parser = parser_for(recording)
    result = Meaning()
    for piece in pieces:
        result.add(parser.feed(piece))
    result.add(parser.finish())
    return result


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: f"{recording.format}-{recording.text[:24]!a}")
class TestRecording:
    def test_means_what_its_author_meant(self, recording: Recording) -> None:
        whole = meaning(recording, [recording.text])
        assert whole.content == recording.content
        assert whole.reasoning == recording.reasoning
        calls = [(name, json.loads(text)) for name, text in zip(whole.names, whole.arguments, strict=True)]
        assert calls == list(recording.calls)
        assert len(set(whole.ids)) == len(calls)

    def test_means_the_same_in_any_two_pieces(self, recording: Recording) -> None:
        whole = meaning(recording, [recording.text]).shown
        for place in range(len(recording.text) + 1):
            pieces = [recording.text[:place], recording.text[place:]]
            assert meaning(recording, pieces).shown == whole, pieces

    def test_means_the_same_character_by_character(self, recording: Recording) -> None:
        assert meaning(recording, recording.text).shown == meaning(recording, [recording.text]).shown

    def test_means_the_same_in_random_pieces(self, recording: Recording) -> None:
        whole = meaning(recording, [recording.text]).shown
        for seed in range(20):
            chance = random.Random(seed)
            pieces, rest = [], recording.text
            while rest:
                length = chance.randint(1, 9)
                pieces.append(rest[:length])
                rest = rest[length:]
            assert meaning(recording, pieces).shown == whole, pieces


@pytest.mark.parametrize(
    ("form", "call", "closing"),
    [
        ("hermes", '<tool_call>\n{"name": "now", "arguments": {}}\n', "</tool_call>"),
        ("qwen3-coder", "<tool_call>\n<function=now>\n<parameter=a>\n1\n</parameter>\n", "</function>\n</tool_call>"),
        ("glm", "<tool_call>now\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n", "</tool_call>"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n", "```"),
        ("gemma4", "<|tool_call>call:now{}", "<tool_call|>"),
        ("harmony", "<|channel|>commentary to=functions.now<|message|>{}", "<|call|>"),
        ("phi4", '<|tool_call|>[{"name": "now", "arguments": {}}]', "<|/tool_call|>"),
        ("pythonic", "<|python_start|>[now()]", "<|python_end|>"),
    ],
)
def test_a_mark_behind_a_call_that_is_cut_short_is_no_content(form: str, call: str, closing: str) -> None:
    """As it is where the limit of tokens ends the answer inside of it."""
    for length in range(len(closing) + 1):
        cut = meaning(Recording(form, call), [call + closing[:length]])
        assert (cut.names, cut.content) == (["now"], "")
        assert json.loads(cut.arguments[0]) in ({}, {"a": 1})
