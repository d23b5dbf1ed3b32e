"""The server's log on standard error: one JSON object a line, whatever a message holds."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

_LONGEST_MESSAGE = 4096


class JsonLines(logging.Formatter):
    """Escapes what could forge a line or colour a terminal, and cuts what is endless.

    The message of an exception is left out, because it may quote a prompt; its type and origin are logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST_MESSAGE],
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = record.exc_info[0].__qualname__
            entry["origin"] = "".join(traceback.format_tb(record.exc_info[2]))[-_LONGEST_MESSAGE:]
        return json.dumps(entry)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send everything from `level` on to standard error; replaces what was configured before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Both answer malformed requests with a warning each, and lines about starting and stopping would repeat ours.
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
