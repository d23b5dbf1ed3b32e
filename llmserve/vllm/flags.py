"""The options of vLLM's server that are used here, by version, so that nothing is asked of it at a launch.

`--help` alone takes ten seconds, and an option that a version does not know ends it. Names are those of vLLM's
`vllm/entrypoints/launchers/cli_args.py` and `vllm/engine/arg_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

Version = tuple[int, int]

OLDEST: Version = (0, 28)
NEWEST: Version = (0, 33)

# The first version that has an option, where not all from `OLDEST` on have it. All of them know
# `--kv-cache-memory-bytes` (0.26 does, by its `vllm/engine/arg_utils.py`), so a pool is always stated in bytes and
# never as a share of the card.
_SINCE: Mapping[str, Version] = MappingProxyType({"--max-num-queued-reqs": (0, 29)})

# The module that serves, by the first version that has it: the console script does more than is needed here, and does
# not start at all in builds that are distributed under another name.
_SERVERS: tuple[tuple[Version, str], ...] = (
    ((0, 32), "vllm.entrypoints.launchers.api_server.entry"),
    (OLDEST, "vllm.entrypoints.openai.api_server"),
)
_VERSION = re.compile(r"(\d+)\.(\d+)")


def version_of(text: str) -> Version | None:
    """Major and minor number of a version such as "0.32.0+cpu"; None for what is no version."""
    match = _VERSION.match(text)
    return None if match is None else (int(match[1]), int(match[2]))


def problem(text: str) -> str | None:
    """Why a vLLM of this version cannot be started here, as the end of a sentence; None if it can.

    A newer one than this table knows is taken for the newest that it does know: options rarely go.
    """
    version = version_of(text)
    if version is None:
        return f"its version {text} is not known"
    if version < OLDEST:
        return f"its version {text} is older than {OLDEST[0]}.{OLDEST[1]}"
    return None


def has(option: str, version: Version) -> bool:
    """Whether that version knows the option."""
    return version >= _SINCE.get(option, OLDEST)


def server_module(version: Version) -> str:
    """The module to run with `python -m`; it takes the model as `--model`."""
    return next(module for since, module in _SERVERS if version >= since)
