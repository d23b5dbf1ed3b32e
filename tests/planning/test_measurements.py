"""What was measured corrects estimates, and goes before rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.planning.measurements import (
    Choices,
    DeviceBytes,
    Knowledge,
    LoadMeasurement,
    TunedChoices,
    taken_bytes,
)
from llmserve.planning.memory import GIB, MIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan, LoadShape
from tests.planning.machines import machine, with_free_gpu_memory, with_ram
from tests.planning.models import LLAMA31_8B, SMOLLM2_135M


def measured(decided: EnginePlan, **taken: int) -> Knowledge:
    """Knowledge of one load of `decided` that took so much of "ram" and "cuda0"."""
    devices = {"ram": "ram", "cuda0": "cuda:0"}
    bytes_taken = tuple(DeviceBytes(devices[name], size) for name, size in taken.items())
    return Knowledge(loads=(LoadMeasurement(decided.memory, bytes_taken, 1.0),))


def tuned(shape: LoadShape, **changes: object) -> TunedChoices:
    choices = Choices.of(plan(machine("laptop_no_gpu"), SMOLLM2_135M, Settings()))
    return TunedChoices(shape, 16, replace(choices, **changes), 120.0, 100.0)  # type: ignore[arg-type]


def test_the_next_plan_counts_what_the_last_load_took() -> None:
    hardware = machine("rtx_3060_12gb")
    first = plan(hardware, LLAMA31_8B, Settings())
    gpu = first.memory[1]
    second = plan(hardware, LLAMA31_8B, Settings(), measured(first, cuda0=gpu.total + 500 * MIB))
    assert second.memory[1].correction == 500 * MIB
    assert second.kv_cells < first.kv_cells, "the pool makes way"
    assert second.memory[1].total <= (gpu.available or 0)
    assert "corrected by what earlier loads took (+500 MiB on cuda:0)" in second.reason


def test_a_correction_is_not_corrected_again() -> None:
    hardware = machine("rtx_3060_12gb")
    first = plan(hardware, LLAMA31_8B, Settings())
    second = plan(hardware, LLAMA31_8B, Settings(), measured(first, cuda0=first.memory[1].total + 300 * MIB))
    third = plan(hardware, LLAMA31_8B, Settings(), measured(second, cuda0=second.memory[1].total))
    assert third.memory[1].correction == second.memory[1].correction == 300 * MIB


def test_less_than_estimated_gives_back_no_more_than_the_runtimes_overhead() -> None:
    hardware = machine("rtx_3060_12gb")
    first = plan(hardware, LLAMA31_8B, Settings())
    knowledge = measured(first, cuda0=GIB)
    assert knowledge.correction("cuda:0") == -first.memory[1].overhead


def test_saved_prefixes_are_a_limit_and_not_expected_of_a_load() -> None:
    decided = plan(machine("laptop_no_gpu"), SMOLLM2_135M, Settings())
    ram = decided.memory[0]
    assert ram.saved_prefixes > 0
    assert measured(decided, ram=ram.total - ram.saved_prefixes).correction("ram") == 0


def test_the_worst_of_the_latest_loads_counts() -> None:
    decided = plan(machine("rtx_3060_12gb"), LLAMA31_8B, Settings())
    total = decided.memory[1].total
    loads = tuple(
        LoadMeasurement(decided.memory, (DeviceBytes("cuda:0", total + extra * MIB),), 1.0)
        for extra in (10, 80, 20, 0, 0, 900)
    )
    assert Knowledge(loads=loads).correction("cuda:0") == 80 * MIB


def test_nothing_is_known_of_a_device_that_was_not_measured() -> None:
    decided = plan(machine("rtx_3060_12gb"), LLAMA31_8B, Settings())
    assert measured(decided, ram=GIB).correction("cuda:0") == 0


def test_a_gpu_took_what_its_free_memory_fell_by() -> None:
    hardware = machine("rtx_3060_12gb")
    decided = plan(hardware, LLAMA31_8B, Settings())
    before = hardware.gpus[0].free_memory or 0
    after = with_free_gpu_memory(hardware, before - 7 * GIB)
    assert taken_bytes(decided, 123, after) == (DeviceBytes("ram", 123), DeviceBytes("cuda:0", 7 * GIB))
    assert taken_bytes(decided, None, with_free_gpu_memory(hardware, None)) == ()


def test_a_measured_winner_goes_before_rules_and_the_reason_says_so() -> None:
    winner = tuned("many-users", threads=3, micro_batch=128, batch=256, kv_type="q8_0", wait_policy="passive")
    decided = plan(machine("laptop_no_gpu"), SMOLLM2_135M, Settings(), Knowledge(tuned=(winner,)))
    assert Choices.of(decided) == winner.choices
    assert "the fastest measured here for 16 users at once (120 tokens per second, 1.20 times those of the rules)" in (
        decided.reason
    )


def test_settings_go_before_what_was_measured() -> None:
    knowledge = Knowledge(tuned=(tuned("many-users", threads=3, kv_type="q8_0"),))
    decided = plan(machine("laptop_no_gpu"), SMOLLM2_135M, Settings(threads=2, kv_type="f16"), knowledge)
    assert (decided.threads, decided.kv_type) == (2, "f16")


@pytest.mark.parametrize(
    ("asked", "known", "threads"),
    [
        (None, ("one-user", "many-users"), 2),
        (None, ("one-user",), 1),
        ("one-user", ("one-user", "many-users"), 1),
        ("long-prompts", ("one-user", "many-users"), None),
    ],
)
def test_which_shape_counts(asked: LoadShape | None, known: tuple[LoadShape, ...], threads: int | None) -> None:
    by_shape: dict[LoadShape, int] = {"one-user": 1, "many-users": 2}
    knowledge = Knowledge(tuned=tuple(tuned(shape, threads=by_shape[shape]) for shape in known))
    hardware = machine("laptop_no_gpu")
    decided = plan(hardware, SMOLLM2_135M, Settings(load_shape=asked), knowledge)
    by_rule = plan(hardware, SMOLLM2_135M, Settings()).threads
    assert decided.threads == (by_rule if threads is None else threads)


def test_a_measured_single_pool_is_kept_where_streams_would_fit() -> None:
    hardware = machine("xeon_amx")
    assert plan(hardware, SMOLLM2_135M, Settings()).kv_layout == "split"
    knowledge = Knowledge(tuned=(tuned("many-users", kv_layout="unified"),))
    assert plan(hardware, SMOLLM2_135M, Settings(), knowledge).kv_layout == "unified"


def test_what_no_measurement_chose_is_left_to_the_rules() -> None:
    hardware = machine("laptop_no_gpu")
    rules = plan(hardware, SMOLLM2_135M, Settings())
    winner = TunedChoices("many-users", 16, Choices(speculation=False), 120.0, 100.0)
    decided = plan(hardware, SMOLLM2_135M, Settings(), Knowledge(tuned=(winner,)))
    assert Choices.of(decided) == replace(Choices.of(rules), speculation=False)
    assert "no drafts: the fastest measured here for 16 users at once" in decided.reason
    asked = plan(hardware, SMOLLM2_135M, Settings(speculation=True), Knowledge(tuned=(winner,)))
    assert asked.speculation, "what the user asks for goes before"
    assert "of what was the fastest here for 16 users at once (no drafts) the settings leave only a part" in (
        asked.reason
    )


def test_the_reason_says_where_measurements_found_the_rules_to_be_best() -> None:
    hardware = machine("laptop_no_gpu")
    winner = TunedChoices("one-user", 1, Choices(), 100.0, 100.0)
    decided = plan(hardware, SMOLLM2_135M, Settings(load_shape="one-user"), Knowledge(tuned=(winner,)))
    assert Choices.of(decided) == Choices.of(plan(hardware, SMOLLM2_135M, Settings()))
    assert "nothing that was measured here for one user was faster than the rules' plan (100 tokens per second)" in (
        decided.reason
    )


def test_keys_and_values_in_blocks_have_flash_attention_whatever_was_measured() -> None:
    knowledge = Knowledge(tuned=(TunedChoices("many-users", 16, Choices(flash_attention=False), 120.0, 100.0),))
    hardware = machine("laptop_no_gpu")
    assert not plan(hardware, SMOLLM2_135M, Settings(), knowledge).flash_attention
    assert plan(hardware, SMOLLM2_135M, Settings(kv_type="q8_0"), knowledge).flash_attention
    machines = (with_ram(hardware, size * MIB) for size in range(5000, 8000, 100))
    short = next(one for one in machines if plan(one, LLAMA31_8B, Settings(context=8192)).kv_type == "q8_0")
    assert plan(short, LLAMA31_8B, Settings(context=8192), knowledge).flash_attention


def test_without_flash_attention_the_scores_of_every_cell_take_memory() -> None:
    hardware = machine("laptop_no_gpu")
    knowledge = Knowledge(tuned=(TunedChoices("many-users", 16, Choices(flash_attention=False), 120.0, 100.0),))
    settings = Settings(context=8192, parallel=1)
    more = plan(hardware, SMOLLM2_135M, settings, knowledge)
    assert more.memory[0].compute > plan(hardware, SMOLLM2_135M, settings).memory[0].compute
    # Four bytes for each of 9 heads, 512 tokens of a graph and all cells.
    assert more.memory[0].compute >= 4 * 9 * 512 * more.kv_cells


def test_choices_together_are_the_better_ones_completed_by_the_others() -> None:
    better = Choices(threads=2, batch=512, micro_batch=128)
    other = Choices(threads=1, batch=2048, micro_batch=2048, speculation=False)
    assert better.completed_by(other) == replace(better, speculation=False)
    assert Choices().completed_by(other) == other
