"""Penalties on tokens that occurred: repetition, frequency and presence."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from llmserve.llama.sampling_parameters import SamplingParameters

_FIRST_CAPACITY = 256
# A penalty of next to nothing divides by it; a finite logit must stay one, also divided by the least temperature.
_LARGEST = 1e30


class Penalties:
    """What one sequence's text so far costs each token.

    * The repetition penalty is CTRL's (arXiv:1909.05858, section 4.1) over prompt and answer: positive logits are
      divided by it, negative ones multiplied, since dividing those would favour what is to be weakened.
    * Frequency and presence follow OpenAI's API reference and count the answer alone: each occurrence costs
      `frequency_penalty`, having occurred at all costs `presence_penalty`.

    `repeat_last_n` bounds how far back all three look. Counting is incremental; `apply` costs as much as the text has
    different tokens, whatever its length.
    """

    def __init__(self, parameters: SamplingParameters, prompt: list[int]) -> None:
        self._repetition = np.float32(parameters.repetition_penalty)
        self._frequency = np.float32(parameters.frequency_penalty)
        self._presence = np.float32(parameters.presence_penalty)
        # The last tokens, each with whether it belongs to the answer: only where they leave the count again.
        self._window: deque[tuple[int, bool]] | None = None
        if parameters.repetition_penalty == 1:
            prompt = []
        if parameters.repeat_last_n > 0:
            prompt = prompt[-parameters.repeat_last_n :]
            self._window = deque(((token, False) for token in prompt), parameters.repeat_last_n)
        ids, counts = np.unique(np.asarray(prompt, dtype=np.int64), return_counts=True)
        self._places = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        room = np.zeros(max(len(ids), _FIRST_CAPACITY), dtype=np.int64)
        self._ids = np.concatenate((ids, room))
        self._occurred = np.concatenate((counts, room))
        self._written = np.zeros(len(self._ids), dtype=np.float32)

    def accept(self, token: int) -> None:
        """`token` was written."""
        if self._window is not None:
            if len(self._window) == self._window.maxlen:
                oldest, of_answer = self._window[0]
                place = self._places[oldest]
                self._occurred[place] -= 1
                self._written[place] -= of_answer
            self._window.append((token, True))
        place = self._place(token)
        self._occurred[place] += 1
        self._written[place] += 1

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Weaken what occurred, in place. `logits`: float32 [vocabulary]."""
        used = len(self._places)
        ids, written = self._ids[:used], self._written[:used]
        values = logits[ids]
        if self._repetition != 1:
            with np.errstate(over="ignore"):
                weakened = np.where(values > 0, values / self._repetition, values * self._repetition)
            np.clip(weakened, -_LARGEST, _LARGEST, out=weakened)
            values = np.where(self._occurred[:used] > 0, weakened, values)
        logits[ids] = values - (written * self._frequency + (written > 0) * self._presence)

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                more = np.zeros(place, dtype=np.int64)
                self._ids = np.concatenate((self._ids, more))
                self._occurred = np.concatenate((self._occurred, more))
                self._written = np.concatenate((self._written, more.astype(np.float32)))
            self._ids[place] = token
        return place
