"""Progress of a pull, in the words of `POST /api/pull`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUCCESS: Mapping[str, Any] = {"status": "success"}

_STATUSES = {
    "resolving": "pulling manifest",
    "waiting": "waiting for another pull of this model",
    "verifying": "verifying sha256 digest",
    "publishing": "writing manifest",
}


def progress_line(model: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """What the line for one event of a pull says.

    Clients keep one bar for each `digest`. The digest of what is being fetched is not known before it is here, so the
    model's name stands there.
    """
    stage = event["stage"]
    if stage == "choosing":
        return {"status": f"choosing {event['option']}: {event['reason']}"}
    if stage != "downloading":
        return {"status": _STATUSES.get(stage, stage)}
    line: dict[str, Any] = {"status": f"pulling {model}", "digest": model, "completed": event["completed"]}
    if event.get("total") is not None:
        line["total"] = event["total"]
    return line
