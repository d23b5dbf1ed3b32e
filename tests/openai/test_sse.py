"""Events as they are written, and as they are read from any chunks."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import ContextLengthExceeded, WorkerDied
from llmserve.openai.sse import DONE, KEEP_ALIVE, EventParser, comment, error_event, event


def test_error_event_has_openai_shape() -> None:
    error = ContextLengthExceeded("too long:\n\ndata: [DONE]\u2028", param="messages", hint="shorten it")
    written = error_event(error)
    assert written.count(b"\n") == 2
    (data,) = EventParser().feed(written)
    assert json.loads(data) == error.body()
    assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}


def test_error_event_of_a_server_error() -> None:
    (data,) = EventParser().feed(error_event(WorkerDied("the worker died")))
    assert json.loads(data)["error"]["code"] == "worker_died"


def test_event_is_one_line_of_ascii() -> None:
    assert event({"a": "é\n\u2028"}) == b'data: {"a":"\\u00e9\\n\\u2028"}\n\n'
    with pytest.raises(ValueError):
        event(float("nan"))


STREAM = KEEP_ALIVE + event({"a": 1}) + KEEP_ALIVE + KEEP_ALIVE + event({"b": "é"}) + DONE
DATA = [b'{"a":1}', b'{"b":"\\u00e9"}', b"[DONE]"]


def test_parser_reads_what_is_written() -> None:
    assert EventParser().feed(STREAM) == DATA


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, len(STREAM) * 2), max_size=8))
def test_parser_does_not_care_where_chunks_end(line_end: bytes, cuts: list[int]) -> None:
    stream = STREAM.replace(b"\n", line_end)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    parser = EventParser()
    read = [data for start, end in pairwise(edges) for data in parser.feed(stream[start:end])]
    assert read == DATA


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_parser_reads_byte_by_byte(line_end: bytes) -> None:
    parser = EventParser()
    stream = STREAM.replace(b"\n", line_end)
    assert [data for byte in stream for data in parser.feed(bytes([byte]))] == DATA


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b": only a comment\n\n", []),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data\n\n", [b""]),
        (b"event: x\nid: 1\nretry: 5\n\ndata: a\n\n", [b"a"]),
        (b"event: x\ndata: a\n\n", [b"a"]),
        (b"database: x\n\n", []),
        ("data: é\u2028\x85x\n\n".encode(), ["é\u2028\x85x".encode()]),
    ],
)
def test_parser_follows_the_standard(stream: bytes, events: list[bytes]) -> None:
    assert EventParser().feed(stream) == events


def test_a_comment_is_one_line_whatever_it_says() -> None:
    assert comment("loading: compiling, 3 s") == b": loading: compiling, 3 s\n\n"
    assert comment("a\n\ndata: b") == b": adata: b\n\n"
