"""The page at `/`: its files from memory, with headers that let it do nothing but ask this server."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from llmserve.errors import NotFound

_FOLDER = "page"
_INDEX = "index.html"
# What the index has in place of the version in the addresses of the other files.
_VERSION = b"{version}"
_MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Trusted types: not even a mistake in a script can make markup of a text.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HTML = re.compile(rb"\s*text/html\s*(?:;(?!\s*q=0(?:\.0*)?\s*(?:,|$))[^,]*)?", re.IGNORECASE)


class Page:
    """The files of the page, read once, here.

    All but the index have addresses with a digest of them all, and may be kept for ever.
    """

    def __init__(self) -> None:
        folder = resources.files("llmserve").joinpath(_FOLDER)
        files = {
            entry.name: entry.read_bytes()
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
            if PurePath(entry.name).suffix in {*_MEDIA_TYPES, ".html"}
        }
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(b"%s %d\n%s" % (name.encode(), len(content), content))
        self.version = digest.hexdigest()[:16]
        self._index = files.pop(_INDEX).replace(_VERSION, self.version.encode())
        self._files = files
        self._paths = {f"/page/{self.version}/{name}" for name in files}

    def table(self) -> list[Route]:
        return [
            _BrowserRoute("/", self.index, methods=["GET"], include_in_schema=False),
            Route("/page/{version}/{file}", self.file, methods=["GET"], include_in_schema=False),
        ]

    def is_public(self, scope: Scope) -> bool:
        """Whether `scope` asks for a file of the page: they hold no secret, and ask for the key themselves."""
        return scope["path"] in self._paths or _from_browser(scope)

    async def index(self, request: Request) -> Response:
        caching = {"Cache-Control": "no-cache", "Vary": "Accept"}
        return self._answer(request, self._index, "text/html; charset=utf-8", caching)

    async def file(self, request: Request) -> Response:
        name = request.path_params["file"]
        if request.scope["path"] not in self._paths:
            raise NotFound("there is no such file; reload the page")
        caching = {"Cache-Control": "public, max-age=31536000, immutable"}
        return self._answer(request, self._files[name], _MEDIA_TYPES[PurePath(name).suffix], caching)

    def _answer(self, request: Request, content: bytes, media_type: str, caching: dict[str, str]) -> Response:
        tag = f'"{self.version}"'
        headers = {**_HEADERS, **caching, "ETag": tag}
        if tag in request.headers.get("if-none-match", "").replace("W/", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)


class _BrowserRoute(Route):
    """A route that is there for browsers only: what programs find at its path stays what it was."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if scope["type"] == "http" and _from_browser(scope) else (Match.NONE, {})


def _from_browser(scope: Scope) -> bool:
    """Whether this is a request for a page at `/`: its Accept names HTML, which no client of an API does."""
    if scope["path"] != "/" or scope["method"] not in {"GET", "HEAD"}:
        return False
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return any(_HTML.fullmatch(part) for part in accepted.split(b","))
