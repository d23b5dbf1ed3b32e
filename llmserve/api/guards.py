"""The checks before routing: Host, Origin, key, content type, body size. Pure ASGI, raw headers, `scope["path"]` only.

Loopback is no border: a page in the user's browser reaches it. So a name that is not ours is refused (DNS rebinding),
a foreign page is refused even where it could not read the answer, and a body must be declared as JSON (a form or an
image tag cannot do that), except where a file is uploaded. Checks raise errors of the tree; `Envelope` answers them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve.api.envelope import REPLY_HEADERS
from llmserve.api.limits import Limits
from llmserve.api.replies import HeaderList
from llmserve.api.unsupported import UNSUPPORTED
from llmserve.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    SettingsError,
    TooManyRequests,
    UnsupportedMediaType,
)
from llmserve.settings import Settings

# Answered without a key: they say that a server is here and nothing about its models.
PUBLIC_PATHS = frozenset({"/health"})
# Where a POST brings a file, in a form.
UPLOADS = frozenset({"/v1/files"})

RawHeaders = dict[bytes, list[bytes]]

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,1024}")


class Guards:
    """ASGI middleware: calls `app` only for a request that passes every check.

    `is_public` says what is answered without the key beside `PUBLIC_PATHS`.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, limits: Limits, is_public: Callable[[Scope], bool] | None = None
    ) -> None:
        self._app = app
        self._is_public = is_public
        self._limits = limits
        own_name = (settings.host,) if settings.host else ()
        self._hosts = HostPolicy((*own_name, *(settings.allowed_hosts or ())))
        self._origins = OriginPolicy(settings.allowed_origins or ())
        self._keys = KeyPolicy(settings.api_key, limits) if settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: RawHeaders = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = self._hosts.check(headers)
        scope["state"][REPLY_HEADERS].extend(self._origins.check(scope["method"], headers, host))
        if self._origins.is_preflight(scope["method"], headers):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if self._keys is not None and not self._needs_no_key(scope):
            self._keys.check(headers)
        is_upload = scope["method"] == "POST" and scope["path"] in UPLOADS
        if (scope["method"] == "POST" or _has_body(headers)) and scope["path"] not in UNSUPPORTED:
            (check_form if is_upload else check_content_type)(headers)
        limit = self._limits.upload_bytes if is_upload else self._limits.body_bytes
        check_declared_length(headers, limit)
        await self._app(scope, _counted(receive, limit), send)

    def _needs_no_key(self, scope: Scope) -> bool:
        return scope["path"] in PUBLIC_PATHS or (self._is_public is not None and self._is_public(scope))


class HostPolicy:
    """Which names this server answers to: IP literals (no name to rebind), localhost, and `names`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def check(self, headers: RawHeaders) -> str:
        """The Host as sent, in lower case. Raises `InvalidRequest` for a malformed one and `Forbidden` for others."""
        values = headers.get(b"host", [])
        text = values[0].decode("latin-1") if len(values) == 1 else ""
        match = _HOST.fullmatch(text)
        if match is None:
            raise InvalidRequest("the Host header must appear exactly once and name a host", code="invalid_host")
        name = match["name"].lower()
        if name not in self._names and not _is_ip_literal(name):
            raise Forbidden(
                "this server does not answer to that Host",
                code="host_not_allowed",
                hint="add the name to `allowed_hosts`",
            )
        return text.lower()


class OriginPolicy:
    """Which web pages may call: those of this server itself and those of `origins`, compared exactly."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        for origin in self._origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"`allowed_origins`: `{origin}` is not an origin",
                    param="allowed_origins",
                    hint="write scheme, host and port as a browser does: http://localhost:3000",
                )

    def check(self, method: str, headers: RawHeaders, host: str) -> HeaderList:
        """The CORS headers of the answer. Raises `Forbidden` for a page that may not call."""
        values = headers.get(b"origin", [])
        vary: HeaderList = [(b"vary", b"Origin")] if self._origins else []
        if not values:
            # A page's own request that hides its Origin; a client that is not a browser sends neither header.
            sites = headers.get(b"sec-fetch-site", [])
            if method not in {"GET", "HEAD"} and not set(sites) <= {b"same-origin", b"none"}:
                raise self._refusal()
            return vary
        origin = values[0].decode("latin-1")
        if len(values) != 1:
            raise self._refusal()
        if origin in self._origins:
            return [*vary, *self._cors(values[0], method, headers)]
        if origin != f"http://{host}":
            raise self._refusal()
        return vary

    def is_preflight(self, method: str, headers: RawHeaders) -> bool:
        """Whether a request that passed `check` is a browser's question before the real one."""
        return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers

    @staticmethod
    def _cors(origin: bytes, method: str, headers: RawHeaders) -> HeaderList:
        cors = [(b"access-control-allow-origin", origin)]
        if method != "OPTIONS":
            exposed = b"X-Request-Id, X-LLMServe-Ignored-Fields, X-LLMServe-Fallback, Retry-After"
            return [*cors, (b"access-control-expose-headers", exposed)]
        asked = b", ".join(headers.get(b"access-control-request-headers", []))
        allowed = asked if _HEADER_NAMES.fullmatch(asked) else b"authorization, content-type"
        cors += [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", b"600"),
        ]
        if headers.get(b"access-control-request-private-network") == [b"true"]:
            cors.append((b"access-control-allow-private-network", b"true"))
        return cors

    @staticmethod
    def _refusal() -> Forbidden:
        return Forbidden(
            "web pages of this Origin may not call this server",
            code="origin_not_allowed",
            hint="add the Origin to `allowed_origins`",
        )


class KeyPolicy:
    """One key, accepted as `Authorization: Bearer`, `x-api-key` or `api-key`; never from the URL.

    Only digests are kept and compared, in constant time. Wrong keys beyond a small allowance get 429 instead of 401;
    the right one is served throughout.
    """

    def __init__(self, key: str, limits: Limits) -> None:
        self._digest = _digest(key.encode())
        self._limits = limits
        self._allowance = float(limits.wrong_keys)
        self._counted_at = time.monotonic()

    def check(self, headers: RawHeaders) -> None:
        """Raises `AuthenticationFailed`, `TooManyRequests`, or `InvalidRequest` for keys that contradict."""
        given = {_digest(key) for key in self._given(headers)}
        if len(given) > 1:
            raise InvalidRequest("the request carries different API keys", code="conflicting_api_keys")
        if given and hmac.compare_digest(given.pop(), self._digest):
            return
        if not self._may_fail():
            raise TooManyRequests("too many requests with a wrong API key", code="too_many_failures", retry_after=1)
        raise AuthenticationFailed(
            "the API key is missing or wrong", hint="send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
        )

    @staticmethod
    def _given(headers: RawHeaders) -> list[bytes]:
        bearers = [value.partition(b" ") for value in headers.get(b"authorization", [])]
        keys = [key.strip() for scheme, _, key in bearers if scheme.lower() == b"bearer"]
        return [*keys, *headers.get(b"x-api-key", []), *headers.get(b"api-key", [])]

    def _may_fail(self) -> bool:
        now = time.monotonic()
        regained = (now - self._counted_at) * self._limits.wrong_keys_per_second
        self._allowance = min(self._limits.wrong_keys, self._allowance + regained)
        self._counted_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


def check_content_type(headers: RawHeaders) -> None:
    """Raises `UnsupportedMediaType` unless the body is plain UTF-8 JSON by its headers.

    Some clients of Ollama say nothing of their bodies. That is fine with a key: no page sends one unasked.
    """
    media_type, *parameters = _content_type(headers)
    if b"content-type" not in headers and (b"authorization" in headers or b"x-api-key" in headers):
        return
    charsets = [part.strip() for part in parameters if part.strip().startswith(b"charset=")]
    if media_type.strip() != b"application/json" or not set(charsets) <= {b"charset=utf-8", b'charset="utf-8"'}:
        raise UnsupportedMediaType(
            "the Content-Type must be application/json in UTF-8", hint="curl sends it with --json instead of -d"
        )


def check_form(headers: RawHeaders) -> None:
    """Raises `UnsupportedMediaType` unless the body is a form by its headers.

    A foreign page can send one without asking first, which a browser tells by `Origin`; that was looked at before.
    """
    if _content_type(headers)[0].strip() != b"multipart/form-data":
        raise UnsupportedMediaType(
            "the Content-Type must be multipart/form-data", hint="curl sends it with -F file=@requests.jsonl"
        )


def _content_type(headers: RawHeaders) -> list[bytes]:
    """The media type and its parameters in lower case. Raises `UnsupportedMediaType` for a body that is compressed."""
    encodings = headers.get(b"content-encoding", [])
    if any(encoding.strip().lower() != b"identity" for encoding in encodings):
        raise UnsupportedMediaType("compressed request bodies are not supported")
    values = headers.get(b"content-type", [])
    return values[0].lower().split(b";") if len(values) == 1 else [b""]


def _has_body(headers: RawHeaders) -> bool:
    return b"transfer-encoding" in headers or any(value != b"0" for value in headers.get(b"content-length", []))


def check_declared_length(headers: RawHeaders, limit: int) -> None:
    """Raises `BodyTooLarge` when Content-Length already says so; what is really sent is counted as well."""
    for value in headers.get(b"content-length", []):
        if not value.isdigit() or len(value) > 18:
            raise InvalidRequest("the Content-Length is not a number")
        if int(value) > limit:
            raise _too_large(limit)


def _counted(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def receive_within_limit() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
        return message

    return receive_within_limit


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {limit} bytes")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_ip_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
