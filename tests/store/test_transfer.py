"""One file over HTTP against servers that do what they should not, and files from any https address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from llmserve.errors import InsufficientStorage, LlmserveError, ModelNotFound, PullFailed
from llmserve.store import transfer
from llmserve.store.options import PullOptions
from llmserve.store.sources import url as url_source
from llmserve.store.stop import Stop, Stopped
from llmserve.store.store import Store
from llmserve.store.transfer import Remote, Throttle, Transfer
from tests.store.conftest import visible_files

CONTENT = bytes(range(256)) * 400
Handler = Callable[[httpx2.Request], httpx2.Response]


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transfer, "time", clock)
    monkeypatch.setattr(Stop, "wait", lambda _, seconds: clock.sleep(seconds))
    return clock


def serve(request: httpx2.Request, content: bytes = CONTENT) -> httpx2.Response:
    """What a good server does."""
    asked = request.headers.get("Range")
    if asked is None:
        return httpx2.Response(200, content=content)
    start = int(asked.removeprefix("bytes=").partition("-")[0])
    end = asked.rpartition("-")[2]
    body = content[start : int(end) + 1 if end else None]
    stated = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(content)}"}
    return httpx2.Response(206, headers=stated, content=body)


def run(handler: Handler, partial: Path, told: list[int] | None = None, rate: float | None = None) -> None:
    remote = Remote("http://hub/file", {"X-Ours": "1"}, "file", len(CONTENT))
    seen = [] if told is None else told
    with httpx2.Client(transport=httpx2.MockTransport(handler)) as client:
        Transfer(client, remote, lambda response: response.raise_for_status(), seen.append, Throttle(rate)).run(partial)


class Breaking(httpx2.SyncByteStream):
    """A body whose connection breaks after some bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx2.ReadError("broken")


def test_a_file_comes_as_a_whole(tmp_path: Path) -> None:
    told: list[int] = []
    run(serve, tmp_path / "partial", told)
    assert (tmp_path / "partial").read_bytes() == CONTENT
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)


def test_what_is_here_already_is_not_asked_for(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers.get("Range"))
        return serve(request)

    partial = tmp_path / "partial"
    partial.write_bytes(CONTENT[:1000])
    run(handler, partial)
    assert partial.read_bytes() == CONTENT
    assert asked == ["bytes=1000-"]
    run(handler, partial)
    assert len(asked) == 1


def test_a_connection_may_break_as_often_as_it_brings_something(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers.get("Range"))
        whole = serve(request)
        return httpx2.Response(whole.status_code, headers=dict(whole.headers), stream=Breaking(whole.content[:9000]))

    run(handler, tmp_path / "partial")
    assert (tmp_path / "partial").read_bytes() == CONTENT
    assert asked == [None, *(f"bytes={start}-" for start in range(9000, len(CONTENT), 9000))]


def test_a_server_that_brings_nothing_is_given_up(tmp_path: Path) -> None:
    asked: list[None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(None)
        raise httpx2.ConnectTimeout("late")

    with pytest.raises(httpx2.ConnectTimeout):
        run(handler, tmp_path / "partial")
    assert len(asked) == 5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, status: int, clock: Clock) -> None:
    answers = [httpx2.Response(status, headers={"Retry-After": "7"}), None]

    def handler(request: httpx2.Request) -> httpx2.Response:
        return answers.pop(0) or serve(request)

    run(handler, tmp_path / "partial")
    assert (tmp_path / "partial").read_bytes() == CONTENT
    assert clock.now >= 107


@pytest.mark.parametrize(("status", "asked_times"), [(403, 1), (404, 1), (503, 5)])
def test_a_status_that_stays_is_an_error(tmp_path: Path, status: int, asked_times: int) -> None:
    asked: list[None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(None)
        return httpx2.Response(status)

    with pytest.raises(httpx2.HTTPStatusError):
        run(handler, tmp_path / "partial")
    assert len(asked) == asked_times


def test_a_wait_that_is_too_long_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(httpx2.HTTPStatusError):
        run(lambda _: httpx2.Response(429, headers={"Retry-After": "3600"}), tmp_path / "partial")
    assert clock.now == 100


def test_the_whole_file_instead_of_the_rest_replaces_what_is_here(tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.write_bytes(b"x" * 1000)
    run(lambda _: httpx2.Response(200, content=CONTENT), partial)
    assert partial.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "stated",
    ["bytes 0-99/102400", "bytes 999-102399/102400", "bytes 1000-102399/5", "bytes */102400", "nonsense", ""],
)
def test_another_range_than_asked_is_refused(tmp_path: Path, stated: str) -> None:
    partial = tmp_path / "partial"
    partial.write_bytes(CONTENT[:1000])
    with pytest.raises(PullFailed, match="another place"):
        run(lambda _: httpx2.Response(206, headers={"Content-Range": stated}, content=CONTENT[1000:]), partial)


@pytest.mark.parametrize("content", [b"<html>sign in</html>", CONTENT + b"x"])
def test_another_length_than_known_is_refused_before_it_is_read(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(PullFailed, match="announces"):
        run(lambda _: httpx2.Response(200, content=content), tmp_path / "partial")


def test_more_than_there_is_is_not_kept(tmp_path: Path) -> None:
    class Endless(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield CONTENT

    with pytest.raises(PullFailed, match="more than"):
        run(lambda _: httpx2.Response(200, stream=Endless()), tmp_path / "partial")
    assert (tmp_path / "partial").stat().st_size == 0


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "partial").symlink_to(target)
    with pytest.raises(PullFailed):
        run(serve, tmp_path / "partial")
    assert target.read_bytes() == b"precious"


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_write", full)
    with pytest.raises(InsufficientStorage):
        run(serve, tmp_path / "partial")


def test_the_limit_is_kept(tmp_path: Path, clock: Clock) -> None:
    run(serve, tmp_path / "partial", rate=1024)
    assert clock.now - 100 == pytest.approx(len(CONTENT) / 1024)


# --- https addresses ---


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Handler]:
    """Who answers at every address; the last one that was put here."""
    handlers: list[Handler] = [serve]
    make = url_source.open_client

    def open_client() -> httpx2.Client:
        client = make()
        client._transport = httpx2.MockTransport(lambda request: handlers[-1](request))
        client._mounts = {}
        return client

    monkeypatch.setattr(url_source, "open_client", open_client)
    return handlers


def test_an_address_is_pulled_by_its_digest(
    store: Store, answers: list[Handler], tiny_bytes: bytes, tiny_sha256: str
) -> None:
    answers.append(lambda request: serve(request, tiny_bytes))
    name = f"https://example.com/models/Tiny.gguf#sha256={tiny_sha256}"
    model = store.pull(name)
    assert model.name == f"tiny:{tiny_sha256[:12]}"
    assert model.source == name
    assert Path(model.path).read_bytes() == tiny_bytes
    assert store.find(name) == store.find(model.name) == model
    assert store.remove(name) == len(tiny_bytes)


def test_another_file_at_the_address_is_not_kept(store: Store, answers: list[Handler], private_home: Path) -> None:
    with pytest.raises(PullFailed, match="SHA-256"):
        store.pull(f"https://example.com/tiny.gguf#sha256={'0' * 64}")
    assert visible_files(private_home) == []
    assert list((private_home / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx2.Response(404), ModelNotFound),
        (httpx2.Response(403), PullFailed),
        (httpx2.Response(302, headers={"Location": "http://169.254.169.254/x"}), PullFailed),
        (httpx2.Response(302, headers={"Location": "https://example.com/loop"}), PullFailed),
        (httpx2.Response(206, content=b"x"), PullFailed),
        (httpx2.Response(200, content=b""), PullFailed),
    ],
    ids=["gone", "forbidden", "downgrade", "loop", "no range", "empty"],
)
def test_an_address_that_does_not_serve_is_explained(
    store: Store, answers: list[Handler], answer: httpx2.Response, error: type[LlmserveError]
) -> None:
    answers.append(lambda request: answer)
    with pytest.raises(error) as refused:
        store.pull(f"https://example.com/tiny.gguf#sha256={'0' * 64}")
    assert "\n" not in str(refused.value)


def test_offline_asks_nobody(store: Store, answers: list[Handler]) -> None:
    def nobody(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError("asked")

    answers.append(nobody)
    with pytest.raises(PullFailed, match="offline"):
        store.pull(f"https://example.com/tiny.gguf#sha256={'0' * 64}", None, PullOptions(offline=True))


def test_a_stop_ends_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()

    def busy(_: httpx2.Request) -> httpx2.Response:
        stop.set()
        return httpx2.Response(503, headers={"Retry-After": "30"})

    monkeypatch.undo()
    with httpx2.Client(transport=httpx2.MockTransport(busy)) as client, pytest.raises(Stopped):
        remote = Remote("https://hub.test/file", {}, "file", len(CONTENT))
        Transfer(client, remote, lambda _: None, lambda _: None, Throttle(), stop).run(tmp_path / "partial")
