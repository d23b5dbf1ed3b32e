"""What is remembered of a file and of a batch, and how the API shows it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmserve.batches.answers import Usage
from llmserve.batches.lines import Problem

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

# Statuses of a batch that changes no more.
FINAL: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A kept file. Times are seconds of the epoch."""

    id: str
    filename: str
    purpose: Literal["batch", "batch_output"]
    size_bytes: int
    created_at: float
    expires_at: float

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. Times are seconds of the epoch, `reached` those at which it got its statuses.

    models: those of its lines, in their order. output_seconds: how long its files are kept (None: as all files).
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: float
    expires_at: float
    metadata: dict[str, str] = field(default_factory=dict)
    output_seconds: float | None = None
    status: Status = "validating"
    reached: dict[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)
    problems: tuple[Problem, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    def now(self, status: Status, at: float) -> BatchRecord:
        """The same batch with a new status."""
        return replace(self, status=status, reached={**self.reached, status: at})

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def shown(self) -> dict[str, Any]:
        problems = {"object": "list", "data": [problem.shown() for problem in self.problems]}
        times = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": problems if self.problems else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "model": self.models[0] if len(self.models) == 1 else None,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **{f"{status}_at": int(self.reached[status]) if status in self.reached else None for status in times},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": self.usage.shown(),
            "metadata": self.metadata,
        }


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(12)}"
