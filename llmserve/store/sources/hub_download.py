"""The files of one pull from the Hub: fetched a few at a time, verified, and only then put into the cache."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmserve.errors import InvalidModel, PullFailed
from llmserve.store.blobs import is_sha256
from llmserve.store.files import FileIdentity, free_bytes, require_space, sha256_of
from llmserve.store.progress import PullProgress, Report, Stage
from llmserve.store.sources.artifact import ArtifactFile
from llmserve.store.sources.hub_cache import HubCache
from llmserve.store.stop import Stop
from llmserve.store.transfer import Remote, Throttle, Transfer

_CONNECTIONS = 4
_REPORTS_PER_SECOND = 10
# A file that is known by git's id alone is small; what is larger comes with a SHA-256.
_GIT_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository: `etag` is its SHA-256 or, of a small file, git's id, by which it is verified."""

    name: str
    size_bytes: int
    etag: str

    @property
    def is_lfs(self) -> bool:
        return is_sha256(self.etag)


class Download:
    """The download of `files`, all of one commit. Use it once. `fetched` tells afterwards whether anything came."""

    def __init__(
        self,
        cache: HubCache,
        repo_id: str,
        commit: str,
        files: tuple[HubFile, ...],
        report: Report,
        bytes_per_second: float | None,
    ) -> None:
        self.fetched = False
        self._cache = cache
        self._repo_id = repo_id
        self._commit = commit
        self._files = files
        self._report = report
        self._throttle = Throttle(bytes_per_second)
        self._stop = Stop()
        self._done: dict[Stage, Counter[str]] = {"downloading": Counter(), "verifying": Counter()}

    def run(self) -> tuple[ArtifactFile, ...]:
        """Every file, verified, in order. Nothing is in the cache that is not; what came of the others waits there."""
        self._require_space()
        return self._all(self._obtain)

    def from_cache(self) -> tuple[ArtifactFile, ...]:
        """Every file as it is in the cache, verified. Nobody is asked."""
        return self._all(self._verified_in_cache)

    def _require_space(self) -> None:
        missing = 0
        for file in self._files:
            if not self._cache.blob(file.etag).exists():
                partial = self._cache.partial(file.etag)
                missing += file.size_bytes - (partial.stat().st_size if partial.exists() else 0)
        if missing > 0:
            require_space(self._cache.root, missing)
            total = sum(file.size_bytes for file in self._files)
            self._report(PullProgress("downloading", total - missing, total, free_bytes(self._cache.root)))

    def _all(self, work: Any) -> tuple[ArtifactFile, ...]:
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="pull") as pool:
            running = [pool.submit(work, file) for file in self._files]
            try:
                self._follow(running)
            except BaseException:
                self._stop.set()
                raise
        return tuple(future.result() for future in running)

    def _follow(self, running: list[Future[ArtifactFile]]) -> None:
        """Report until every file is here. Raises what stopped the first that failed, or what the report raises."""
        total = sum(file.size_bytes for file in self._files)
        told: dict[Stage, int] = {"downloading": -1, "verifying": -1}
        waiting = True
        while waiting:
            finished, left = wait(running, 1 / _REPORTS_PER_SECOND, FIRST_EXCEPTION)
            waiting = bool(left)
            for future in finished:
                future.result()
            for stage, counter in self._done.items():
                done = min(counter.total(), total)
                if done > max(told[stage], 0) and (stage == "downloading" or told["downloading"] in {-1, total}):
                    told[stage] = done
                    self._report(PullProgress(stage, done, total))

    def _tell(self, stage: Stage, file: HubFile, done: int) -> None:
        self._stop.check()
        self._done[stage][file.name] = done

    # --- one file, in a thread of its own ---

    def _obtain(self, file: HubFile) -> ArtifactFile:
        with self._locked(file):
            known = self._intact_blob(file)
            if known is None and not self._needs_client(file):
                known = self._fetch(file)
        if known is None:
            # The client takes the lock by itself.
            known = self._fetch_with_client(file)
        with self._locked(file):
            path = self._cache.link(self._commit, file.name, file.etag)
        sha256, identity = known
        return ArtifactFile(file.name, path, sha256, identity)

    def _locked(self, file: HubFile) -> AbstractContextManager[None]:
        return self._cache.locked(file.etag, lambda: self._wait_for_others(file))

    def _verified_in_cache(self, file: HubFile) -> ArtifactFile:
        known = self._intact_blob(file)
        if known is None:
            raise PullFailed(f"`{file.name}` in the Hugging Face cache is damaged; it was removed", hint="pull again")
        return ArtifactFile(file.name, self._cache.snapshot(self._commit, file.name), *known)

    def _wait_for_others(self, file: HubFile) -> None:
        """Called now and then while somebody else downloads the file: show how far they are."""
        partial = self._cache.partial(file.etag)
        self._tell("downloading", file, partial.stat().st_size if partial.exists() else 0)

    def _intact_blob(self, file: HubFile) -> tuple[str, FileIdentity] | None:
        """The blob if it is in the cache and right; one that is not is removed, for it would be found for ever."""
        blob = self._cache.blob(file.etag)
        if not blob.exists():
            return None
        try:
            return self._verified(blob, file)
        except (PullFailed, InvalidModel):
            blob.unlink()
            return None

    def _fetch(self, file: HubFile) -> tuple[str, FileIdentity]:
        partial = self._cache.partial(file.etag)
        partial.parent.mkdir(parents=True, exist_ok=True)
        continued = partial.exists() and partial.stat().st_size > 0
        self.fetched = True
        self._transfer(file, partial)
        try:
            known = self._verified(partial, file)
        except PullFailed:
            partial.unlink()
            if not continued:
                raise
            # What was here before may have been at fault, so once more from the start.
            self._transfer(file, partial)
            try:
                known = self._verified(partial, file)
            except PullFailed:
                partial.unlink()
                raise
        self._cache.publish(partial, file.etag)
        return known

    def _transfer(self, file: HubFile, partial: Path) -> None:
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._repo_id, file.name, revision=self._commit)
        remote = Remote(url, build_hf_headers(library_name="llmserve"), file.name, file.size_bytes)
        Transfer(
            get_session(),
            remote,
            hf_raise_for_status,
            lambda done: self._tell("downloading", file, done),
            self._throttle,
            self._stop,
        ).run(partial)

    def _needs_client(self, file: HubFile) -> bool:
        from huggingface_hub import constants

        return file.size_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE or constants.HF_XET_HIGH_PERFORMANCE

    def _fetch_with_client(self, file: HubFile) -> tuple[str, FileIdentity]:
        from huggingface_hub import hf_hub_download

        self.fetched = True
        hf_hub_download(
            self._repo_id,
            file.name,
            revision=self._commit,
            library_name="llmserve",
            tqdm_class=_progress_bar(lambda done: self._tell("downloading", file, done)),
        )
        blob = self._cache.blob(file.etag)
        try:
            return self._verified(blob, file)
        except PullFailed:
            blob.unlink()
            raise

    def _verified(self, path: Path, file: HubFile) -> tuple[str, FileIdentity]:
        """SHA-256 and identity of the file. Raises `PullFailed` unless it is what the Hub says it is."""
        # Resolved, because the blob may be a link into a store that several caches share.
        sha256, identity = sha256_of(path.resolve(), lambda progress: self._tell("verifying", file, progress.completed))
        actual = sha256 if file.is_lfs else git_blob_id(path)
        if actual != file.etag or identity.size_bytes != file.size_bytes:
            kind = "SHA-256" if file.is_lfs else "git id"
            raise PullFailed(
                f"the {kind} of `{file.name}` is {actual} instead of {file.etag}; it was not kept", hint="pull again"
            )
        return sha256, identity


def git_blob_id(path: Path) -> str:
    """Git's id of a file: the SHA-1 of its length and content. Raises `PullFailed` for a large one."""
    with path.open("rb") as file:
        content = file.read(_GIT_FILE_BYTES + 1)
    if len(content) > _GIT_FILE_BYTES:
        raise PullFailed(f"{path.name} is large and has no SHA-256 to check it by")
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _progress_bar(tell: Any) -> type[Any]:
    """A stand-in for the progress bars of huggingface_hub that shows nothing and reports instead.

    Its client builds the bar and calls these methods of tqdm's; having `update_transfer` makes it use one bar for the
    file rather than a second one for the bytes on the wire, which are fewer where parts are deduplicated.
    """

    class ReportingBar:
        def __init__(self, *, initial: int = 0, total: float | None = None, **_: object) -> None:
            self.n: float = initial
            self.total = total

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            tell(int(self.n))

        def _show_nothing(self, *_: object, **__: object) -> None:
            """tqdm's methods that only draw."""

        update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _show_nothing

        def __enter__(self) -> ReportingBar:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

    return ReportingBar
