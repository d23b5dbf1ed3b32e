"""Models on the Hugging Face Hub, through huggingface_hub and into its own cache, shared with the user's other tools.

The cache, endpoint and token are the client's own settings (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`). Only GGUF weights
are fetched; what else of a repository may ever be is decided by `is_allowed_file`, and code or pickles never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmserve.errors import InsufficientStorage, InvalidRequest, LlmserveError, ModelNotFound, PullFailed
from llmserve.store.blobs import Expected, is_sha256
from llmserve.store.files import NO_ROOM, require_space, sha256_of
from llmserve.store.names import HubReference, parse_name, shown
from llmserve.store.progress import PullProgress, Report
from llmserve.store.sources.artifact import Artifact

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf")
_MAX_FILES = 10_000
_MAX_CHOICES = 40
_METADATA_TIMEOUT_SECONDS = 30.0

_WEIGHTS = frozenset({".gguf", ".safetensors"})
_COMPANIONS = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit, as the Hub describes it."""

    commit: str
    name: str
    size_bytes: int
    sha256: str


def fetch(reference: HubReference, expected: Expected, report: Report) -> Artifact:
    """The file in the Hugging Face cache, downloaded unless it is there, its SHA-256 checked either way. Blocking.

    Raises `ModelNotFound`, `InvalidRequest` (several files and none named), `InsufficientStorage` or `PullFailed`.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="llmserve")
    with _hub_errors(reference):
        file = _describe(api, reference)
        _check_expected(file, expected)
        path = _download(api, reference, file, report)
    # The digest is of the file the snapshot's link leads to; the manifest keeps that file's identity.
    sha256, identity = sha256_of(path.resolve(), report)
    if sha256 != file.sha256 or identity.size_bytes != file.size_bytes:
        # Left in the cache, it would be found again by every later pull, here and in other tools.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise PullFailed(
            f"the file's SHA-256 is {sha256} instead of {file.sha256}; it was removed from the cache", hint="pull again"
        )
    source = str(HubReference(reference.owner, reference.repository, file.commit, file.name))
    return Artifact(path=path, sha256=sha256, identity=identity, source=source, owned=False)


def is_allowed_file(name: str) -> bool:
    """Whether a file of a repository may be fetched at all: weights in formats without code, and their descriptions."""
    path = PurePosixPath(name)
    return path.suffix in _WEIGHTS or path.name in _COMPANIONS


def choose_file(reference: HubReference, names: tuple[str, ...]) -> str:
    """The file of the repository that is meant: the one named, or its only GGUF file.

    Raises `ModelNotFound` where there is none, `InvalidRequest` listing the commands to choose from where there are
    several, or for a file that is not fetched or not served.
    """
    if reference.file is not None:
        if not is_allowed_file(reference.file) or not reference.file.endswith(".gguf"):
            raise InvalidRequest(f"`{reference.file}` is not a .gguf file", param="model")
        if reference.file not in names:
            raise ModelNotFound(f"{reference.repo_id} has no file `{reference.file}`", param="model")
        if _SHARD.search(reference.file):
            raise InvalidRequest(
                f"`{reference.file}` is one part of a split model; those are not served", param="model"
            )
        return reference.file
    candidates = [name for name in names if name.endswith(".gguf") and not _SHARD.search(name)]
    candidates = [name for name in candidates if _command(reference, name) is not None]
    if not candidates:
        raise ModelNotFound(f"{reference.repo_id} has no .gguf file that can be served", param="model")
    if len(candidates) > 1:
        commands = [f"`{_command(reference, name)}`" for name in sorted(candidates)[:_MAX_CHOICES]]
        raise InvalidRequest(
            f"{reference.repo_id} has {len(candidates)} GGUF files",
            param="model",
            hint="choose: " + ", ".join(commands),
        )
    return candidates[0]


def _command(reference: HubReference, name: str) -> str | None:
    """The command that pulls this file, None for a name that no reference can spell."""
    spelled = f"{HubReference(reference.owner, reference.repository, reference.revision)}:{name}"
    try:
        parse_name(spelled)
    except InvalidRequest:
        return None
    return f"llmserve pull {spelled}"


def _describe(api: HfApi, reference: HubReference) -> HubFile:
    """Resolve revision and file with one request, so that both are of one commit."""
    info = _model_info(api, reference)
    siblings = info.siblings or []
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise PullFailed(f"the Hub did not say which commit of {reference.repo_id} it means")
    if len(siblings) > _MAX_FILES:
        raise PullFailed(f"{reference.repo_id} has more than {_MAX_FILES:,} files")
    name = choose_file(reference, tuple(sibling.rfilename for sibling in siblings))
    sibling = next(sibling for sibling in siblings if sibling.rfilename == name)
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    size_bytes = sibling.lfs.size if sibling.lfs else None
    if not isinstance(sha256, str) or not is_sha256(sha256) or not isinstance(size_bytes, int) or size_bytes <= 0:
        raise PullFailed(f"the Hub states no usable size and SHA-256 for `{name}`, so it could not be verified")
    return HubFile(info.sha, name, size_bytes, sha256)


def _model_info(api: HfApi, reference: HubReference) -> ModelInfo:
    try:
        return api.model_info(
            reference.repo_id, revision=reference.revision, files_metadata=True, timeout=_METADATA_TIMEOUT_SECONDS
        )
    except (KeyError, TypeError, AttributeError) as error:
        # The client unpacks the answer's JSON without checking its shape.
        raise PullFailed(f"the answer for {reference.repo_id} is not a hub's") from error


def _check_expected(file: HubFile, expected: Expected) -> None:
    if expected.sha256 not in {None, file.sha256} or expected.size_bytes not in {None, file.size_bytes}:
        raise PullFailed(
            f"the Hub now has another `{file.name}` (SHA-256 {file.sha256}) than the catalog names",
            hint="do not trust it before you know why",
        )


def _download(api: HfApi, reference: HubReference, file: HubFile, report: Report) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(reference.repo_id, file.name, revision=file.commit), str):
        require_space(Path(constants.HF_HUB_CACHE), file.size_bytes)
    path = api.hf_hub_download(
        reference.repo_id, file.name, revision=file.commit, tqdm_class=_progress_bar(report, file.size_bytes)
    )
    return Path(path).absolute()


def _progress_bar(report: Report, total_bytes: int) -> type[Any]:
    """A stand-in for the progress bars of huggingface_hub that shows nothing and reports instead.

    Its client builds the bar and calls these methods of tqdm's; having `update_transfer` makes it use one bar for the
    file rather than a second one for the bytes on the wire, which are fewer where parts are deduplicated.
    """

    class ReportingBar:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self.n: float = initial
            self.total: float | None = total_bytes

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            report(PullProgress("downloading", int(self.n), total_bytes))

        def _show_nothing(self, *_: object, **__: object) -> None:
            """tqdm's methods that only draw."""

        update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _show_nothing

        def __enter__(self) -> ReportingBar:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

    return ReportingBar


@contextmanager
def _hub_errors(reference: HubReference) -> Iterator[None]:
    import httpx2

    try:
        yield
    except LlmserveError:
        raise
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _translated(error, reference) from error


def _translated(error: Exception, reference: HubReference) -> LlmserveError:
    """The error a user should see for one of huggingface_hub's or its HTTP client's."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it only says that the cache could not stand in for the Hub
    repository = reference.repo_id
    if isinstance(error, errors.GatedRepoError):
        return PullFailed(
            f"{repository} is gated: its owner asks you to accept a licence first",
            hint=f"accept it at https://huggingface.co/{repository}, then set HF_TOKEN to a token of yours",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no revision `{reference.revision}`", param="model")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"there is no repository {repository} on the Hub, or it is private",
            param="model",
            hint="check the spelling; for a private repository set HF_TOKEN",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFound(f"{repository} has no file `{reference.file}`", param="model")
    if isinstance(error, errors.HfHubHTTPError):
        return _status_error(error.response.status_code, error.response.headers.get("Retry-After"), repository)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return PullFailed("the Hub is not asked while HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return InsufficientStorage(f"no room on the disk of the Hugging Face cache: {error.strerror}")
    reason = shown(str(error).partition("\n")[0], 200) or type(error).__name__
    return PullFailed(
        f"cannot get {repository} from the Hub: {reason}",
        hint="check the network, the proxy and HF_ENDPOINT, then pull again",
    )


def _status_error(status: int, retry_after: str | None, repository: str) -> LlmserveError:
    if status == 401:
        return PullFailed(f"the Hub refused the token for {repository}", hint="set HF_TOKEN to a valid token")
    if status == 403:
        return PullFailed(f"the Hub does not let you read {repository}", hint="set HF_TOKEN to a token that may")
    if status == 429:
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return PullFailed(
            "the Hub asks to slow down (429)", hint="pull again later, or set HF_TOKEN", retry_after=seconds
        )
    return PullFailed(f"the Hub answered {status} for {repository}", hint="pull again later")
