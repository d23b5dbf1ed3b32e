"""When a server that has requests is taken for hung."""

from __future__ import annotations

import pytest

from llmserve.vllm.metrics import counted_tokens, steps_taken
from llmserve.vllm.progress_watch import IDLE_SECONDS, Observation, ProgressWatch

METRICS = """\
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 2258.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 2269.0
vllm:iteration_tokens_total_count{engine="1",model_name="m"} 31.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 8451.0
"""


def test_the_steps_of_all_engines_count() -> None:
    assert steps_taken(METRICS) == 2300
    assert steps_taken("vllm:num_requests_running 1.0\n") is None


def test_the_tokens_of_all_engines_count() -> None:
    tokens = """\
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:generation_tokens_total{engine="0",model_name="m"} 20.0
vllm:generation_tokens_total{engine="1",model_name="m"} 3.0
"""
    assert counted_tokens(METRICS + tokens) == {"prompt_tokens": 1500, "generated_tokens": 23}


def stalls(*looks: tuple[float, int, float | None, float], busy: float = 60) -> list[float | None]:
    watch = ProgressWatch(busy_seconds=busy)
    return [watch.stalled(Observation(*look)) for look in looks]


def test_steps_are_progress() -> None:
    assert stalls((0, 1, 1, 0), (20, 1, 2, 0), (40, 1, 3, 0)) == [None, None, None]


def test_without_requests_nothing_is_expected() -> None:
    assert stalls((0, 0, 1, 0), (100, 0, 1, 0), (200, 0, None, 0)) == [None, None, None]


def test_no_step_and_no_work_is_a_stall() -> None:
    assert stalls((0, 1, 5, 9.0), (2, 1, 5, 9.0), (8, 1, 5, 9.01), (IDLE_SECONDS, 1, 5, 9.01)) == [
        None,
        None,
        None,
        IDLE_SECONDS,
    ]


def test_a_server_that_does_not_answer_at_all_is_one_too() -> None:
    assert stalls((0, 1, 5, 0), (6, 1, None, 0), (12, 1, None, 0))[-1] == 12


def test_a_request_that_comes_late_starts_the_clock() -> None:
    assert stalls((0, 0, 5, 0), (50, 1, 5, 0), (52, 1, 5, 0), (58, 1, 5, 0), (61, 1, 5, 0)) == [
        None,
        None,
        None,
        None,
        11,
    ]


@pytest.mark.parametrize(("seconds", "stalled"), [(59, False), (60, True)])
def test_a_long_step_may_take_its_time_while_it_computes(seconds: float, stalled: bool) -> None:
    looks = [(at, 1, 5.0, at * 1.0) for at in (0.0, seconds / 2, seconds)]
    assert (stalls(*looks)[-1] is not None) is stalled
