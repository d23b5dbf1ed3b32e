"""A file of the user's own: used where it lies, never copied and never deleted."""

from __future__ import annotations

from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.files import sha256_of
from llmserve.store.progress import Report
from llmserve.store.sources.artifact import Artifact


def locate(path: Path) -> Path:
    """The absolute path of the file itself, symbolic links resolved once and for all. Raises `InvalidModel`."""
    if not path.name.lower().endswith(".gguf"):
        raise InvalidModel(f"{path} is not a .gguf file")
    try:
        resolved = path.expanduser().resolve(strict=True)
        str(resolved).encode()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links lead nowhere"
        raise InvalidModel(f"cannot open {path}: {reason}") from error
    except ValueError as error:
        raise InvalidModel("the path is not valid UTF-8 text") from error
    return resolved


def fetch(path: Path, report: Report) -> Artifact:
    """The file at `path`, which `locate` returned, with its digest. Raises `InvalidModel` for what is not one."""
    sha256, identity = sha256_of(path, report)
    return Artifact(path=path, sha256=sha256, identity=identity, source=f"file:{path}", owned=False)
