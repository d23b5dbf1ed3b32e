"""Files and batches as OpenAI has them: what is asked for, and one line of a batch's input file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr

from llmserve.openai.metadata import MAX_METADATA, Metadata
from llmserve.openai.schema import Line, Schema, refuse

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]

MAX_WINDOW_HOURS = 720
MAX_CUSTOM_ID_CHARACTERS = 512
_LEAST_SECONDS = 3600
_MOST_SECONDS = 2_592_000
_MAX_ID_CHARACTERS = 128

FileId = Annotated[Line, Field(max_length=_MAX_ID_CHARACTERS)]


class ExpiresAfter(Schema):
    """When a file goes: `seconds` after it was made."""

    place: ClassVar[str] = "expires_after."

    anchor: Literal["created_at"]
    seconds: Annotated[StrictInt, Field(ge=_LEAST_SECONDS, le=_MOST_SECONDS)]


class FileRequest(Schema):
    """The fields of the form that `POST /v1/files` takes, without the file itself."""

    purpose: Literal["batch"] = Field(description="`batch`: files are kept for nothing else.")
    expires_after: ExpiresAfter | None = Field(
        default=None,
        description=f"`anchor` (`created_at`) and `seconds`, {_LEAST_SECONDS} to {_MOST_SECONDS}: when the file goes. "
        "Sent as `expires_after[anchor]` and `expires_after[seconds]`.",
    )


def _window(window: object) -> object:
    hours = window.removesuffix("h") if isinstance(window, str) and window.endswith("h") else ""
    if not (hours.isascii() and hours.isdigit() and len(hours) <= 3 and 1 <= int(hours) <= MAX_WINDOW_HOURS):
        refuse(f"must be a number of hours from 1h to {MAX_WINDOW_HOURS}h, such as 24h")
    return window


class BatchRequest(Schema):
    """A body of `POST /v1/batches`."""

    input_file_id: FileId = Field(
        description="An uploaded file with one request a line: `custom_id`, `method` (`POST`), `url` and `body`."
    )
    endpoint: BatchEndpoint = Field(description="The `url` of every line.")
    completion_window: Annotated[StrictStr, BeforeValidator(_window)] = Field(
        description=f"`24h`, or another number of hours up to {MAX_WINDOW_HOURS}: what is not answered by then is "
        "reported as expired."
    )
    metadata: Metadata = Field(default={}, description=f"Up to {MAX_METADATA} strings, kept with the batch.")
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="As `expires_after` of a file, for those with the answers."
    )

    @property
    def window_seconds(self) -> int:
        return 3600 * int(self.completion_window.removesuffix("h"))


class BatchLine(Schema):
    """One line of a batch's input file."""

    custom_id: Annotated[Line, Field(max_length=MAX_CUSTOM_ID_CHARACTERS)]
    method: Literal["POST"]
    url: BatchEndpoint
    body: dict[StrictStr, Any]
