"""What holds of every plan, whatever the machine and the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmserve.planning.memory import GIB, MIB, head_bytes, kv_bytes, layer_kv_bytes, padded, weight_bytes
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan, HardwareInfo, ModelInfo, from_json, to_json
from tests.planning.machines import NAMES, machine, with_free_gpu_memory, with_ram
from tests.planning.models import GGUF_MODELS

every_machine = pytest.mark.parametrize("name", NAMES)


def plans(hardware: HardwareInfo) -> Iterator[tuple[ModelInfo, EnginePlan]]:
    for model in GGUF_MODELS.values():
        yield model, plan(hardware, model, Settings())


@every_machine
def test_numbers_are_consistent(name: str) -> None:
    hardware = machine(name)
    for model, decided in plans(hardware):
        assert decided.total_layers == len(model.layers) + 1
        assert 0 <= decided.gpu_layers <= decided.total_layers
        assert decided.context <= model.context_length
        if decided.kv_layout == "split":
            assert decided.kv_cells == decided.parallel * padded(decided.context)
            assert decided.memory[0].kv_cache <= (hardware.memory.available or 0) // 4
        else:
            assert decided.context <= decided.kv_cells <= max(256, 4 * decided.context)
        assert decided.kv_cells % 256 == 0
        assert 1 <= decided.micro_batch <= decided.batch <= decided.kv_cells
        assert decided.parallel >= 1
        assert 1 <= decided.threads <= hardware.cpu.usable_cpus
        on_cpu = decided.gpu_layers < decided.total_layers or decided.experts_in_ram > 0
        assert ("cpu" in decided.devices) == on_cpu
        on_gpus = [device for device in decided.devices if device != "cpu"]
        assert sum(decided.gpu_split) == decided.gpu_layers
        assert len(decided.gpu_split) == len(on_gpus)
        assert [entry.device for entry in decided.memory] == ["ram", *on_gpus]
        decided_fields = {field.name for field in fields(decided)} - {"vllm"}
        assert all(getattr(decided, name) is not None for name in decided_fields)
        assert from_json(EnginePlan, to_json(decided)) == decided


@every_machine
def test_memory_adds_up_over_the_devices(name: str) -> None:
    for model, decided in plans(machine(name)):
        copied = head_bytes(model) - model.output_bytes if decided.gpu_layers else 0
        assert sum(entry.weights for entry in decided.memory) == weight_bytes(model) + copied
        pool = kv_bytes(model, decided.kv_type, decided.kv_cells, decided.parallel, decided.micro_batch)
        assert sum(entry.kv_cache for entry in decided.memory) == pool
        assert all(entry.overhead > 0 and entry.compute > 0 for entry in decided.memory)


@every_machine
def test_fits_means_that_no_device_holds_more_than_is_free(name: str) -> None:
    hardware = machine(name)
    for _, decided in plans(hardware):
        needed = {entry.device: entry.total for entry in decided.memory}
        for gpu in hardware.gpus:
            if gpu.unified_memory:
                # Its plan names the runtime, which need not be the one that drives it best.
                needed["ram"] += sum(size for device, size in needed.items() if device.endswith(f":{gpu.index}"))
        over = [entry.device for entry in decided.memory if needed[entry.device] > (entry.available or 0)]
        assert decided.fits == (not over)
        assert ("more than" in decided.reason) == (not decided.fits)


@every_machine
def test_one_more_layer_would_not_fit(name: str) -> None:
    for model, decided in plans(machine(name)):
        if not 0 < decided.gpu_layers < decided.total_layers:
            continue
        last_on_cpu = decided.total_layers - decided.gpu_layers - 1
        cache = layer_kv_bytes(model, "f16", decided.kv_cells, decided.parallel, decided.micro_batch)
        block = model.layers[last_on_cpu]
        layer = block.weight_bytes + cache[last_on_cpu]
        if last_on_cpu < decided.experts_in_ram:
            layer -= block.expert_bytes
        for entry in decided.memory[1:]:
            assert entry.available is not None
            assert entry.total <= entry.available
            assert entry.total + layer > entry.available - max(256 * MIB, entry.available // 20)


@every_machine
def test_everything_not_taken_has_its_sentence(name: str) -> None:
    hardware = machine(name)
    everything = {"vllm", *(f"{gpu.device}:{gpu.index}" for gpu in hardware.gpus), "cpu"}
    if not hardware.gpus:
        everything.add("gpu")
    for _, decided in plans(hardware):
        refused = [refusal.option for refusal in decided.refused]
        assert len(set(refused)) == len(refused)
        # A build for Vulkan drives GPUs that the machine lists under their makers' runtimes.
        taken = {device.replace("vulkan", hardware.gpus[0].device) for device in decided.devices if hardware.gpus}
        # What is not kept on the disk is told the same way, and is no device.
        assert set(refused) - {"prefixes on disk"} == everything - taken - set(decided.devices)


@every_machine
def test_reasons_are_single_sentences(name: str) -> None:
    for _, decided in plans(machine(name)):
        assert decided.reason.startswith("llama.cpp on ")
        for sentence in (decided.reason, *(refusal.reason for refusal in decided.refused)):
            assert sentence == sentence.strip().removesuffix(".")
            assert ". " not in sentence
            assert "\n" not in sentence
            assert "None" not in sentence


sizes = st.integers(0, 100 * GIB)
models = st.sampled_from(list(GGUF_MODELS.values()))


def gpu_layers(hardware: HardwareInfo, model: ModelInfo) -> int:
    return plan(hardware, model, Settings()).gpu_layers


@hypothesis_settings(deadline=None, max_examples=150)
@given(sizes, sizes, models)
def test_more_free_gpu_memory_never_means_fewer_layers(one: int, other: int, model: ModelInfo) -> None:
    hardware = machine("rtx_4090_24gb")
    less, more = sorted((one, other))
    with_less = gpu_layers(with_free_gpu_memory(hardware, less), model)
    assert with_less <= gpu_layers(with_free_gpu_memory(hardware, more), model)


@hypothesis_settings(deadline=None, max_examples=150)
@given(sizes, sizes, sizes, models)
def test_the_same_holds_for_the_second_of_two_gpus(first: int, one: int, other: int, model: ModelInfo) -> None:
    hardware = machine("a100_80gb_x2")
    less, more = sorted((one, other))
    with_less = gpu_layers(with_free_gpu_memory(hardware, first, less), model)
    assert with_less <= gpu_layers(with_free_gpu_memory(hardware, first, more), model)


@hypothesis_settings(deadline=None, max_examples=150)
@given(sizes, sizes, models)
def test_more_free_ram_never_means_a_shorter_context(one: int, other: int, model: ModelInfo) -> None:
    hardware = machine("xeon_amx")
    less, more = sorted((one, other))
    shorter, longer = (plan(with_ram(hardware, available), model, Settings()) for available in (less, more))
    assert (shorter.fits, shorter.context) <= (longer.fits, longer.context)


@hypothesis_settings(deadline=None, max_examples=150)
@given(sizes, sizes, sizes, models)
def test_a_split_respects_each_gpu(ram: int, first: int, second: int, model: ModelInfo) -> None:
    hardware = with_ram(with_free_gpu_memory(machine("a100_80gb_x2"), first, second), ram)
    decided = plan(hardware, model, Settings())
    assert all(layers > 0 for layers in decided.gpu_split)
    for entry in decided.memory[1:]:
        assert entry.available is not None
        assert entry.total <= entry.available
