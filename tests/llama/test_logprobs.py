from __future__ import annotations

import numpy as np
import pytest

from llmserve.llama.logprobs import ScoredRows, TokenScore, first_of_prompt, log_normalisers, prompt_scores
from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.openai.logprobs import Alternative

PIECES = [b"a", b"b", "é".encode()[:1], b"", b"d"]


def piece(token: int) -> bytes:
    return PIECES[token]


def rows(count: int, vocabulary: int = 3000) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(2).normal(0, 4, (count, vocabulary)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    exact = logits.astype(np.float64)
    return (
        exact
        - exact.max(axis=1, keepdims=True)
        - np.log(np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    )


def test_scores_are_those_of_the_raw_logits() -> None:
    logits = rows(4)
    expected = log_softmax(logits)
    scored = ScoredRows(logits, {1: 0, 3: 5})
    sampler = Sampler(SamplingParameters(logit_bias={7: 100.0}, banned=(0, 1, 2), temperature=0.3, seed=1), [])
    sampler.adjust(logits[3])
    score = scored.score(3, sampler.draw(logits[3]))
    assert score.token == 7
    assert score.logprob == pytest.approx(expected[3, 7], abs=1e-5)
    likeliest = np.argsort(-expected[3])[:5]
    assert [token for token, _ in score.top] == likeliest.tolist()
    assert [logprob for _, logprob in score.top] == pytest.approx(expected[3, likeliest].tolist(), abs=1e-5)
    assert scored.score(1, 5) == TokenScore(5, pytest.approx(expected[1, 5], abs=1e-5))


@pytest.mark.parametrize("count", [1, 2, 200])
def test_a_prompts_tokens_are_scored_by_the_rows_before_them(count: int) -> None:
    logits = rows(count)
    following = np.random.default_rng(3).integers(0, 3000, count).tolist()
    expected = log_softmax(logits)[np.arange(count), following]
    scores = prompt_scores(logits, following, 2)
    assert [score.token for score in scores] == following
    assert [score.logprob for score in scores] == pytest.approx(expected.tolist(), abs=1e-5)
    assert all(len(score.top) == 2 for score in scores)


def test_probabilities_sum_to_one_even_for_extreme_logits() -> None:
    logits = np.asarray([[1e4, 1e4, -1e4], [-1e4, -1e4, -np.inf]], dtype=np.float32)
    assert np.exp(logits - log_normalisers(logits)[:, None]).sum(axis=1) == pytest.approx([1, 1], abs=1e-3)
    assert log_normalisers(logits[:0]).shape == (0,)


def test_names_are_texts_and_bytes() -> None:
    named = TokenScore(0, -0.5, ((4, -0.25), (2, -1.5), (3, -2.0))).named(piece)
    assert (named.token, named.bytes, named.logprob) == ("a", b"a", -0.5)
    assert named.top == (
        Alternative("d", b"d", -0.25),
        Alternative("�", b"\xc3", -1.5),
        Alternative("", b"", -2.0),
    )
    assert first_of_prompt(1, piece).logprob is None
    assert first_of_prompt(1, piece).token == "b"
