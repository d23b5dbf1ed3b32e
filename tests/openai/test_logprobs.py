"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmserve.openai.json import dump_json
from llmserve.openai.logprobs import Alternative, TextOffsets, TokenLogprob, chat_logprobs, text_logprobs
from llmserve.openai.responses import ChatChunks, Choice, CompletionChunks, Usage, chat_completion, text_completion

from .bodies import chat, completion

USAGE = Usage(1, 2, 0)
HELLO = TokenLogprob("Hello", b"Hello", -0.5, (Alternative("Hello", b"Hello", -0.5), Alternative("Hi", b"Hi", -1.5)))
# The two halves of an é, each a token of its own.
FIRST_HALF = TokenLogprob("\ufffd", b"\xc3", -1.0, (Alternative("\ufffd", b"\xc2", -0.75),))
LAST_HALF = TokenLogprob("\ufffd", b"\xa9", -0.125)
START = TokenLogprob("One", b"One", None)
TEXT = (START, HELLO, FIRST_HALF, LAST_HALF)


def data(event: bytes) -> Any:
    return json.loads(event.decode("ascii").removeprefix("data: "))


def test_chat_shape() -> None:
    choice = Choice("Helloé", "stop", logprobs=(HELLO, FIRST_HALF, LAST_HALF))
    answer = chat_completion("a", "m", 1, [choice], USAGE)
    read = ChatCompletion.model_validate_json(dump_json(answer), strict=True).choices[0].logprobs
    assert read is not None
    assert read.refusal is None
    assert read.content is not None
    hello, first, last = read.content
    assert (hello.token, hello.bytes, hello.logprob) == ("Hello", list(b"Hello"), -0.5)
    assert [(other.token, other.logprob) for other in hello.top_logprobs] == [("Hello", -0.5), ("Hi", -1.5)]
    assert bytes([*(first.bytes or ()), *(last.bytes or ())]).decode() == "é"
    assert last.top_logprobs == []


def test_text_shape() -> None:
    answer = text_completion("a", "m", 1, [Choice("OneHelloé", "stop", logprobs=TEXT)], USAGE)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["One", "Hello", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [None, -0.5, -1.0, -0.125],
        "top_logprobs": [
            None,
            {"Hello": -0.5, "Hi": -1.5},
            {"bytes:\\xc2": -0.75, "bytes:\\xc3": -1.0},
            {"bytes:\\xa9": -0.125},
        ],
        "text_offset": [0, 3, 8, 8],
    }
    # Not strict: the published type forgets that the first token of an echoed prompt has none.
    assert Completion.model_construct(**answer).choices


def test_no_report_is_null_and_an_empty_one_is_not() -> None:
    for write in (chat_completion, text_completion):
        assert write("a", "m", 1, [Choice("a", "stop")], USAGE)["choices"][0]["logprobs"] is None
    silent = Choice("", "stop", logprobs=())
    assert chat_completion("a", "m", 1, [silent], USAGE)["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    assert text_completion("a", "m", 1, [silent], USAGE)["choices"][0]["logprobs"]["tokens"] == []


def test_streamed_chat_shape() -> None:
    chunks = ChatChunks("a", "m", 1, False)
    body = data(chunks.text(2, "Hello", [HELLO]))
    choice = ChatCompletionChunk.model_validate(body).choices[0]
    assert (choice.index, choice.delta.content, choice.finish_reason) == (2, "Hello", None)
    assert body["choices"][0]["logprobs"] == chat_logprobs([HELLO])
    assert data(chunks.text(2, "Hello"))["choices"][0]["logprobs"] is None


def test_streamed_offsets_go_on_where_their_choice_stopped() -> None:
    chunks = CompletionChunks("a", "m", 1, False)
    events = [
        chunks.text(0, "OneHello", [START, HELLO]),
        chunks.text(1, "Hello", [HELLO]),
        chunks.text(0, "", [FIRST_HALF]),
        chunks.text(0, "é", [LAST_HALF]),
        chunks.text(0, "Hello", [HELLO]),
        chunks.text(1, "Hello", [HELLO]),
    ]
    bodies = [data(event)["choices"][0] for event in events]
    assert [(body["index"], body["text"], body["logprobs"]["text_offset"]) for body in bodies] == [
        (0, "OneHello", [0, 3]),
        (1, "Hello", [0]),
        (0, "", [8]),
        (0, "é", [8]),
        (0, "Hello", [9]),
        (1, "Hello", [5]),
    ]


@pytest.mark.parametrize("logprob", [-math.inf, math.nan, -1e30, -9999.0])
def test_a_token_that_cannot_occur_is_json_too(logprob: float) -> None:
    token = TokenLogprob("a", b"a", logprob, (Alternative("b", b"b", logprob),))
    assert json.loads(dump_json(chat_logprobs([token])))["content"][0]["logprob"] == -9999.0
    assert text_logprobs([token], TextOffsets())["top_logprobs"] == [{"b": -9999.0, "a": -9999.0}]


def test_a_token_that_means_the_replacement_character_keeps_its_name() -> None:
    token = TokenLogprob("\ufffd", "\ufffd".encode(), -1.0)
    assert text_logprobs([token], TextOffsets())["tokens"] == ["\ufffd"]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 60), max_size=6))
def test_offsets_count_characters_wherever_tokens_split_them(text: str, cuts: list[int]) -> None:
    raw = text.encode()
    edges = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    offsets = TextOffsets()
    for start, end in itertools.pairwise(edges):
        assert offsets.place(raw[start:end]) == len(raw[:start].decode(errors="ignore"))


# --- asking for them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20)],
    ids=repr,
)
def test_alternatives_of_a_chat(fields: dict[str, Any], expected: int | None) -> None:
    assert chat(**fields).reported_alternatives == expected


@pytest.mark.parametrize(("logprobs", "expected"), [(None, None), (0, 0), (20, 20)])
def test_alternatives_of_a_completion(logprobs: int | None, expected: int | None) -> None:
    assert completion(logprobs=logprobs).reported_alternatives == expected
