"""Who is unloaded for whom."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from llmserve.planning.eviction import LoadedModel, choose_victims

OLD = LoadedModel("old", 4, 0, 1.0)
MIDDLE = LoadedModel("middle", 2, 0, 2.0)
RECENT = LoadedModel("recent", 8, 0, 3.0)
BUSY = LoadedModel("busy", 100, 1, 0.0)


def test_nothing_is_unloaded_when_enough_is_free() -> None:
    assert choose_victims(5, 5, [OLD, BUSY]) == ()


def test_the_least_recently_used_goes_first() -> None:
    assert choose_victims(4, 0, [RECENT, MIDDLE, OLD]) == ("old",)
    assert choose_victims(6, 0, [RECENT, MIDDLE, OLD]) == ("old", "middle")


def test_a_leased_model_stays_whatever_is_needed() -> None:
    assert choose_victims(50, 0, [BUSY, OLD]) is None
    assert choose_victims(4, 0, [BUSY, OLD]) == ("old",)


def test_models_that_a_larger_victim_makes_needless_stay() -> None:
    assert choose_victims(8, 0, [OLD, MIDDLE, RECENT]) == ("recent",)
    assert choose_victims(10, 0, [OLD, MIDDLE, RECENT]) == ("old", "recent")


def test_all_idle_models_may_go() -> None:
    assert choose_victims(14, 0, [OLD, MIDDLE, RECENT]) == ("old", "middle", "recent")
    assert choose_victims(15, 0, [OLD, MIDDLE, RECENT]) is None


def test_models_used_at_the_same_time_go_by_name() -> None:
    twins = [LoadedModel(name, 1, 0, 0.0) for name in ("b", "c", "a")]
    assert choose_victims(2, 0, twins) == ("a", "b")


loaded_models = st.lists(
    st.builds(
        LoadedModel,
        name=st.text("abcdefgh", min_size=1, max_size=4),
        bytes=st.integers(0, 20),
        leases=st.integers(0, 2),
        last_used=st.floats(0, 10),
    ),
    max_size=6,
    unique_by=lambda model: model.name,
)


@given(st.integers(0, 80), st.integers(0, 40), loaded_models)
def test_victims_are_idle_sufficient_and_minimal(needed: int, available: int, loaded: list[LoadedModel]) -> None:
    victims = choose_victims(needed, available, loaded)
    idle = {model.name: model.bytes for model in loaded if model.leases == 0}
    if victims is None:
        assert available + sum(idle.values()) < needed
        return
    assert set(victims) <= set(idle)
    assert available + sum(idle[name] for name in victims) >= needed
    for fewer in combinations(victims, max(0, len(victims) - 1)):
        if victims:
            assert available + sum(idle[name] for name in fewer) < needed
