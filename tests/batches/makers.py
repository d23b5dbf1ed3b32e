"""Lines, replies and answers for tests."""

from __future__ import annotations

import json
from typing import Any

from llmserve.batches.answers import Answer, Reply, Usage, answer_to
from llmserve.batches.lines import InputLine


def line(number: int, url: str = "/v1/chat/completions", **body: Any) -> InputLine:
    return InputLine(number, f"id {number}", url, "tiny", json.dumps({"model": "tiny", **body}).encode())


def reply(status: int = 200, text: str = "hi", *, retry_after: float | None = None) -> Reply:
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    body = {"text": text, "usage": usage} if status == 200 else {"error": {"message": text}}
    return Reply(status, f"req-{text}", json.dumps(body).encode(), retry_after)


def answer(number: int, *, status: int = 200) -> Answer:
    return answer_to(line(number), reply(status, f"answer {number}"))


USAGE = Usage(input_tokens=2, output_tokens=3)
