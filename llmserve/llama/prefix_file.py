"""One saved prefix as a file: a head, its tokens, a digest of both, and the bytes that llama.cpp made of them.

    8 bytes   magic            8 bytes   number of tokens      32 bytes  SHA-256 of the state
    4 bytes   format version   8 bytes   bytes of the state    4 bytes   each token
    32 bytes  key                                              32 bytes  SHA-256 of everything so far
                                                               the state

Numbers are little-endian. The key stands for everything that decides the layout of the state. The state goes to native
code that trusts it, so nothing of a file is used before its digest was found right.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter

import numpy as np
import numpy.typing as npt

_MAGIC = b"LLMSPFX\n"
_VERSION = 1
_HEAD = struct.Struct("<8sI32sQQ32s")
_DIGEST_BYTES = 32
# Between two pieces it is asked whether to go on.
_PIECE_BYTES = 4 * 1024 * 1024
# No model has a context of so many tokens; the number in a damaged head is not believed.
_MOST_TOKENS = 1 << 26


class DamagedFile(Exception):
    """The file is no prefix that may be used here; the message says why, as the end of a sentence."""


class Interrupted(Exception):
    """There was no time to write the file."""


@dataclass(frozen=True, slots=True)
class PrefixHead:
    """What a file says of itself: the tokens, and the length and the digest of the state behind them."""

    tokens: list[int]
    state_bytes: int
    state_digest: bytes


def file_bytes(tokens: int, state_bytes: int) -> int:
    """The size of a file of so many tokens with a state of so many bytes."""
    return _HEAD.size + 4 * tokens + _DIGEST_BYTES + state_bytes


def _digest_of(state: npt.NDArray[np.uint8], may_go_on: Callable[[], bool]) -> bytes:
    """The SHA-256 of `state`. Raises `Interrupted` when `may_go_on` says no."""
    digest = hashlib.sha256()
    for piece in _pieces(state, may_go_on):
        digest.update(piece)
    return digest.digest()


def write_prefix(
    file: BufferedWriter, key: bytes, tokens: list[int], state: npt.NDArray[np.uint8], may_go_on: Callable[[], bool]
) -> None:
    """Write the whole file and wait until it is on the disk.

    Raises `OSError`, or `Interrupted` when `may_go_on` says no.
    """
    digest = _digest_of(state, may_go_on)
    front = _HEAD.pack(_MAGIC, _VERSION, key, len(tokens), state.size, digest) + _packed(tokens)
    file.write(front + hashlib.sha256(front).digest())
    for piece in _pieces(state, may_go_on):
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())


def read_head(file: BufferedReader, key: bytes) -> PrefixHead:
    """The head of an open file, which is left at the beginning of the state. Raises `DamagedFile` or `OSError`."""
    _require_private(file)
    front = file.read(_HEAD.size)
    if len(front) < _HEAD.size:
        raise DamagedFile("it is too short")
    magic, version, own_key, count, state_bytes, state_digest = _HEAD.unpack(front)
    if (magic, version) != (_MAGIC, _VERSION):
        raise DamagedFile("it has another format")
    if own_key != key:
        raise DamagedFile("it belongs to another model or another build of the engine")
    if not 0 < count <= _MOST_TOKENS or os.fstat(file.fileno()).st_size != file_bytes(count, state_bytes):
        raise DamagedFile("its length is not what it says")
    packed = file.read(4 * count)
    if file.read(_DIGEST_BYTES) != hashlib.sha256(front + packed).digest():
        raise DamagedFile("the checksum of its tokens is wrong")
    return PrefixHead(_unpacked(packed), state_bytes, state_digest)


def read_state(file: BufferedReader, head: PrefixHead) -> npt.NDArray[np.uint8]:
    """The state of a file whose `head` was just read. Raises `DamagedFile` or `OSError`."""
    state = np.empty(head.state_bytes, dtype=np.uint8)
    digest, view, done = hashlib.sha256(), state.data, 0
    while done < len(view):
        count = file.readinto(view[done : done + _PIECE_BYTES])
        if not count:
            raise DamagedFile("it became shorter while it was read")
        digest.update(view[done : done + count])
        done += count
    if digest.digest() != head.state_digest:
        raise DamagedFile("its checksum is wrong")
    return state


def _require_private(file: BufferedReader) -> None:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise DamagedFile("others could have written it")


def _pieces(state: npt.NDArray[np.uint8], may_go_on: Callable[[], bool]) -> Iterator[memoryview]:
    view = state.data
    for start in range(0, len(view), _PIECE_BYTES):
        if not may_go_on():
            raise Interrupted
        yield view[start : start + _PIECE_BYTES]


def _packed(tokens: list[int]) -> bytes:
    return np.asarray(tokens, dtype="<i4").tobytes()


def _unpacked(packed: bytes) -> list[int]:
    tokens: list[int] = np.frombuffer(packed, dtype="<i4").tolist()
    return tokens
