"""A Hugging Face Hub on loopback, as far as huggingface_hub asks for one, that can also misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CDN = re.compile(r"/cdn/([0-9a-f]{64})")
_PIECE_BYTES = 64 * 1024
# Long enough for the other end to have read a piece, as a rule.
_TRICKLE_SECONDS = 0.002


@dataclass
class Repository:
    """Files by commit, and the commit each branch is at."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    target: str


@dataclass
class Answer:
    """An answer instead of the right one, as `(status, headers, body)`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class FakeHub:
    """Serve what `commit` was given. Attributes that change its behaviour, all off at first:

    info_answer, resolve_answer: given instead of any answer of that kind. corrupt: flip a bit of each body.
    break_after: break the connection after so many body bytes, once. ignore_range: answer 200 to a range request.
    answers: given to the next requests for content, one each, None being the right one. drop: close so many connections
    for content without an answer. length_error: added to the announced length of content. trickle: send content in
    pieces of so many bytes, so that no two come together. gated: the token that a repository's content needs.
    changed: what a file has become for those who ask for the rest of it; its ETag differs too.
    small_files_without_lfs: describe JSON files as the Hub does, by git's id alone. cdn: redirect to this base URL.
    hold_after: after so many body bytes wait once, `holding` being set, until the test sets `go_on`. after_info: called
    after repository metadata was sent. siblings: instead of the list of files. on_sent: called with `sent_bytes` after
    each piece of content.

    `requests` are all that came, with the target as it was sent, and `sent_bytes` the content that was given out.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.info_answer: Answer | None = None
        self.resolve_answer: Answer | None = None
        self.corrupt = False
        self.break_after: int | None = None
        self.ignore_range = False
        self.cdn: str | None = None
        self.after_info: Any = None
        self.siblings: list[dict[str, Any]] | None = None
        self.small_files_without_lfs = False
        self.hold_after: int | None = None
        self.holding = threading.Event()
        self.go_on = threading.Event()
        self.answers: list[Answer | None] = []
        self.drop = 0
        self.length_error = 0
        self.trickle: int | None = None
        self.gated: dict[str, str] = {}
        self.changed: bytes | None = None
        self.sent_bytes = 0
        self.on_sent: Callable[[int], None] | None = None
        self.url = ""

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put a new commit with exactly these files on a branch; returns its 40 hex digits."""
        entry = self.repositories.setdefault(repository, Repository())
        commit = hashlib.sha1(repr((len(entry.commits), sorted(files))).encode(), usedforsecurity=False).hexdigest()
        entry.commits[commit] = files
        entry.branches[branch] = commit
        return commit

    def downloads(self) -> list[Request]:
        """The requests that asked for a file's content."""
        return [request for request in self.requests if request.method == "GET" and "/api/" not in request.path]

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_HEAD(self) -> None:
            self._serve()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            path = unquote(urlsplit(self.path).path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.requests.append(Request(self.command, path, headers, self.path))
            if match := _INFO.fullmatch(path):
                self._info(match[1], match[2] or "main")
            elif match := _RESOLVE.fullmatch(path):
                self._resolve(match[1], match[2], match[3])
            elif match := _CDN.fullmatch(path):
                self._content(_find(hub, match[1]), {})
            else:
                self._send(Answer(404))

        def _info(self, repository: str, revision: str) -> None:
            entry = hub.repositories.get(repository)
            commit = entry.resolve(revision) if entry else None
            if hub.info_answer:
                self._send(hub.info_answer)
            elif entry is None:
                self._send(Answer(401, {"X-Error-Code": "RepoNotFound"}))
            elif commit is None:
                self._send(Answer(404, {"X-Error-Code": "RevisionNotFound"}))
            else:
                siblings = hub.siblings
                if siblings is None:
                    siblings = [
                        _git_sibling(name, content)
                        if hub.small_files_without_lfs and name.endswith(".json")
                        else _sibling(name, content)
                        for name, content in entry.commits[commit].items()
                    ]
                body = {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False}
                self._send(Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode()))
                if hub.after_info:
                    hub.after_info()

        def _resolve(self, repository: str, revision: str, name: str) -> None:
            entry = hub.repositories[repository]
            commit = entry.resolve(revision)
            if hub.resolve_answer:
                self._send(hub.resolve_answer)
                return
            if hub.drop:
                hub.drop -= 1
                self.close_connection = True
                return
            if hub.answers and (answer := hub.answers.pop(0)):
                self._send(answer)
                return
            if (token := hub.gated.get(repository)) and self.headers.get("Authorization") != f"Bearer {token}":
                status = 403 if "Authorization" in self.headers else 401
                self._send(Answer(status, {"X-Error-Code": "GatedRepo"}))
                return
            if commit is None or name not in entry.commits[commit]:
                self._send(Answer(404, {"X-Error-Code": "EntryNotFound"}))
                return
            content = entry.commits[commit][name]
            sha256 = hashlib.sha256(content).hexdigest()
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(content)),
                "ETag": f'"{sha256}"',
            }
            if hub.cdn:
                self._send(Answer(302, headers | {"Location": f"{hub.cdn}/cdn/{sha256}"}))
            else:
                self._content(content, headers)

        def _content(self, content: bytes, headers: dict[str, str]) -> None:
            if hub.corrupt:
                content = bytes([content[0] ^ 1]) + content[1:]
            status = 200
            if (asked := self.headers.get("Range")) and not hub.ignore_range:
                if hub.changed is not None:
                    content = hub.changed
                    headers = headers | {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
                content = content[start:]
                status = 206
            headers = headers | {"Accept-Ranges": "bytes", "Content-Length": str(len(content) + hub.length_error)}
            self._send(Answer(status, headers, content), is_content=True)

        def _send(self, answer: Answer, is_content: bool = False) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            body = answer.body
            if is_content and hub.break_after is not None and len(body) > hub.break_after:
                body, hub.break_after = body[: hub.break_after], None
            if is_content and hub.hold_after is not None and len(body) > hub.hold_after:
                first, body, hub.hold_after = body[: hub.hold_after], body[hub.hold_after :], None
                self._write(first, is_content)
                hub.holding.set()
                hub.go_on.wait(60)
            self._write(body, is_content)

        def _write(self, body: bytes, is_content: bool) -> None:
            piece_bytes = (is_content and hub.trickle) or _PIECE_BYTES
            with suppress(ConnectionError):  # the client may be gone by now
                for start in range(0, len(body), piece_bytes):
                    piece = body[start : start + piece_bytes]
                    self.wfile.write(piece)
                    if is_content:
                        hub.sent_bytes += len(piece)
                        if hub.on_sent:
                            hub.on_sent(hub.sent_bytes)
                        if hub.trickle:
                            hub.go_on.wait(_TRICKLE_SECONDS)

    return Handler


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    lfs = {"size": len(content), "sha256": sha256, "pointerSize": 130}
    return {"rfilename": name, "size": len(content), "blobId": sha256[:40], "lfs": lfs}


def _git_sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return {"rfilename": name, "size": len(content), "blobId": blob}


def _find(hub: FakeHub, sha256: str) -> bytes:
    for repository in hub.repositories.values():
        for files in repository.commits.values():
            for content in files.values():
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content
    raise LookupError(sha256)
