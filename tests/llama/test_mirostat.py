from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
import pytest

from llmserve.llama.mirostat import Mirostat
from llmserve.llama.sampling_parameters import MirostatParameters
from tests.llama.native_sampler import native


def surprise(logits: np.ndarray[Any, np.dtype[np.float32]], token: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float((np.log(np.exp(shifted).sum()) - shifted[token]) / np.log(2))


@pytest.mark.parametrize("tau", [1.5, 3.0])
def test_the_text_is_as_surprising_as_llama_cpps(tau: float) -> None:
    random = np.random.default_rng(0)
    mirostat = Mirostat(MirostatParameters(tau=tau, eta=0.1))
    ours, theirs = [], []
    with native(llama_cpp.llama_sampler_init_mirostat_v2(5, tau, 0.1)) as sampler:
        for _ in range(3000):
            logits = random.normal(0, 2.0, 500).astype(np.float32)
            ours.append(surprise(logits, mirostat.draw(logits, random.random())))
            theirs.append(surprise(logits, sampler.choose(logits)))
    # A draw's surprise spreads by about 1.5 bits, so the two means by less than 0.05; a wrong bound is a bit off.
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.25)


def test_nothing_more_surprising_than_the_bound_is_drawn() -> None:
    # Surprises of 1, 2, 3, 4 and 4 bits; the bound begins at twice tau.
    logits = np.log(np.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=np.float32))
    drawn = {Mirostat(MirostatParameters(tau=1.25)).draw(logits, share) for share in np.linspace(0, 0.999, 50)}
    assert drawn == {0, 1}
    assert Mirostat(MirostatParameters(tau=0.0)).draw(logits, 0.999) == 0, "the likeliest token always stays"


def test_certain_text_lets_in_more_and_surprising_text_less() -> None:
    logits = np.log(np.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=np.float32))
    certain = np.asarray([50, 0, 0, 0, 0], dtype=np.float32)
    mirostat = Mirostat(MirostatParameters(tau=1.25, eta=1.0))
    mirostat.draw(certain, 0.5)
    assert mirostat.draw(logits, 0.99) == 2, "the bound rose by tau, from 2.5 to 3.75 bits"
    assert mirostat.draw(logits, 0.99) == 1, "and fell by what that token's surprise exceeded tau"
