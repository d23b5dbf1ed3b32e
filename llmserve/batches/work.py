"""The lines of a batch on their way to answers: as many at once as there is room for, each until it has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from llmserve.batches.answers import Answer, Reply, answer_to, refusal
from llmserve.batches.journal import Journal
from llmserve.batches.lines import InputLine
from llmserve.types import EnginePlan

# Embedding requests are short, and computed together as they come.
_EMBEDDING_PLACES = 32
# How often to look whether there is room again, where nothing that ends would tell.
_LOOK_SECONDS = 0.25

Ask = Callable[[InputLine], Awaitable[Reply]]


def places_of(plan: EnginePlan) -> int:
    """How many requests a model computes at once."""
    return _EMBEDDING_PLACES if plan.kind == "embed" else plan.parallel


class Work:
    """Asks for what `journal` does not hold yet, and keeps the answers there.

    `ask` sends one request; what it raises ends the work. `places` is how many requests may be out at the moment, 0 to
    wait. `told` is called after each time that answers were kept.
    """

    def __init__(
        self, ask: Ask, journal: Journal, places: Callable[[], int], told: Callable[[], None] = lambda: None
    ) -> None:
        self._ask = ask
        self._journal = journal
        self._places = places
        self._told = told

    async def run(self, lines: Iterable[InputLine]) -> None:
        """Return when every line has an answer on the disk. Raises what `ask` and `Journal.add` raise.

        Whatever ends it, no request is out any more, and the answers that have come are kept.
        """
        waiting = (line for line in lines if line.number not in self._journal)
        out: set[asyncio.Task[Answer]] = set()
        done: set[asyncio.Task[Answer]] = set()
        more = True
        try:
            while more or out or done:
                while more and len(out) < self._places():
                    line = await asyncio.to_thread(next, waiting, None)
                    more = line is not None
                    if line is not None:
                        out.add(asyncio.create_task(self._answer(line)))
                if done:
                    # Only now, so that no place stays empty while the disk is waited for.
                    await self._keep(done)
                    done = set()
                if out:
                    look = _LOOK_SECONDS if more else None
                    done, out = await asyncio.wait(out, timeout=look, return_when=asyncio.FIRST_COMPLETED)
                elif more:
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in out:
                task.cancel()
            if out:
                await asyncio.wait(out)
            await self._keep({task for task in (*done, *out) if not task.cancelled() and task.exception() is None})

    async def _keep(self, done: set[asyncio.Task[Answer]]) -> None:
        if answers := [task.result() for task in done]:
            await asyncio.to_thread(self._journal.add, answers)
            self._told()

    async def _answer(self, line: InputLine) -> Answer:
        reply = await asyncio.to_thread(refusal, line)
        tries = 0
        while reply is None:
            tries += 1
            reply = await self._ask(line)
            if (seconds := reply.retry_seconds(tries)) is not None:
                reply = None
                await asyncio.sleep(seconds)
        making = asyncio.create_task(asyncio.to_thread(answer_to, line, reply))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # It has come, and is kept: the model need not compute it again.
            return await making
