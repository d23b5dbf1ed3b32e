"""The error tree: every failure a user can meet is a class that knows how to show itself.

* LlmserveError                         500  exit 1   (itself never raised on purpose: a 500 is a bug)
  + InvalidRequest                      400  exit 2   malformed or out of range; `param` names the field
    - UnsupportedParameter              400           a field of OpenAI's that is not honoured here
    - ContextLengthExceeded             400           prompt longer than the context; both numbers in the message
    - WrongModelKind                    400           a model asked for what it is not made for
  + AuthenticationFailed                401
  + Forbidden                           403           Host or Origin not allowed
  + NotFound                            404           unknown route
    - ModelNotFound                     404           unknown model, with the command that would get it
    - AdapterNotFound                   404           a model without an adapter of that name, with those it has
  + MethodNotAllowed                    405
  + RequestTimeout                      408           a client that sends too slowly
  + Conflict                            409           in use
  + BodyTooLarge                        413
  + UnsupportedMediaType                415
  + TooManyRequests                     429           queue full; `retry_after`
  + HeadersTooLarge                     431
    - UrlTooLong                        414
  + WorkerDied                          502           the worker ended before it answered
  + Unavailable                         503           loading, full or draining; `retry_after`
  + DeadlineExceeded                    504
  + InsufficientStorage                 507           no disk or no memory for a model
  + InvalidModel                        400           a file the inspector refuses, and why
  + PullFailed                          502           a source did not give what it should
  + InstallFailed                       502           an engine could not be installed
  + SettingsError                       400  exit 78  a setting that cannot be used (sysexits: EX_CONFIG)
  + StartupFailed                       500  exit 71  port in use, directory not writable (EX_OSERR)

A class fixes status, OpenAI `type`, default `code` and exit code; an instance carries the message, an optional
`param` (the field at fault) and an optional `hint` (what to do, shown on a line of its own).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal


class LlmserveError(Exception):
    """Base of the tree. `str(error)` is one sentence for a person, without a path, address or traceback in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.hint = hint
        self.retry_after = retry_after

    @property
    def explained(self) -> str:
        """The message, and the hint if there is one."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.explained, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(LlmserveError):
    status = 400
    type = "invalid_request_error"
    exit_code = 2


class UnsupportedParameter(InvalidRequest):
    default_code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    default_code = "context_length_exceeded"


# What a model is by its kind, and where it is asked.
_MODEL_KINDS = {
    "generate": ("a generating model", "/v1/chat/completions"),
    "embed": ("an embedding model", "/v1/embeddings"),
    "rank": ("a ranking model", "/v1/rerank"),
}


class WrongModelKind(InvalidRequest):
    default_code = "wrong_model_kind"

    @classmethod
    def of(cls, name: str, kind: Literal["generate", "embed", "rank"]) -> WrongModelKind:
        """What to say of the model `name`, which is of this kind."""
        noun, route = _MODEL_KINDS[kind]
        return cls(f"`{name}` is {noun}", param="model", hint=f"it answers at {route}")


class AuthenticationFailed(LlmserveError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(LlmserveError):
    status = 403
    type = "permission_error"


class NotFound(LlmserveError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class AdapterNotFound(NotFound):
    # A client's field `model` names no model: what it is told for that is the same.
    default_code = "model_not_found"


class MethodNotAllowed(LlmserveError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(LlmserveError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Conflict(LlmserveError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class BodyTooLarge(LlmserveError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class UnsupportedMediaType(LlmserveError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class TooManyRequests(LlmserveError):
    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class HeadersTooLarge(LlmserveError):
    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class UrlTooLong(HeadersTooLarge):
    status = 414
    default_code = "url_too_long"


class WorkerDied(LlmserveError):
    status = 502
    default_code = "worker_died"


class Unavailable(LlmserveError):
    status = 503
    type = "unavailable_error"
    default_code = "unavailable"


class DeadlineExceeded(LlmserveError):
    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"


class InsufficientStorage(LlmserveError):
    status = 507
    default_code = "insufficient_storage"


class InvalidModel(LlmserveError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_model"


class PullFailed(LlmserveError):
    status = 502
    default_code = "pull_failed"


class InstallFailed(LlmserveError):
    status = 502
    default_code = "install_failed"


class SettingsError(LlmserveError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_setting"
    exit_code = 78


class StartupFailed(LlmserveError):
    exit_code = 71
