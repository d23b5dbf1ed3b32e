"""Lines of the output file, and which replies stand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.batches.answers import Reply, Usage, answer_to, refusal, unanswered
from tests.batches.makers import line, reply


def test_an_answer_names_its_line() -> None:
    answer = answer_to(line(7), reply(text="seven"))
    output = json.loads(answer.output)
    assert (answer.number, answer.ok, answer.usage) == (7, True, Usage(2, 0, 3, 0))
    assert output.pop("id").startswith("batch_req_")
    body = json.loads(reply(text="seven").body)
    assert output == {
        "custom_id": "id 7",
        "response": {"status_code": 200, "request_id": "req-seven", "body": body},
        "error": None,
    }


def test_an_error_is_an_answer_too() -> None:
    answer = answer_to(line(7), reply(400, "wrong"))
    assert (answer.ok, answer.usage) == (False, Usage())
    assert json.loads(answer.output)["response"]["body"] == {"error": {"message": "wrong"}}
    late = json.loads(unanswered(line(8), "batch_expired", "too late").output)
    assert (late["custom_id"], late["response"]) == ("id 8", None)
    assert late["error"] == {"code": "batch_expired", "message": "too late"}


@pytest.mark.parametrize("body", [b"", b"[]", b"\x00\xff", b'{"a": '])
def test_nonsense_is_an_error(body: bytes) -> None:
    answer = answer_to(line(1), Reply(200, "req-1", body))
    response = json.loads(answer.output)["response"]
    assert (answer.ok, response["status_code"]) == (False, 502)
    assert response["body"]["error"]["code"] == "worker_protocol_error"


def test_an_answer_is_one_line_whatever_it_was() -> None:
    body = json.dumps({"text": "a\nb\u2028c\u0085d"}, indent=2).encode()
    output = answer_to(line(1), Reply(200, "req-1", body)).output
    assert output.count(b"\n") == 0
    assert json.loads(output)["response"]["body"] == json.loads(body)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 4, "total_tokens": 4}, Usage(4)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(5, 1, 6, 2),
        ),
        (
            {
                "input_tokens": 5,
                "output_tokens": 6,
                "input_tokens_details": {"cached_tokens": 1},
                "output_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(5, 1, 6, 2),
        ),
        ({"prompt_tokens": "many", "prompt_tokens_details": None}, Usage()),
        (None, Usage()),
    ],
)
def test_usage_of_every_endpoint(usage: Any, expected: Usage) -> None:
    assert answer_to(line(1), Reply(200, "req-1", json.dumps({"usage": usage}).encode())).usage == expected


@pytest.mark.parametrize(
    ("status", "tries", "seconds"),
    [(200, 1, None), (400, 1, None), (404, 1, None), (429, 9, 5.0), (503, 9, 5.0), (502, 1, 1.0), (502, 3, None)],
)
def test_what_is_asked_again(status: int, tries: int, seconds: float | None) -> None:
    assert reply(status, retry_after=5).retry_seconds(tries) == seconds


def test_nobody_waits_for_ever_before_asking_again() -> None:
    assert reply(503, retry_after=3600).retry_seconds(1) == 60


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        ("/v1/chat/completions", {"stream": True}, "stream"),
        ("/v1/chat/completions", {"stream": False}, None),
        ("/v1/responses", {"background": True}, "background"),
        ("/v1/completions", {"background": True}, None),
    ],
)
def test_answers_in_a_batch_are_whole(url: str, body: dict[str, Any], param: str | None) -> None:
    refused = refusal(line(1, url, **body))
    assert (None if refused is None else json.loads(refused.body)["error"]["param"]) == param
