"""DRY against its definition by brute force, and against llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.dry import LONGEST_REPEAT, Dry
from llmserve.llama.sampling_parameters import DryParameters
from tests.llama.native_sampler import native

ALPHABET = 5
BREAKER = 4


def piece(token: int) -> bytes:
    return b"\n" if token == BREAKER else b"abcdefghij"[token : token + 1]


def losses(dry: Dry, size: int = ALPHABET) -> list[float]:
    logits = np.zeros(size, dtype=np.float32)
    dry.apply(logits)
    return (-logits).tolist()


def by_definition(text: list[int], parameters: DryParameters) -> list[float]:
    """For every token that followed an earlier occurrence of the text's end, the longest such end decides."""
    window = text if parameters.last_n < 0 else text[max(0, len(text) - parameters.last_n) :]
    longest: dict[int, int] = {}
    for successor in range(1, len(window)):
        length = 0
        while length < successor and window[successor - 1 - length] == window[len(window) - 1 - length] != BREAKER:
            length += 1
        longest[window[successor]] = max(length, longest.get(window[successor], 0))
    return [
        parameters.multiplier * parameters.base ** (longest[token] - parameters.allowed_length)
        if token != BREAKER and longest.get(token, -1) >= parameters.allowed_length
        else 0.0
        for token in range(ALPHABET)
    ]


texts = st.lists(st.integers(0, ALPHABET - 1), max_size=60)


@settings(deadline=None, max_examples=200)
@given(texts, texts, st.sampled_from([-1, 2, 7, 30]), st.integers(1, 4))
def test_losses_follow_the_definition_however_the_text_arrived(
    prompt: list[int], answer: list[int], last_n: int, allowed_length: int
) -> None:
    parameters = DryParameters(1.0, base=1.5, allowed_length=allowed_length, last_n=last_n)
    dry = Dry(parameters, prompt, piece)
    for token in answer:
        dry.accept(token)
    assert losses(dry) == pytest.approx(by_definition(prompt + answer, parameters), rel=1e-5)


def test_a_long_text_in_a_small_window_is_forgotten() -> None:
    parameters = DryParameters(1.0, last_n=50)
    random = np.random.default_rng(0)
    text = random.integers(0, 4, 5000).tolist()
    dry = Dry(parameters, text[:10], piece)
    for token in text[10:]:
        dry.accept(token)
    assert losses(dry) == pytest.approx(by_definition(text, parameters), rel=1e-5)


@pytest.mark.parametrize(
    ("breakers", "loss"),
    [
        (("\n",), 1.75),
        (("bd", "dcba"), 1.75),
        ((), 1.75),
        (("abcda",), 1.0),
        (("ab",), 0.0),
        (("c",), 0.0),
        (("\n", "abcdabc"), 0.0),
    ],
)
def test_a_breaker_is_text_that_may_span_tokens(breakers: tuple[str, ...], loss: float) -> None:
    text = [0, 1, 2, 3, 0, 1, 2]
    parameters = DryParameters(1.0, breakers=breakers)
    grown = Dry(parameters, text[:3], piece)
    for token in text[3:]:
        grown.accept(token)
    assert losses(Dry(parameters, text, piece)) == losses(grown) == [0, 0, 0, loss, 0]


def test_a_token_without_text_ends_a_passage_and_costs_nothing() -> None:
    def end_of_turn(token: int) -> bytes:
        return b"" if token == 3 else piece(token)

    parameters = DryParameters(1.0, breakers=())
    assert losses(Dry(parameters, [0, 1, 2, 3, 0, 1, 2], end_of_turn))[3] == 0
    assert losses(Dry(parameters, [0, 1, 3, 2, 0, 1, 3], end_of_turn)) == [0] * ALPHABET


@pytest.mark.parametrize("base", [1.0, 1.001, 1.75, 10.0])
def test_endless_repetition_stays_finite(base: float) -> None:
    dry = Dry(DryParameters(100.0, base=base), [0] * 3 * LONGEST_REPEAT, piece)
    for _ in range(LONGEST_REPEAT):
        dry.accept(0)
    assert np.isfinite(losses(dry)).all()
    assert losses(dry)[0] >= 100


@pytest.fixture(scope="module")
def vocabulary(tiny_model: Path) -> Iterator[Any]:
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    llama_cpp.llama_log_set(_silence, None)
    model = llama_cpp.llama_model_load_from_file(str(tiny_model).encode(), parameters)
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)


@llama_cpp.llama_log_callback
def _silence(level: int, text: bytes, data: Any) -> None:
    """llama.cpp says nothing."""


@pytest.mark.parametrize("last_n", [16, 200])
@pytest.mark.parametrize("seed", range(2))
def test_the_same_as_llama_cpp(vocabulary: Any, last_n: int, seed: int) -> None:
    # Letters and line feeds, which are single tokens in the tiny vocabulary.
    def native_piece(token: int) -> bytes:
        buffer = ctypes.create_string_buffer(16)
        length = llama_cpp.llama_token_to_piece(vocabulary, token, buffer, 16, 0, False)
        return buffer.raw[:length]

    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    letters = [token for token in range(size) if native_piece(token) in {b"a", b"b", b"c", b"\n"}]
    assert len(letters) == 4
    text = [letters[place] for place in np.random.default_rng(seed).choice(4, 300, p=[0.4, 0.3, 0.25, 0.05])]
    breakers = (ctypes.c_char_p * 1)(b"\n")
    handle = llama_cpp.llama_sampler_init_dry(vocabulary, 0.8, 1.75, 2, last_n, breakers, 1)
    ours = Dry(DryParameters(0.8, last_n=last_n, breakers=("\n",)), [], native_piece)
    row = np.zeros(size, dtype=np.float32)
    with native(handle) as theirs:
        for place, token in enumerate(text):
            ours.accept(token)
            theirs.accept(token)
            if place % 3:
                continue
            expected = theirs.apply(row)
            assert losses(ours, size) == pytest.approx([-expected[place] for place in range(size)], rel=1e-4)
