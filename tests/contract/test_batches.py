"""Batches on both engines: every line answered as by its endpoint, or told why it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.asked import QUESTION, SYSTEM_TEXT, TOO_LONG
from tests.contract.servers import Server
from tests.support import until

MESSAGES = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": QUESTION}]
# How a line of each endpoint asks, where its answer is, and the field that is too long in the last line.
ENDPOINTS: dict[str, tuple[dict[str, Any], Callable[[Any], str], dict[str, Any]]] = {
    "/v1/chat/completions": (
        {"messages": MESSAGES, "max_tokens": 16},
        lambda body: str(body["choices"][0]["message"]["content"]),
        {"messages": [{"role": "user", "content": TOO_LONG}]},
    ),
    "/v1/completions": (
        {"prompt": "The capital of France is", "max_tokens": 4},
        lambda body: str(body["choices"][0]["text"]),
        {"prompt": TOO_LONG},
    ),
    "/v1/responses": (
        {"input": QUESTION, "instructions": SYSTEM_TEXT, "max_output_tokens": 16, "store": False},
        lambda body: str(body["output"][0]["content"][0]["text"]),
        {"input": TOO_LONG},
    ),
}


def lines_of(server: Server, file: str) -> dict[str, Any]:
    """The lines of an output file by their ids."""
    text = server.openai.files.content(file).text
    return {line["custom_id"]: line for line in map(json.loads, text.splitlines())}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_line_is_answered(server: Server, endpoint: str) -> None:
    asked, said, too_long = ENDPOINTS[endpoint]
    bodies = {"first": asked, "again": asked, "too long": {**asked, **too_long}}
    content = "\n".join(
        json.dumps(
            {
                **{"custom_id": name, "method": "POST", "url": endpoint},
                "body": {"model": server.model, "temperature": 0, **body},
            }
        )
        for name, body in bodies.items()
    )
    file = server.openai.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    created: Any = {"input_file_id": file.id, "endpoint": endpoint, "completion_window": "24h"}
    batch = server.openai.batches.create(**created)
    until(lambda: server.openai.batches.retrieve(batch.id).status == "completed", seconds=120)
    done = server.openai.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    answers = lines_of(server, done.output_file_id)
    assert answers.keys() == {"first", "again"}
    for answer in answers.values():
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        assert "Paris" in said(answer["response"]["body"])
    (failed,) = lines_of(server, done.error_file_id).values()
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("too long", 400)
    assert failed["response"]["body"]["error"]["code"] == "context_length_exceeded"
