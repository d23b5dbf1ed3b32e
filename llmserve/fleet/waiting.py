"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, for at most `seconds` (None: without limit); whether it is.

    Not `asyncio.wait_for`, which before Python 3.12 can lose a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
