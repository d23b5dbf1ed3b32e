"""What those who wait are told."""

from __future__ import annotations

import pytest

from llmserve.fleet.service_times import ServiceTimes


def test_nothing_is_said_before_anything_was_measured() -> None:
    assert ServiceTimes().wait_seconds(5, 2) is None


@pytest.mark.parametrize(("ahead", "places", "seconds"), [(0, 1, 4), (0, 4, 1), (7, 4, 8), (3, 0, 16)])
def test_a_queue_moves_as_fast_as_places_become_free(ahead: int, places: int, seconds: float) -> None:
    times = ServiceTimes()
    times.note(4.0)
    assert times.wait_seconds(ahead, places) == seconds


def test_the_average_follows_what_happens_now() -> None:
    times = ServiceTimes()
    times.note(100.0)
    for _ in range(50):
        times.note(1.0)
    wait = times.wait_seconds(0, 1)
    assert wait is not None
    assert 1.0 < wait < 2.0
