from __future__ import annotations

import pytest

from llmserve.llama.thread_governor import OBSERVE_SECONDS, CpuTimes, ThreadGovernor, read_cpu_times


class Machine:
    """A machine whose processors are used by others to the amount of `others`, and by this process fully."""

    def __init__(self, planned: int, processors: int) -> None:
        self.others = 0.0
        self.times = CpuTimes(0.0, 0.0, 0.0)
        self.governor = ThreadGovernor(planned, processors, lambda: self.times)

    def run(self, readings: int = 20) -> list[int]:
        """The number of threads after each of so many readings."""
        return [self._reading() for _ in range(readings)]

    def _reading(self) -> int:
        own = float(self.governor.threads) * OBSERVE_SECONDS
        last = self.times
        self.times = CpuTimes(
            last.clock + OBSERVE_SECONDS, last.busy + own + self.others * OBSERVE_SECONDS, last.own + own
        )
        return self.governor.observe(self.times.clock)


def test_alone_it_uses_what_was_planned() -> None:
    assert set(Machine(4, 4).run()) == {4}


def test_a_gateway_and_its_clients_cost_no_thread() -> None:
    machine = Machine(2, 2)
    machine.others = 0.4
    assert set(machine.run()) == {2}


@pytest.mark.parametrize(("others", "expected"), [(1.0, 3), (2.0, 2), (3.0, 1), (4.0, 1), (9.0, 1)])
def test_each_busy_processor_of_others_costs_one_thread(others: float, expected: int) -> None:
    machine = Machine(4, 4)
    machine.others = others
    assert machine.run()[-1] == expected
    machine.others = 0.0
    assert machine.run()[-1] == 4


def test_processors_beyond_the_planned_threads_are_for_others() -> None:
    machine = Machine(4, 8)
    machine.others = 4.0
    assert set(machine.run()) == {4}


def test_between_the_thresholds_nothing_swings() -> None:
    machine = Machine(2, 2)
    machine.others = 1.0
    machine.run()
    for machine.others in (0.5, 0.55, 0.45) * 10:
        assert machine.run(1) == [1]


def test_who_was_busy_during_a_pause_says_nothing_about_now() -> None:
    machine = Machine(2, 2)
    machine.run(3)
    last = machine.times
    machine.times = CpuTimes(last.clock + 60, last.busy + 120, last.own)
    assert machine.governor.observe(machine.times.clock) == 2
    assert set(machine.run()) == {2}


def test_the_system_is_read_at_most_so_often() -> None:
    readings = []

    def read() -> CpuTimes:
        readings.append(0)
        return CpuTimes(0.0, 0.0, 0.0)

    governor = ThreadGovernor(2, 2, read)
    for step in range(100):
        governor.observe(step * OBSERVE_SECONDS / 200)
    assert len(readings) == 1


def test_a_system_that_does_not_tell_changes_nothing() -> None:
    governor = ThreadGovernor(3, 4, lambda: None)
    assert [governor.observe(time) for time in (1.0, 2.0)] == [3, 3]


def test_the_real_figures_only_grow() -> None:
    first, second = read_cpu_times(), read_cpu_times()
    if first is None or second is None:
        pytest.skip("this system has no /proc/stat")
    assert first.clock <= second.clock
    assert 0 < first.busy <= second.busy
    assert 0 < first.own <= second.own
