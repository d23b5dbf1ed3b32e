"""Two ways to end an asyncio task early."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and return when it has ended, however it did. Harmless for one that is done."""
    task.cancel()
    await asyncio.wait({task})


async def until_hang_up(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it as soon as the client hangs up. Raises what `work` raises.

    The request's body must have been read. On return `work` has ended and freed what it held.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await cancel(working)
        await cancel(watching)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
