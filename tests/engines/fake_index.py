"""A package index on loopback, of tiny wheels."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


def add_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
) -> Path:
    """A wheel of pure Python in the index's `folder`; returns its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    content = {
        **(files or {}),
        f"{stem}.dist-info/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *[f"Requires-Dist: {r}" for r in requires],
            ]
        )
        + "\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{stem}.dist-info/RECORD"])
    path = folder / name / f"{stem}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
        archive.writestr(f"{stem}.dist-info/RECORD", record)
    return path


def add_source(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """A source distribution in the index's `folder`; returns its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / name / f"{stem}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in {"PKG-INFO": metadata, **files}.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{stem}/{file}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def incompressible(size: int) -> str:
    """Text of `size` characters that a wheel does not shrink (they are stored), the same each time."""
    block = hashlib.sha256(b"wheel").hexdigest()
    return (block * (size // len(block) + 1))[:size]


class FakeIndex:
    """Serves a folder of `<package>/<file>` over HTTP. `requests` are the paths asked for, in order.

    What is asked of a path that ends with `held` sets `reached`, and gets no answer: the connection is closed once
    `released` is set.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.requests: list[str] = []
        self.held: str | None = None
        self.reached = threading.Event()
        self.released = threading.Event()
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                if index.held is not None and self.path.endswith(index.held):
                    index.reached.set()
                    index.released.wait(60)
                    self.close_connection = True
                    return
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests read stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked_for(self, package: str) -> bool:
        return any(path.strip("/").split("/")[0] == package for path in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
