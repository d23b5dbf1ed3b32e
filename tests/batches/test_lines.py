"""What a batch's input file may hold, and what is said of one that may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmserve.batches.lines import MAX_MODELS, MAX_PROBLEMS, BadInput, InputFile, Problem

CHAT = "/v1/chat/completions"


def request(number: int, model: str = "tiny", **changes: Any) -> dict[str, Any]:
    line = {"custom_id": f"id {number}", "method": "POST", "url": CHAT, "body": {"model": model, "n": number}}
    return {**line, **changes}


def written(path: Path, *lines: object) -> Path:
    """A file of these lines, as they are where they are bytes."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded))
    return path


def problems(file: InputFile) -> tuple[Problem, ...]:
    with pytest.raises(BadInput) as raised:
        file.check()
    return raised.value.problems


def test_lines_come_by_model_with_their_numbers(tmp_path: Path) -> None:
    lines = [request(1), b"", request(2, "other"), b"  ", request(3)]
    file = InputFile(written(tmp_path / "in", *lines), CHAT)
    summary = file.check()
    assert (summary.total, summary.models) == (3, {"tiny": 1, "other": 3})
    found = [(line.number, line.custom_id, json.loads(line.body)["n"]) for line in file.lines("tiny")]
    assert found == [(1, "id 1", 1), (5, "id 3", 3)]
    assert [line.number for line in file.lines("other")] == [3]


def test_one_model_may_answer_all(tmp_path: Path) -> None:
    file = InputFile(written(tmp_path / "in", request(1), request(2, "other"), request(3, body={})), model="mine")
    assert file.check().models == {"mine": 1}
    assert [json.loads(line.body)["model"] for line in file.lines("mine")] == ["mine"] * 3


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (b'{"custom_id": "a", "custom_id": "b"}', "invalid_json_line", None),
        (request(2, custom_id=7), "invalid_line", "custom_id"),
        (request(2, custom_id=""), "invalid_line", "custom_id"),
        (request(2, custom_id="x" * 513), "invalid_line", "custom_id"),
        (request(2, custom_id="a\nb"), "invalid_line", "custom_id"),
        (request(2, custom_id=None), "invalid_line", "custom_id"),
        (request(2, method="GET"), "invalid_line", "method"),
        (request(2, url="/v1/files"), "invalid_line", "url"),
        (request(2, url="http://127.0.0.1" + CHAT), "invalid_line", "url"),
        (request(2, url="/v1/embeddings"), "endpoint_mismatch", "url"),
        (request(2, body="hi"), "invalid_line", "body"),
        (request(2, body={}), "missing_model", "body.model"),
        (request(2, body={"model": ["tiny"]}), "missing_model", "body.model"),
        (request(1), "duplicate_custom_id", "custom_id"),
    ],
)
def test_a_line_that_is_none(tmp_path: Path, line: object, code: str, param: str | None) -> None:
    (problem,) = problems(InputFile(written(tmp_path / "in", request(1), line, request(3)), CHAT))
    assert (problem.code, problem.param, problem.line) == (code, param, 2)
    assert "the body" not in problem.message or param == "body"


def test_a_line_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    longest = json.dumps(request(1)).encode()
    long = longest + b" " * 1_000_000
    path = written(tmp_path / "in", longest, long, request(3))
    assert [(one.code, one.line) for one in problems(InputFile(path, max_line_bytes=len(longest)))] == [
        ("line_too_long", 2)
    ]
    assert InputFile(written(path, longest, request(3), longest.replace(b"id 1", b"id 2"))).check().total == 3


def test_a_file_has_requests_but_not_too_many(tmp_path: Path) -> None:
    path = written(tmp_path / "in", b"", b" ")
    assert [one.code for one in problems(InputFile(path))] == ["empty_file"]
    written(path, *(request(number) for number in range(5)))
    assert [one.code for one in problems(InputFile(path, max_lines=4))] == ["too_many_lines"]
    assert InputFile(path, max_lines=5).check().total == 5
    written(path, *(request(number, f"model {number}") for number in range(MAX_MODELS + 1)))
    assert [one.code for one in problems(InputFile(path))] == ["too_many_models"]


def test_not_every_problem_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "in", *[b"{"] * (MAX_PROBLEMS + 10))
    assert len(problems(InputFile(path))) == MAX_PROBLEMS


def test_a_file_that_changed_after_its_check_is_not_run(tmp_path: Path) -> None:
    file = InputFile(written(tmp_path / "in", request(1), b"{"))
    with pytest.raises(BadInput, match="the file has changed"):
        list(file.lines("tiny"))
