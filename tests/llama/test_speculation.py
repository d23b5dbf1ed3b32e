from __future__ import annotations

import numpy as np
import pytest

from llmserve.llama.draft import Drafter
from llmserve.llama.speculation import MOST_DRAFTED, Acceptance, Experience, Speculation, StepCost


def measured(fixed: float, per_row: float, sizes: list[int], noise: float = 0.0) -> StepCost:
    cost = StepCost()
    random = np.random.default_rng(0)
    for rows in sizes:
        cost.observe(rows, (fixed + per_row * rows) * (1 + noise * random.standard_normal()))
    return cost


@pytest.mark.parametrize("decoding", [1, 4, 16])
@pytest.mark.parametrize(("fixed", "per_row"), [(0.004, 0.0024), (0.1, 0.0005), (0.0, 0.002)])
def test_the_price_of_a_row_is_its_part_of_a_step(fixed: float, per_row: float, decoding: int) -> None:
    cost = measured(fixed, per_row, [1, 5, 1, 9, 3, 1, 2] * 20, noise=0.03)
    expected = per_row * decoding / (fixed + per_row * decoding)
    assert cost.price(decoding) == pytest.approx(expected, abs=0.12)


def test_a_fuller_batch_makes_rows_dearer() -> None:
    cost = measured(0.004, 0.0024, [1, 5, 1, 9, 3, 1, 2] * 20)
    prices = [cost.price(decoding) for decoding in (1, 2, 4, 8, 16, 64)]
    assert prices == sorted(prices)
    assert Acceptance(Experience()).length(prices[-1]) == 0


def test_without_measurements_of_other_sizes_a_guess_stands_in_and_comes_back() -> None:
    guess = measured(0.004, 0.0024, [1] * 50).price(1)
    assert 0 < guess < 0.5
    assert StepCost().price(1) == pytest.approx(guess)
    dear = [1, 9] * 20
    assert measured(0.0, 0.01, dear).price(1) > 0.9
    assert measured(0.0, 0.01, dear + [1] * 1000).price(1) == pytest.approx(guess, abs=0.05)


def test_a_price_stays_a_share_whatever_was_measured() -> None:
    # Times that fall with the number of rows, as a busy machine gives them.
    cost = StepCost()
    for rows, seconds in [(1, 0.5), (8, 0.1), (1, 0.0), (16, 0.01)] * 10:
        cost.observe(rows, seconds)
    assert all(0 <= cost.price(decoding) <= 1 for decoding in (1, 4, 100))


def test_the_rate_follows_what_is_accepted() -> None:
    acceptance = Acceptance(Experience())
    for _ in range(60):
        acceptance.observe(4, 4)
    assert acceptance.rate > 0.95
    for _ in range(60):
        acceptance.observe(4, 0)
    assert acceptance.rate < 0.05
    for _ in range(200):
        acceptance.observe(4, 2)
    assert acceptance.rate == pytest.approx(2 / 3, abs=0.01), "two hits in three tokens tried"


@pytest.mark.parametrize("price", [0.05, 0.3, 0.6, 0.95])
def test_a_draft_is_as_long_as_its_last_token_promises_more_than_it_costs(price: float) -> None:
    lengths = []
    for right in range(9):
        acceptance = Acceptance(Experience())
        for _ in range(100):
            acceptance.observe(8, right)
        length = acceptance.length(price)
        if length:
            assert acceptance.rate**length > price
        if length < MOST_DRAFTED:
            assert acceptance.rate ** (length + 1) < price * 1.2
        lengths.append(length)
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == (MOST_DRAFTED if price < 0.8 else 0) or price == 0.6


def test_a_free_row_is_always_taken_and_the_bound_holds() -> None:
    acceptance = Acceptance(Experience())
    assert acceptance.length(0.0, 3) == 3
    assert acceptance.length(0.01, 1) == 1
    assert acceptance.length(0.01, 0) == 0


class Text:
    """A sequence that is written token by token, with the tokens a model would give known beforehand."""

    def __init__(self, future: list[int], prompt: int) -> None:
        self.future, self.tokens = future, future[:prompt]

    def step(self, draft: list[int]) -> int:
        """Accept what is right of `draft`, and one token more; returns how many rows that took."""
        hits = 0
        while hits < len(draft) and self.future[len(self.tokens) + hits] == draft[hits]:
            hits += 1
        self.tokens = self.future[: len(self.tokens) + hits + 1]
        return len(draft) + 1


def rows_and_steps(text: Text, until: int, price: float) -> tuple[int, int]:
    speculation = Speculation(Drafter(), Experience())
    rows = steps = 0
    while len(text.tokens) < until:
        rows += text.step(speculation.draft(text.tokens, price))
        steps += 1
    return rows, steps


def test_text_that_quotes_its_prompt_is_written_in_few_steps() -> None:
    quoted = np.random.default_rng(0).integers(0, 50_000, 400).tolist()
    rows, steps = rows_and_steps(Text(quoted + quoted, 410), 780, price=0.3)
    assert steps < 370 / 4
    assert rows < 1.3 * 370


def test_text_whose_guesses_are_wrong_soon_costs_no_rows() -> None:
    # Pairs of tokens that come again all the time but never with the same successor.
    random = np.random.default_rng(0)
    future = [token for fresh in random.integers(10, 50_000, 500).tolist() for token in (1, 2, fresh)]
    rows, steps = rows_and_steps(Text(future, 60), 1400, price=0.3)
    assert rows < steps * 1.1


def test_an_answer_starts_from_what_became_of_the_drafts_of_others() -> None:
    random, experience = np.random.default_rng(0), Experience()

    def rows_for_ten_answers(price: float) -> tuple[int, int]:
        rows = steps = 0
        for _ in range(10):
            future = [token for fresh in random.integers(10, 50_000, 40).tolist() for token in (1, 2, fresh)]
            text, speculation = Text(future, 60), Speculation(Drafter(), experience)
            while len(text.tokens) < 110:
                rows += text.step(speculation.draft(text.tokens, price))
                steps += 1
        return rows, steps

    rows, steps = rows_for_ten_answers(0.3)
    assert rows > steps, "none knew better at first"
    rows, steps = rows_for_ten_answers(0.3)
    assert rows == steps
    quoted = random.integers(0, 50_000, 400).tolist()
    text, speculation, steps = Text(quoted + quoted, 410), Speculation(Drafter(), experience), 0
    while len(text.tokens) < 780:
        text.step(speculation.draft(text.tokens, 0.3))
        steps += 1
    assert steps < 370 / 4, "a text that repeats itself is still noticed"


def test_drafts_that_were_not_checked_still_count() -> None:
    """At a price too high nothing is drafted; when it falls, the rate is already known."""
    quoted = list(range(100, 400))
    text = Text(quoted * 2, 310)
    speculation = Speculation(Drafter(), Experience())
    for _ in range(100):
        assert speculation.draft(text.tokens, 1.0) == []
        text.step([])
    assert speculation.acceptance.rate > 0.95
    assert len(speculation.draft(text.tokens, 0.3)) == MOST_DRAFTED


def test_a_full_batch_drafts_nothing() -> None:
    speculation = Speculation(Drafter(), Experience())
    assert speculation.draft([1, 2, 3, 1, 2, 3], 0.1, 0) == []
    assert speculation.draft([1, 2, 3, 1, 2, 3], 0.1, -2) == []


def test_forced_tokens_go_before_guesses() -> None:
    speculation = Speculation(Drafter(), Experience())
    forced: list[int] = [7, 8, 9]
    speculation.forced = lambda: forced
    assert speculation.draft([1, 2, 3, 1, 2, 3], 0.3) == [7, 8, 9]
    forced = []
    assert speculation.draft([1, 2, 3, 1, 2, 3, 7, 8, 9, 1, 2, 3], 0.3)[:1] == [7]
    forced = list(range(40))
    assert speculation.draft([1, 2, 3], 0.3) == forced[:MOST_DRAFTED]
    assert speculation.draft([1, 2, 3], 0.3, 0) == []


def test_forced_tokens_that_are_split_otherwise_are_given_up_and_say_nothing_of_guesses() -> None:
    speculation, tokens = Speculation(Drafter(), Experience()), [1, 2, 3]
    speculation.forced = lambda: [7, 8, 9]
    rate = speculation.acceptance.rate
    drafted = []
    for _ in range(10):
        drafted.append(len(speculation.draft(tokens, 0.5)))
        tokens = [*tokens, 10 + len(tokens)]
    assert drafted[0] == 3
    assert drafted[-1] == 0
    assert speculation.acceptance.rate == rate
