"""What the Hub and its client say when something goes wrong, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmserve.errors import InsufficientStorage, LlmserveError, ModelNotFound, PullFailed
from llmserve.store.files import NO_ROOM
from llmserve.store.names import HubReference, shown


@contextmanager
def hub_errors(reference: HubReference) -> Iterator[None]:
    """Turn every failure of the Hub or its client in the block into an error of this program."""
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
        return not_asked(reference)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return InsufficientStorage(f"no room on the disk of the Hugging Face cache: {error.strerror}")
    if isinstance(error, OSError) and error.errno is not None:
        # The network's own failures come as those of the HTTP client.
        return PullFailed(
            f"cannot use the Hugging Face cache: {error.strerror}",
            hint="check the disk it is on, and who may write there (HF_HOME)",
        )
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


def not_asked(reference: HubReference) -> PullFailed:
    return PullFailed(
        f"{reference} is not complete in the Hugging Face cache, and the Hub is not asked: offline was asked for, "
        "or HF_HUB_OFFLINE is set",
        hint="pull it once with the network, or bring a bundle with `llmserve import FILE.tar`",
    )
