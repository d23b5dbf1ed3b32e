from __future__ import annotations

from collections import Counter

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.penalties import Penalties
from llmserve.llama.sampling_parameters import SamplingParameters
from tests.llama.native_sampler import native

VOCABULARY = 400
tokens = st.lists(st.integers(0, 11), max_size=40)


@settings(deadline=None, max_examples=60)
@given(tokens, tokens, st.sampled_from([-1, 1, 3, 10, 100]))
def test_counts_follow_the_window(prompt: list[int], answer: list[int], last_n: int) -> None:
    parameters = SamplingParameters(
        repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, repeat_last_n=last_n
    )
    penalties = Penalties(parameters, prompt)
    for token in answer:
        penalties.accept(token)
    text = [(token, False) for token in prompt] + [(token, True) for token in answer]
    window = text if last_n < 0 else text[-last_n:]
    occurred = {token for token, _ in window}
    written = Counter(token for token, of_answer in window if of_answer)
    expected = np.asarray(
        [
            (4.0 if token in occurred else 8.0) - 0.5 * written[token] - 0.25 * (written[token] > 0)
            for token in range(12)
        ],
        dtype=np.float32,
    )
    logits = np.full(12, 8, dtype=np.float32)
    penalties.apply(logits)
    assert logits == pytest.approx(expected)


@pytest.mark.parametrize("last_n", [4, 64])
def test_the_same_as_llama_cpp_for_an_answer_alone(last_n: int) -> None:
    random = np.random.default_rng(1)
    row = random.normal(0, 3, VOCABULARY).astype(np.float32)
    parameters = SamplingParameters(
        repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.4, repeat_last_n=last_n
    )
    ours = Penalties(parameters, [])
    with native(llama_cpp.llama_sampler_init_penalties(VOCABULARY, last_n, 1.3, 0.2, 0.4)) as theirs:
        for token in random.integers(0, VOCABULARY, 300).tolist():
            ours.accept(token)
            theirs.accept(token)
        expected = theirs.apply(row)
    ours.apply(row)
    assert row.tolist() == pytest.approx([expected[token] for token in range(VOCABULARY)], abs=1e-5)


def test_more_different_tokens_than_there_was_room_for() -> None:
    penalties = Penalties(SamplingParameters(presence_penalty=1.0), [])
    for token in range(3000):
        penalties.accept(token)
    logits = np.zeros(3001, dtype=np.float32)
    penalties.apply(logits)
    assert logits.tolist() == [-1.0] * 3000 + [0.0]


def test_the_prompt_is_nothing_to_frequency_and_presence() -> None:
    penalties = Penalties(SamplingParameters(frequency_penalty=1.0, presence_penalty=1.0), [0, 0, 1])
    logits = np.zeros(2, dtype=np.float32)
    penalties.apply(logits)
    assert logits.tolist() == [0, 0]
