"""A GGUF file at any https address, pinned by its SHA-256: what is served there may change, what is kept may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.errors import LlmserveError, ModelNotFound, PullFailed
from llmserve.store.blobs import Blobs
from llmserve.store.files import free_bytes, require_space
from llmserve.store.names import UrlReference, shown
from llmserve.store.options import PullOptions
from llmserve.store.progress import PullProgress, Report
from llmserve.store.sources.artifact import Artifact, ArtifactFile
from llmserve.store.transfer import Remote, Throttle, Transfer

if TYPE_CHECKING:
    import httpx2

_SIZE = re.compile(r"bytes \d+-\d+/(\d{1,18})")
_TIMEOUT_SECONDS = 30.0
_MAX_REDIRECTS = 5


@contextmanager
def fetch(reference: UrlReference, options: PullOptions, blobs: Blobs, report: Report) -> Iterator[Artifact]:
    """The file as a verified blob, locked until the block ends. Blocking.

    Raises `ModelNotFound`, `PullFailed` or `InsufficientStorage`.
    """

    def fill(partial: Path) -> None:
        if options.offline:
            raise PullFailed(
                f"{reference.file} is not here, and nobody is asked offline", hint="pull it with the network"
            )
        with _errors(reference), open_client() as client:
            size_bytes = _size(client, reference)
            here = partial.stat().st_size if partial.exists() else 0
            require_space(partial.parent, size_bytes - min(here, size_bytes))
            report(PullProgress("downloading", here, size_bytes, free_bytes(partial.parent)))

            def tell(done: int) -> None:
                report(PullProgress("downloading", done, size_bytes))

            remote = Remote(reference.url, {}, reference.file, size_bytes)
            Transfer(client, remote, _check, tell, Throttle(options.bytes_per_second)).run(partial)

    with blobs.downloaded(reference.sha256, fill, report) as blob:
        file = ArtifactFile(reference.file, blob.path, blob.sha256, blob.identity)
        yield Artifact((file,), source=str(reference), owned=True)


def open_client() -> httpx2.Client:
    """An HTTP client that follows a few redirects, to https addresses only, and sends no credentials."""
    import httpx2

    def require_https(request: httpx2.Request) -> None:
        if request.url.scheme != "https":
            raise PullFailed("the address redirects to one without https; it was not followed")

    return httpx2.Client(
        event_hooks={"request": [require_https]},
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
        timeout=_TIMEOUT_SECONDS,
    )


def _size(client: httpx2.Client, reference: UrlReference) -> int:
    """The size of the file, from an answer whose body is not read; some servers answer no HEAD."""
    with client.stream("GET", reference.url, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as response:
        _check(response)
        match = _SIZE.fullmatch(response.headers.get("Content-Range", ""))
        stated = match[1] if match else response.headers.get("Content-Length", "")
        if (response.status_code == 206) != (match is not None) or not stated.isdecimal() or int(stated) == 0:
            raise PullFailed(f"the server does not say how large {reference.file} is")
        return int(stated)


def _check(response: httpx2.Response) -> None:
    if response.status_code in {404, 410}:
        raise ModelNotFound("there is nothing at that address", param="model")
    if response.is_error:
        raise PullFailed(f"the server answered {response.status_code}", hint="pull again later")


@contextmanager
def _errors(reference: UrlReference) -> Iterator[None]:
    import httpx2

    try:
        yield
    except LlmserveError:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = shown(str(error).partition("\n")[0], 200) or type(error).__name__
        raise PullFailed(f"cannot get {reference.file}: {reason}", hint="check the network, then pull again") from error
