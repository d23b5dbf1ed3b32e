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
    status = f"pulling {model}"
    if not event["completed"] or event.get("total") is None:
        # Open WebUI takes a line without a share that is there for the whole.
        return {"status": status}
    return {"status": status, "digest": model, "completed": event["completed"], "total": event["total"]}
