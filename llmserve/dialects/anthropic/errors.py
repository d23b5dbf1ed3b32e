"""Errors as Anthropic has them."""

from __future__ import annotations

from typing import Any

from llmserve.dialects.translation import ErrorFields

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_BY_TYPE = {
    "invalid_request_error": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "rate_limit_error": "rate_limit_error",
    "unavailable_error": "overloaded_error",
    "timeout_error": "timeout_error",
}


def error_object(error: ErrorFields, request_id: str | None, status: int | None = None) -> dict[str, Any]:
    """`error` as the body of an answer with this status, or as the data of an event in a stream (None)."""
    kind = _BY_TYPE.get(str(error.get("type")), "api_error")
    if status is not None:
        kind = _BY_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
    shown = {"type": kind, "message": str(error.get("message") or "the request failed")}
    return {"type": "error", "error": shown, "request_id": request_id}
