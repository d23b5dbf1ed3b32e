"""Getting a file over HTTP, going on where an earlier attempt or another process stopped."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.errors import PullFailed
from llmserve.store.files import storage_errors
from llmserve.store.stop import Stop

if TYPE_CHECKING:
    import httpx2

# In a row, without a byte: what brings bytes may break as often as it likes.
_ATTEMPTS = 5
_LONGEST_PAUSE_SECONDS = 30.0
_TIMEOUT_SECONDS = 30.0
_ACTION = "write the model"
_ERROR_BYTES = 64 * 1024
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address: what to ask for, and the size it must have. `name` is for messages."""

    url: str
    headers: Mapping[str, str]
    name: str
    size_bytes: int


class Throttle:
    """A limit in bytes per second, shared by every connection of a pull; None is no limit."""

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def spend(self, count: int, stop: Stop) -> None:
        """Wait until `count` more bytes are within the limit. Raises `Stopped`."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count / self._rate
            wait_seconds = self._free_at - now
        stop.wait(wait_seconds)


class Transfer:
    """One file on its way into the file `partial`, which keeps what came when the transfer ends early.

    `check` raises for a response with an error status; `tell` is called with the bytes that are here, and stops the
    transfer by raising. So does `stop`, in whatever the transfer waits for but a connection and the head of an answer.
    Whatever goes wrong, `partial` never holds more than was received; whether it is right is for the caller to see from
    its digest.
    """

    def __init__(
        self,
        client: httpx2.Client,
        remote: Remote,
        check: Callable[[httpx2.Response], object],
        tell: Callable[[int], None],
        throttle: Throttle,
        stop: Stop | None = None,
    ) -> None:
        self._client = client
        self._remote = remote
        self._check = check
        self._tell = tell
        self._throttle = throttle
        self._stop = stop or Stop()
        self._etag: str | None = None
        self._began_anew = False

    def run(self, partial: Path) -> None:
        """Bring `partial` to its size and onto the disk. Raises `PullFailed`, `InsufficientStorage` or httpx2's."""
        import httpx2

        with _opened(partial) as file:
            attempts = 0
            while (done := self._usable(file)) < self._remote.size_bytes:
                self._stop.check()
                problem: Exception | None = None
                refused: httpx2.Response | None = None
                try:
                    refused = self._receive(file, done)
                except httpx2.TransportError as error:
                    problem = error
                attempts = 0 if file.tell() > done else attempts + 1
                if attempts == _ATTEMPTS:
                    if refused is not None:
                        self._check(refused)
                    raise problem or PullFailed(f"the server stops before the end of `{self._remote.name}`")
                if attempts:
                    self._stop.wait(min(2.0**attempts, _LONGEST_PAUSE_SECONDS))
            self._tell(self._remote.size_bytes)
            with storage_errors(_ACTION):
                file.flush()
                os.fsync(file.fileno())

    def _usable(self, file: io.FileIO) -> int:
        """How many bytes are here; a file that is too long is of no use."""
        done = file.seek(0, os.SEEK_END)
        return done if done <= self._remote.size_bytes else file.truncate(file.seek(0))

    def _receive(self, file: io.FileIO, done: int) -> httpx2.Response | None:
        """Ask for what is missing and write it; returns the answer of a server that wants to be asked later."""
        headers = {**self._remote.headers, "Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with self._client.stream(
            "GET", self._remote.url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
        ) as response:
            if response.is_error:
                return self._refused(response, file)
            if self._is_another_file(response):
                file.truncate(file.seek(0))
                return None
            if not self._continues(response, done):
                done = file.truncate(file.seek(0))
            with self._stop.ending(response):
                self._take(response, file, done)
        return None

    def _take(self, response: httpx2.Response, file: io.FileIO, done: int) -> None:
        """Write what the response brings behind the `done` bytes that are here."""
        # As they come from the network: what waits for more to come would be lost with the connection.
        for chunk in response.iter_bytes():
            done += len(chunk)
            if done > self._remote.size_bytes:
                file.truncate(file.seek(0))
                raise PullFailed(f"the server sends more than `{self._remote.name}` has; nothing was kept")
            self._throttle.spend(len(chunk), self._stop)
            with storage_errors(_ACTION):
                _write(file, chunk)
            self._tell(done)

    def _refused(self, response: httpx2.Response, file: io.FileIO) -> httpx2.Response:
        """A refusal that may pass; raises for one that will not."""
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= _ERROR_BYTES:
            response.read()  # so that `check` can quote it
        if response.status_code == 416:
            file.truncate(file.seek(0))
        elif response.status_code not in _TRY_AGAIN:
            self._check(response)
        asked = response.headers.get("Retry-After", "")
        if asked.isdecimal():
            if int(asked) > _LONGEST_PAUSE_SECONDS:
                self._check(response)
            self._stop.wait(min(int(asked), _LONGEST_PAUSE_SECONDS))
        return response

    def _is_another_file(self, response: httpx2.Response) -> bool:
        """Whether what came so far is of another version than this answer; told once, for ETags may differ by server.

        What an earlier process brought has no ETag here: its digest tells.
        """
        before, self._etag = self._etag, response.headers.get("ETag")
        if self._began_anew or response.status_code != 206 or before in {None, self._etag}:
            return False
        self._began_anew = True
        return True

    def _continues(self, response: httpx2.Response, done: int) -> bool:
        """Whether the body goes on from byte `done`; False if it is the whole file. Raises for any other file's."""
        size = self._remote.size_bytes
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != done or match[3] not in {"*", str(size)}:
                raise PullFailed(f"the server continues `{self._remote.name}` at another place than asked")
            return True
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(size):
            raise PullFailed(
                f"the server announces {announced} bytes for `{self._remote.name}` instead of {size}",
                hint="a proxy or a sign-in page may stand between: check the network, then pull again",
            )
        return False


def _write(file: io.FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def _opened(partial: Path) -> io.FileIO:
    """`partial` for reading and appending, made (mode 0600) if need be; a link in its place is refused."""
    with storage_errors(_ACTION):
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # Without a buffer, so that whatever ends the process, what came is in the file.
    return io.FileIO(descriptor, "r+")
