"""Whatever a model writes: nothing is raised, no text is lost, and the pieces it comes in do not matter."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.output.events import ToolCallArguments
from llmserve.llama.output.formats import by_name
from llmserve.llama.output.json_scanner import MAX_DEPTH, JsonScanner
from tests.llama.output.recorded import RECORDINGS, TOOLS, Recording
from tests.llama.output.test_recordings import Meaning, meaning

FORMATS = sorted({recording.format for recording in RECORDINGS})
# Longer than any mark, and unlike any text beside it.
CANARY = "Quokka7Quokka"

recordings = st.sampled_from(RECORDINGS)
marks = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<function=", "<parameter=a>", "</parameter>", "<arg_key>", "<arg_value>"),
        *("[TOOL_CALLS]", "[ARGS]", "[", "]", "{", "}", '{"name"', '"', "'", "\\", ":", ",", "(", ")", "```json\n"),
        *("<think>", "</think>", "<|channel|>", "<|message|>", "<|end|>", "<|python_tag|>", "now(", "functools["),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<|tool_call>call:", '<|"|>', " ", "\n"),
        *("\x00", "\ud800", "😀", "None", "1e999", "-", "\\u12", "__import__('os').system('id')"),
    ]
)
noise = st.lists(marks | st.text(max_size=6), max_size=24).map("".join)


@st.composite
def mutations(draw: st.DrawFn) -> Recording:
    """A recording with a part of it gone, doubled or replaced by marks of other families."""
    recording = draw(recordings)
    text = recording.text
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = text[:first] + draw(st.sampled_from(["", text[first:last] * 2, draw(noise)])) + text[last:]
    return Recording(recording.format, text, prompt_end=recording.prompt_end)


def check(recording: Recording, cuts: list[int]) -> Meaning:
    """The meaning, which is the same in pieces, and whose arguments are the beginning of JSON objects."""
    text = recording.text
    whole = meaning(recording, [text])
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert meaning(recording, pieces).shown == whole.shown
    assert len(set(whole.ids)) == len(whole.ids)
    for arguments in whole.arguments:
        _, length, problem = JsonScanner().take(arguments, ended=False)
        assert problem is None
        assert arguments[length:] == "" or not arguments.endswith("}")
    return whole


cut_places = st.lists(st.integers(0, 400), max_size=12)


class TestRandomText:
    @settings(max_examples=200)
    @given(recordings, st.integers(0, 1000), cut_places)
    def test_a_text_cut_short(self, recording: Recording, length: int, cuts: list[int]) -> None:
        check(Recording(recording.format, recording.text[:length], prompt_end=recording.prompt_end), cuts)

    @settings(max_examples=300)
    @given(mutations(), cut_places)
    def test_a_changed_text(self, recording: Recording, cuts: list[int]) -> None:
        check(recording, cuts)

    @settings(max_examples=300)
    @given(
        st.sampled_from(FORMATS), noise, cut_places, st.sampled_from(["", "<think>\n", "<|channel|>final<|message|>"])
    )
    def test_noise(self, name: str, text: str, cuts: list[int], prompt_end: str) -> None:
        check(Recording(name, text, prompt_end=prompt_end), cuts)

    @settings(max_examples=200)
    @given(recordings, st.integers(0, 400), st.integers(0, 400))
    def test_no_word_is_lost(self, recording: Recording, place: int, rest: int) -> None:
        """A word put anywhere stays somewhere: in content, thoughts, or a call's name or arguments."""
        text = recording.text[:place] + CANARY + recording.text[place : place + rest]
        found = meaning(Recording(recording.format, text, prompt_end=recording.prompt_end), [text])
        shown = [found.content, found.reasoning, *found.names, *found.arguments]
        assert any(CANARY in part for part in shown) or _is_in_head(text)

    @settings(max_examples=200)
    @given(st.sampled_from(FORMATS), noise)
    def test_without_tools_nothing_is_a_call(self, name: str, text: str) -> None:
        parser = by_name(name).parser()
        events = [*parser.feed(text), *parser.finish()]
        assert not any(isinstance(event, ToolCallArguments) for event in events)
        assert not parser.called


def _is_in_head(text: str) -> bool:
    """Whether the canary stands where no text belongs: in what only names a channel, an id or another key of a call."""
    around = re.escape(CANARY)
    heads = (
        rf"<\|start\|>[^<]*{around}|<\|channel\|>[^<]*{around}|<\|constrain\|>[^<]*{around}|{around}[^<]*<\|",
        rf"\[CALL_ID\][^\[]*{around}",
        rf'"(?:id|type)": "[^"]*{around}',
    )
    return any(re.search(head, text) for head in heads)


HOSTILE = [
    '<tool_call>{"name": "now", "arguments": ' + '{"a":' * 5000,
    '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * 100_000,
    "[now(a=" + "[" * 10_000,
    "[now(a=__import__('os').system('id'))]",
    "<|tool_call>call:now" + "{a:" * 10_000,
    "<tool_call>" * 3000,
    '{"name"' * 3000,
    "<tool_call>" + '{"name": "now", "arguments": {}}' * 500,
    '<tool_call>{"name": "now", "arguments": {"a": ' + "9" * 100_000 + "}}</tool_call>",
    "<tool_call>\n<function=now>\n<parameter=a>\n" + "\n" * 50_000,
    "<think>" * 1000,
    "<" * 50_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40].replace("\n", " "))
@pytest.mark.parametrize("name", ["hermes", "pythonic", "gemma4", "harmony"])
def test_hostile_output_is_text(name: str, text: str) -> None:
    recording = Recording(name, text)
    pieces = [text[start : start + 997] for start in range(0, len(text), 997)]
    assert meaning(recording, pieces).shown == meaning(recording, [text]).shown


def test_code_in_a_call_is_never_run() -> None:
    found = meaning(Recording("pythonic", "[now(a=__import__('os').getcwd())]"), ["[now(a=__import__('os').getcwd())]"])
    assert "__import__" in found.content


@pytest.mark.parametrize("text", ["<tool_call>\nnot JSON\n</tool_call>", '<tool_call>{"x": 1}</tool_call>'])
def test_a_call_that_is_none_is_content_with_a_warning(text: str) -> None:
    parser = by_name("hermes").parser(TOOLS)
    found = Meaning()
    found.add([*parser.feed(text), *parser.finish()])
    assert found.content == text
    assert parser.warnings
    assert not parser.called


def test_a_good_call_after_a_bad_one_is_a_call() -> None:
    parser = by_name("hermes").parser(TOOLS)
    found = Meaning()
    found.add(parser.feed('<tool_call>{"oops"\n<tool_call>{"name": "now", "arguments": {}}</tool_call>'))
    found.add(parser.finish())
    assert (found.names, found.arguments) == (["now"], ["{}"])
    assert found.content == '<tool_call>{"oops"'


def test_text_is_passed_on_at_once() -> None:
    parser = by_name("hermes").parser(TOOLS)
    found = Meaning()
    found.add(parser.feed("It is 1 < 2"))
    assert found.content == "It is 1 < 2"
    found.add(parser.feed(" <tool"))
    assert found.content == "It is 1 < 2"
    found.add(parser.feed("box>"))
    assert found.content == "It is 1 < 2 <toolbox>"


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = by_name("hermes").parser(TOOLS)
    found = Meaning()
    found.add(parser.feed('<tool_call>\n{"name": "write_file", "arguments": {"text": "one tw'))
    assert found.names == ["write_file"]
    assert found.arguments == ['{"text": "one tw']
    found = Meaning()
    parser = by_name("qwen3-coder").parser(TOOLS)
    found.add(parser.feed("<tool_call>\n<function=write_file>\n<parameter=text>\none tw"))
    assert found.arguments == ['{"text": "one tw']


def test_depth_is_bounded_so_that_any_reader_can_parse_the_arguments() -> None:
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    text = f'<tool_call>{{"name": "now", "arguments": {{"a": {nested}}}}}</tool_call>'
    assert json.loads(meaning(Recording("hermes", text), [text]).arguments[0])
