"""Running a reader on many files within bounds that the kernel keeps, in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from llmserve.errors import InvalidModel

SECONDS = 1.0
MEMORY_BYTES = 64 * 1024 * 1024


def read_within_bounds(read: Callable[[Path], object], files: Iterable[bytes], path: Path) -> tuple[int, int]:
    """Put each of `files` at `path` and read it; how many were read, and how many refused with `InvalidModel`.

    The child that does it may take 64 MB more memory than it starts with, and a second of processor time for each file:
    whoever takes more ends with another exception, which fails here with the number of the file.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer = b""
        try:
            answer = json.dumps(_count(read, files, path)).encode()
        except BaseException:
            answer = json.dumps(traceback.format_exc()[-4000:]).encode()
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not answer:
        raise AssertionError(f"the reader's process ended with {os.waitstatus_to_exitcode(status)}")
    counts = json.loads(answer)
    if isinstance(counts, str):
        raise AssertionError(counts)
    return counts[0], counts[1]


def _count(read: Callable[[Path], object], files: Iterable[bytes], path: Path) -> tuple[int, int]:
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES, used_bytes + MEMORY_BYTES))
    signal.signal(signal.SIGPROF, _too_slow)
    sound = refused = 0
    for number, content in enumerate(files):
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            read(path)
            sound += 1
        except InvalidModel:
            refused += 1
        except Exception as error:
            raise AssertionError(f"file {number}: {type(error).__name__}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return sound, refused


def _too_slow(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"more than {SECONDS} s of processor time")
