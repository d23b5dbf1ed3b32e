"""The requests that a trial loads a worker with: made up, the same for every candidate, none like another."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx2

from llmserve.errors import LlmserveError, WorkerDied
from llmserve.fleet.worker import Worker
from llmserve.planning.candidates import Shape

_SHORT_WORDS, _LONG_WORDS = 48, 1500
# They take turns, so that clients do not keep step with each other.
_ANSWER_TOKENS = (32, 64, 96, 48)
_ANSWER_TO_LONG_PROMPT = 16
_TEXT = (
    "river stone light winter garden machine paper morning bridge signal harbour copper market window engine forest "
    "letter mountain silver thunder orchard lantern compass meadow furnace village station captain"
)


def request(shape: Shape, context: int, client: int, number: int) -> dict[str, Any]:
    """The body of a client's request: a streamed chat that fits into a `context` of so many tokens.

    Prompts differ from the first word on, so that no cache helps. Answers are drawn as people let them be drawn, with a
    seed, since a model that always takes the likeliest token repeats itself, which drafts would be praised for.
    """
    long = shape.name == "long-prompts"
    # Seeded by text: for an integer, Random takes -1 and 1 for the same.
    rng = random.Random(f"{shape.name} {client} {number}")  # noqa: S311 - nothing secret
    # A word is a token or two, and the template has some of its own.
    words = min(_LONG_WORDS if long else _SHORT_WORDS, context // 4)
    tokens = _ANSWER_TO_LONG_PROMPT if long else _ANSWER_TOKENS[(client + number) % len(_ANSWER_TOKENS)]
    return {
        "model": "trial",
        "messages": [
            {"role": "user", "content": f"{rng.randrange(10**6)} {' '.join(rng.choices(_TEXT.split(), k=words))}"}
        ],
        "max_tokens": min(tokens, context // 4),
        "temperature": 0.8,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
    }


class Clients:
    """Clients that ask a worker for one answer after the other. `all_read` is set when `needed` of them read one."""

    def __init__(self, worker: Worker, shape: Shape, context: int, needed: int) -> None:
        self.all_read = asyncio.Event()
        self._worker = worker
        self._shape = shape
        self._context = context
        self._needed = needed
        self._reading: set[int] = set()

    async def ask(self, client: int) -> None:
        """Ask until cancelled. Raises `WorkerDied` where an answer is an error, and httpx2's `TransportError`."""
        number = 0
        while True:
            body = request(self._shape, self._context, client, number)
            async with self._worker.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != httpx2.codes.OK:
                    raise _refused(await answer.aread())
                async for piece in answer.aiter_raw():
                    if piece.startswith(b'data: {"error"'):
                        raise _refused(piece.removeprefix(b"data: "))
                    self._reads(client)
            number += 1

    def _reads(self, client: int) -> None:
        self._reading.add(client)
        if len(self._reading) >= self._needed:
            self.all_read.set()


def _refused(body: bytes) -> LlmserveError:
    try:
        message = json.loads(body.partition(b"\n")[0])["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "the worker did not answer in the protocol"
    return WorkerDied(str(message))
