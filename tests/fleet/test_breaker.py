"""When something that failed is tried again."""

from __future__ import annotations

import pytest

from llmserve.fleet.breaker import Breaker


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0), (2, 5), (3, 10), (4, 20), (7, 160), (8, 300), (9, 300), (10_000, 300)]
)
def test_the_back_off_of_loads_doubles_up_to_five_minutes(failures: int, seconds: float) -> None:
    breaker = Breaker()
    for _ in range(failures):
        breaker.load_failed(100.0, "it broke")
    assert breaker.remaining_seconds(100.0) == seconds
    assert breaker.remaining_seconds(100.0 + seconds) == 0
    assert breaker.last_error == "it broke"


def test_a_worker_may_crash_twice_before_nothing_is_tried() -> None:
    breaker = Breaker()
    for expected in (0, 0, 5, 10):
        breaker.crashed(0.0, "gone")
        assert breaker.remaining_seconds(0.0) == expected


def test_a_request_served_begins_a_new_row() -> None:
    breaker = Breaker()
    for _ in range(50):
        breaker.crashed(0.0, "gone")
        breaker.succeeded()
    breaker.crashed(1000.0, "gone")
    assert (breaker.failures, breaker.remaining_seconds(1000.0)) == (1, 0)


def test_loads_and_crashes_make_one_row() -> None:
    breaker = Breaker()
    breaker.load_failed(0.0, "no")
    breaker.crashed(0.0, "gone")
    breaker.load_failed(0.0, "no")
    assert breaker.remaining_seconds(0.0) == 10
    breaker.reset()
    assert (breaker.failures, breaker.remaining_seconds(0.0)) == (0, 0)
