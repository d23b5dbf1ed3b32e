"""Configuration files of other programs, changed so that nothing in them is lost."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from llmserve.errors import Conflict, InsufficientStorage, InvalidRequest
from llmserve.store.files import NO_ROOM, rename_durably, write_durably

# No configuration that a person keeps is larger.
_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`path` is the file, where a link leads if it is one; `backup` what holds its old text, None where it was new."""

    path: Path
    backup: Path | None
    changed: bool


def rewrite(path: Path, edit: Callable[[str], str], *, private: bool) -> Rewritten:
    """Replace the text of the file at `path` by what `edit` makes of it, of an empty text where there is none.

    At any time it is the old file or the new. The old one is kept beside it, and its mode stays, except that a
    `private` one becomes its owner's alone; new files are. Raises `InvalidRequest` for what is no such file, cannot be
    written or is refused by `edit`, `Conflict` where somebody else changed it meanwhile, and `InsufficientStorage`.
    """
    try:
        target = path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidRequest(f"{path} is no path of a file: {error}") from error
    old, mode = _read(target)
    try:
        text = edit("" if old is None else old.decode())
    except UnicodeDecodeError:
        raise InvalidRequest(f"{target} is not text in UTF-8") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{target}: {error.message}", hint=error.hint) from error
    new = text.encode()
    mode = mode & 0o600 if private else mode
    try:
        if old == new:
            target.chmod(mode)
            return Rewritten(target, None, changed=False)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Rewritten(target, _replace(target, old, new, mode), changed=True)
    except OSError as error:
        kind = InsufficientStorage if error.errno in NO_ROOM else InvalidRequest
        raise kind(f"cannot write {target}: {error.strerror}") from error


def _read(target: Path) -> tuple[bytes | None, int]:
    """What the file holds, None where there is none, and its mode."""
    try:
        # A pipe would let a reader wait for ever.
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                raise InvalidRequest(f"{target} is no configuration file")
            if status.st_uid != os.geteuid():
                raise InvalidRequest(f"{target} belongs to another user")
            return file.read(), stat.S_IMODE(status.st_mode)
    except FileNotFoundError:
        return None, 0o600
    except OSError as error:
        raise InvalidRequest(f"cannot read {target}: {error.strerror}") from error


def _replace(target: Path, old: bytes | None, new: bytes, mode: int) -> Path | None:
    """Put `new` in the place of `old`; gives the file that holds that now."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        write_durably(beside, new)
        beside.chmod(mode)
        if _read(target)[0] != old:
            raise Conflict(f"{target} was changed by another program meanwhile", hint="try again")
        backup = None if old is None else _backed_up(target, old)
        rename_durably(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return backup


def _backed_up(target: Path, old: bytes) -> Path:
    """A file of its own, beside `target`, that holds `old`."""
    numbers = count()
    while True:
        backup = target.with_name(f"{target.name}.bak{next(numbers) or ''}")
        try:
            write_durably(backup, old)
        except FileExistsError:
            continue
        except BaseException:
            backup.unlink(missing_ok=True)
            raise
        return backup
