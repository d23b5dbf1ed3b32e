from __future__ import annotations

import pytest

from llmserve.llama.text_stream import TextStream


def pieces(text: str, size: int) -> list[bytes]:
    data = text.encode()
    return [data[start : start + size] for start in range(0, len(data), size)]


def shown(stream: TextStream, parts: list[bytes]) -> list[str]:
    texts = []
    for part in parts:
        texts.append(stream.feed(part))
        if stream.stopped:
            return texts
    return [*texts, stream.flush()]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_characters_cut_by_tokens_are_whole_again(size: int) -> None:
    text = "naïve 日本語 👩‍🚀 done"
    texts = shown(TextStream(), pieces(text, size))
    assert "".join(texts) == text
    assert "\ufffd" not in "".join(texts)


def test_bytes_that_are_no_text_become_replacement_characters_at_the_end() -> None:
    assert shown(TextStream(), [b"a\xe6\x97", b""]) == ["a", "", "\ufffd"]


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["END"], "one EN two "),
        (["two END"], "one EN "),
        (["nothing"], "one EN two END three"),
        (["three!", "END three"], "one EN two "),
        (["E"], "one "),
        (["ENx", " END"], "one EN two"),
    ],
)
def test_a_stop_string_is_never_shown_in_part(size: int, stops: list[str], expected: str) -> None:
    texts = shown(TextStream(stops), pieces("one EN two END three", size))
    assert "".join(texts) == expected
    so_far = ""
    for text in texts:
        so_far += text
        assert expected.startswith(so_far)


def test_the_earliest_of_several_stops_counts() -> None:
    stream = TextStream(["c", "b"])
    assert stream.feed(b"abc") == "a"
    assert stream.stopped
    assert stream.stopped_by == "b"


def test_only_what_can_become_a_stop_is_held_back() -> None:
    stream = TextStream(["</s>"])
    assert stream.feed(b"x < y") == "x < y"
    assert stream.feed(b" </") == " "
    assert stream.feed(b"p>") == "</p>"
