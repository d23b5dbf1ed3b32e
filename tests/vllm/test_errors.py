"""Errors of vLLM 0.32, as it wrote them, in the gateway's terms."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.errors import ContextLengthExceeded, InvalidRequest, TooManyRequests, UnsupportedParameter, WorkerDied
from llmserve.vllm.errors import translated


def body(message: str, *, param: str | None = None, code: int = 400) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": param, "code": code}}


def test_a_prompt_beyond_the_context() -> None:
    message = (
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
        "which exceeds this limit even without any output tokens. (parameter=input_tokens, value=4097)"
    )
    error = translated(400, body(message, param="input_tokens"), prompt_field="messages")
    assert isinstance(error, ContextLengthExceeded)
    assert (error.message, error.param) == (
        "this model's context is 4096 tokens and the prompt has at least 4097",
        "messages",
    )


@pytest.mark.parametrize(
    ("message", "param", "kind", "said"),
    [
        (
            "token_id(s) [9] in logit_bias contain out-of-vocab token ids. Vocabulary size: 8 "
            "(parameter=logit_bias, value=[9])",
            "logit_bias",
            InvalidRequest,
            "token_id(s) [9] in logit_bias contain out-of-vocab token ids. Vocabulary size: 8",
        ),
        ('Grammar error: at 1(8): invalid regex "(" (in regex): error:\n  (\n ^', None, InvalidRequest, "Grammar"),
        ("suffix is not currently supported", "suffix", UnsupportedParameter, "suffix is not currently supported"),
        ("1 validation error for ChatCompletionRequest: Value error, no", None, InvalidRequest, "no"),
        ("\n", None, InvalidRequest, "the request is refused by vLLM"),
    ],
)
def test_what_a_request_does_wrong(message: str, param: str | None, kind: type[InvalidRequest], said: str) -> None:
    error = translated(400, body(message, param=param), prompt_field="prompt")
    assert type(error) is kind
    assert error.message.startswith(said)
    assert "\n" not in error.message
    assert error.param == param


def test_a_full_queue_can_be_asked_again() -> None:
    error = translated(503, body("too many requests", code=503), prompt_field="prompt")
    assert isinstance(error, TooManyRequests)
    assert error.retry_after


@pytest.mark.parametrize("status", [500, 501])
def test_a_fault_inside_is_not_told_in_its_words(status: int) -> None:
    error = translated(status, body("Traceback: /home/x", code=status), prompt_field="prompt")
    assert isinstance(error, WorkerDied)
    assert "Traceback" not in error.message


def test_a_route_that_the_model_lacks() -> None:
    assert isinstance(translated(404, {"detail": "Not Found"}, prompt_field="prompt"), InvalidRequest)


@pytest.mark.parametrize("nonsense", [None, [], {"error": "Unauthorized"}, {"error": {}}])
def test_a_body_of_another_form_is_a_fault(nonsense: Any) -> None:
    assert isinstance(translated(400, nonsense, prompt_field="prompt"), WorkerDied)
