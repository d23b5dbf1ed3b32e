"""A pip that is older than what llmserve asks of it, known by what it says of that."""

from __future__ import annotations

import sys

# `--progress-bar raw` came with pip 24.1; an environment may have lost the pip that llmserve was installed with.
_REFUSES_RAW = "--progress-bar: invalid choice: 'raw'"


def how_to_renew(said: str) -> str | None:
    """The hint where pip failed saying `said` because it is too old; None where that is not why."""
    if _REFUSES_RAW not in said:
        return None
    return f"llmserve's pip is too old: `{sys.executable} -m pip install 'pip>=25'` gets one that will do"
