"""One embedding or ranking model behind the internal protocol: requests become jobs, rows become answers."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from llmserve.errors import ContextLengthExceeded, InvalidRequest, LlmserveError, TooManyRequests, WrongModelKind
from llmserve.llama.embedder import Embedder, EmbeddingJob, Rows
from llmserve.llama.pairs import PairWriter
from llmserve.llama.tokens import Vocabulary, check_characters, check_tokens
from llmserve.openai.embeddings import EmbeddingRequest, embedding_answer
from llmserve.openai.json import dump_json
from llmserve.openai.rerank import RerankRequest, rerank_answer

# Bursts of hundreds of requests are meant to wait and be merged; this only bounds the worker's memory (64 MiB).
_MOST_WAITING_TOKENS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """What the service needs to know of the loaded model.

    `context` is the longest text in tokens, `width` the length of its embeddings; `ranks` says that it gives scores of
    pairs instead.
    """

    name: str
    context: int
    width: int
    ranks: bool


class EmbeddingService:
    """Turns validated requests into JSON answers. Texts and answers are prepared in one thread beside the event loop.

    A coroutine that is cancelled takes with it what has not been computed.
    """

    def __init__(self, embedder: Embedder, model: EmbeddingModel, vocabulary: Vocabulary, pairs: PairWriter) -> None:
        self.model = model
        self.embedder = embedder
        self._vocabulary = vocabulary
        self._pairs = pairs
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    async def embed(self, request: EmbeddingRequest) -> bytes:
        """The answer's JSON. Raises `WrongModelKind`, `InvalidRequest`, `ContextLengthExceeded` or `TooManyRequests`
        before anything is computed, and `EngineFailed`."""
        if self.model.ranks:
            raise WrongModelKind.of(self.model.name, "rank")
        if request.dimensions is not None and request.dimensions > self.model.width:
            raise InvalidRequest(
                f"the model's embeddings have {self.model.width} dimensions, not {request.dimensions}",
                param="dimensions",
            )

        def write(rows: Rows, tokens: int) -> bytes:
            vectors = [row.tobytes() for row in unit_rows(rows, request.dimensions)]
            return dump_json(embedding_answer(self.model.name, vectors, request.encoding_format, tokens))

        return await self._answer(lambda: self._texts(request), write)

    async def rerank(self, request: RerankRequest) -> bytes:
        """Likewise, with a score from 0 to 1 for each document."""
        if not self.model.ranks:
            raise WrongModelKind.of(self.model.name, "embed")

        def write(rows: Rows, tokens: int) -> bytes:
            return dump_json(rerank_answer(request, self.model.name, rows[:, 0].tolist(), tokens))

        return await self._answer(lambda: self._ranked(request), write)

    def stats(self) -> dict[str, float]:
        counters = self.embedder.counters
        return {
            "running": self.embedder.running,
            "waiting": self.embedder.waiting,
            "cells_used": 0,
            "preemptions": 0,
            "steps": counters.steps,
            "step_seconds": round(counters.step_seconds, 6),
            "prompt_tokens": counters.prompt_tokens,
            "cached_tokens": 0,
            "generated_tokens": 0,
            "cancelled": counters.cancelled,
        }

    def close(self) -> None:
        self._preparing.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, prepare: Callable[[], list[array[int]]], write: Callable[[Rows, int], bytes]) -> bytes:
        if self.embedder.waiting_tokens >= _MOST_WAITING_TOKENS:
            raise TooManyRequests("too many texts are waiting for this model", retry_after=1)
        loop = asyncio.get_running_loop()
        texts = await loop.run_in_executor(self._preparing, prepare)
        rows = await self._rows(texts)
        return await loop.run_in_executor(self._preparing, write, rows, sum(map(len, texts)))

    async def _rows(self, texts: Sequence[array[int]]) -> Rows:
        outcome: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()

        def deliver(result: Rows | LlmserveError) -> None:
            if outcome.done():
                return
            if isinstance(result, LlmserveError):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

        job = EmbeddingJob(texts, deliver)
        self.embedder.submit(job)
        try:
            return await outcome
        except asyncio.CancelledError:
            self.embedder.cancel(job)
            raise

    # --- in the preparing thread ---

    def _texts(self, request: EmbeddingRequest) -> list[array[int]]:
        inputs: Sequence[str | Sequence[int]] = request.input
        return [
            self._text(text, "input" if len(inputs) == 1 else f"input[{index}]") for index, text in enumerate(inputs)
        ]

    def _text(self, text: str | Sequence[int], param: str) -> array[int]:
        """A text gets its model's own tokens around it; one that comes as token ids is taken as it is."""
        if isinstance(text, str):
            check_characters(text, self.model.context, param)
            text = self._vocabulary.tokenize(text, special=False, whole=True)
        else:
            check_tokens(text, self._vocabulary.size, param)
        return self._fitting(text, param)

    def _ranked(self, request: RerankRequest) -> list[array[int]]:
        check_characters(request.query, self.model.context, "query")
        for index, document in enumerate(request.documents):
            check_characters(document, self.model.context, f"documents[{index}]")
        pairs = self._pairs.pairs(request.query, request.documents)
        return [self._fitting(pair, f"documents[{index}]") for index, pair in enumerate(pairs)]

    def _fitting(self, tokens: Sequence[int], param: str) -> array[int]:
        if len(tokens) > self.model.context:
            what = "query and document have" if self.model.ranks else "the input has"
            raise ContextLengthExceeded(
                f"this model's context is {self.model.context} tokens and {what} {len(tokens)}", param=param
            )
        if not tokens:
            raise InvalidRequest("the text has no tokens", param=param)
        return array("i", tokens)


def unit_rows(rows: Rows, dimensions: int | None = None) -> Rows:
    """The first `dimensions` columns, each row scaled to length 1, as little-endian float32. A row of zeros stays one.

    Cutting is what models trained for it (Matryoshka representation learning, Kusupati et al., 2022) allow.
    """
    kept = rows[:, :dimensions].astype(np.float64)
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.where(lengths > 0, lengths, 1), dtype="<f4")
