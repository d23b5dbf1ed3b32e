"""Models on the Hugging Face Hub, into the client's own cache, which is shared with the user's other tools.

The cache, endpoint, token and offline mode are the client's own settings (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE`), and so is the HTTP session with its proxies. The bytes are fetched here rather than by the client,
which starts a file anew whenever a download was interrupted; for files that the Hub gives through Xet alone, and where
the user asks for it (`HF_XET_HIGH_PERFORMANCE`), the client does it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve.errors import InvalidRequest, PullFailed
from llmserve.store.blobs import Expected, is_sha256
from llmserve.store.names import HubReference
from llmserve.store.options import PullOptions
from llmserve.store.progress import Report
from llmserve.store.sources.artifact import Artifact
from llmserve.store.sources.hub_cache import HubCache, default_cache
from llmserve.store.sources.hub_choice import SAFETENSORS, choose_files
from llmserve.store.sources.hub_download import Download, HubFile
from llmserve.store.sources.hub_errors import hub_errors, not_asked

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_MAX_FILES = 10_000
_METADATA_TIMEOUT_SECONDS = 30.0
_DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit: its files by name, None for one that cannot be verified."""

    commit: str
    files: dict[str, HubFile | None]
    license: str | None = None


def fetch(reference: HubReference, expected: Expected, options: PullOptions, report: Report) -> Artifact:
    """The files in the Hugging Face cache, fetched unless they are there, their digests checked either way. Blocking.

    Raises `ModelNotFound`, `InvalidRequest` (several models and none named), `InsufficientStorage` or `PullFailed`.
    """
    from huggingface_hub import constants

    cache = default_cache(reference.repo_id)
    with hub_errors(reference):
        offline = options.offline or constants.HF_HUB_OFFLINE
        listing = _cached(cache, reference) if offline else ask(reference)
        names = choose_files(reference, tuple(listing.files), options.format)
        files = tuple(_verifiable(listing, name) for name in names)
        _check_expected(files, expected)
        download = Download(cache, reference.repo_id, listing.commit, files, report, options.bytes_per_second)
        done = download.from_cache() if offline else download.run()
        if not offline:
            cache.remember(reference.revision or _DEFAULT_REVISION, listing.commit)
    which = SAFETENSORS if names[0].endswith(".json") else names[0]
    source = HubReference(reference.owner, reference.repository, listing.commit, which)
    return Artifact(done, str(source), owned=False, license=listing.license, fetched=download.fetched)


def ask(reference: HubReference) -> Listing:
    """Resolve revision and files with one request, so that all are of one commit."""
    from huggingface_hub import HfApi

    info = _model_info(HfApi(library_name="llmserve"), reference)
    siblings = info.siblings or []
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise PullFailed(f"the Hub did not say which commit of {reference.repo_id} it means")
    if len(siblings) > _MAX_FILES:
        raise PullFailed(f"{reference.repo_id} has more than {_MAX_FILES:,} files")
    if not all(isinstance(sibling.rfilename, str) for sibling in siblings):
        raise PullFailed(f"the Hub names a file of {reference.repo_id} by something else than text")
    stated = getattr(info.card_data, "license", None)
    return Listing(
        info.sha,
        {sibling.rfilename: _file(sibling) for sibling in siblings},
        stated if isinstance(stated, str) else None,
    )


def _model_info(api: HfApi, reference: HubReference) -> ModelInfo:
    try:
        return api.model_info(
            reference.repo_id, revision=reference.revision, files_metadata=True, timeout=_METADATA_TIMEOUT_SECONDS
        )
    except (KeyError, TypeError, AttributeError) as error:
        # The client unpacks the answer's JSON without checking its shape.
        raise PullFailed(f"the answer for {reference.repo_id} is not a hub's") from error


def _file(sibling: RepoSibling) -> HubFile | None:
    """The file as the Hub describes it, None where it gives no size and digest to check it by."""
    size_bytes: int | None = sibling.size
    etag: str | None = sibling.blob_id
    if sibling.lfs is not None:
        size_bytes, etag = sibling.lfs.size, sibling.lfs.sha256
        known = isinstance(etag, str) and is_sha256(etag)
    else:
        known = isinstance(etag, str) and bool(_COMMIT.fullmatch(etag))
    if not known or type(size_bytes) is not int or size_bytes <= 0:
        return None
    return HubFile(sibling.rfilename, size_bytes, str(etag))


def _cached(cache: HubCache, reference: HubReference) -> Listing:
    """What the cache knows of the repository, the digests being the names of its blobs."""
    commit = cache.commit_of(reference.revision or _DEFAULT_REVISION)
    etags = cache.files_of(commit) if commit else {}
    if commit is None or not etags:
        raise not_asked(reference)
    return Listing(
        commit,
        {name: HubFile(name, cache.snapshot(commit, name).stat().st_size, etag) for name, etag in etags.items()},
    )


def _verifiable(listing: Listing, name: str) -> HubFile:
    file = listing.files[name]
    is_weight = name.endswith((".gguf", ".safetensors"))
    if file is None or (is_weight and not file.is_lfs):
        raise PullFailed(f"the Hub states no usable size and SHA-256 for `{name}`, so it could not be verified")
    return file


def _check_expected(files: tuple[HubFile, ...], expected: Expected) -> None:
    if expected.sha256 is not None and len(files) > 1:
        raise InvalidRequest("a digest is stated for a model of several files", param="sha256")
    size_bytes = sum(file.size_bytes for file in files)
    if expected.sha256 not in {None, files[0].etag} or expected.size_bytes not in {None, size_bytes}:
        raise PullFailed(
            f"the Hub now has another `{files[0].name}` (SHA-256 {files[0].etag}) than the catalog names",
            hint="do not trust it before you know why",
        )
