"""The choice of a variant: pure, for the machines under `tests/machines`, and how a pull asks for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.errors import InvalidRequest
from llmserve.planning.variant import VariantOption, choose_variant, is_repacked
from llmserve.store.catalog import Catalog, CatalogModel, Variant, load_catalog
from llmserve.store.options import PullOptions
from llmserve.store.store import Store
from llmserve.types import HardwareInfo, from_json

MACHINES = Path(__file__).parents[1] / "machines"


def machine(name: str) -> HardwareInfo:
    return from_json(HardwareInfo, (MACHINES / f"{name}.json").read_bytes())


def options(*quantizations: str, parameters: float) -> list[VariantOption]:
    return [
        VariantOption(label, "safetensors" if label == "BF16" else "gguf", label, None, int(parameters))
        for label in quantizations
    ]


ALL = ("Q4_K_M", "Q4_0", "Q4_1", "Q6_K", "Q8_0", "BF16")


@pytest.mark.parametrize(
    ("hardware", "parameters", "taken"),
    [
        # A processor: about 4 bits, repacked, the best quality of those.
        ("laptop_no_gpu", 8e9, "Q4_K_M"),
        ("raspberry_pi_5_8gb", 1e9, "Q4_K_M"),
        # A GPU: the best quality that fits, up to 8 bits.
        ("rtx_3090_half_used", 8e9, "Q8_0"),
        # Where vLLM is installed and 16 bits fit, it serves them.
        ("rtx_4090_24gb", 8e9, "BF16"),
        ("rtx_3060_12gb", 12e9, "Q4_K_M"),
        # What does not fit is taken in its smallest form.
        ("laptop_no_gpu", 70e9, "Q4_0"),
        # A GPU that the installed engine cannot use is none.
        ("rtx_3090_engine_cpu_only", 8e9, "Q4_K_M"),
    ],
)
def test_what_suits_the_machine_is_taken(hardware: str, parameters: float, taken: str) -> None:
    choice = choose_variant(machine(hardware), options(*ALL, parameters=parameters))
    assert choice.taken == taken
    assert choice.fits == (parameters < 70e9)
    assert choice.reason
    assert {refusal.option for refusal in choice.refused} == set(ALL) - {taken}
    assert all(refusal.reason for refusal in choice.refused)


def test_of_equal_bits_the_repacked_is_taken() -> None:
    choice = choose_variant(machine("laptop_no_gpu"), options("Q4_1", "Q4_0", parameters=135e6))
    assert choice.taken == "Q4_0"
    assert "repacked" in choice.reason
    assert "3 times as long" in choice.refused[0].reason


def test_vllm_is_taken_where_it_can_run() -> None:
    here = machine("h100_80gb")
    assert any(engine.engine == "vllm" and engine.installed for engine in here.engines)
    assert choose_variant(here, options(*ALL, parameters=8e9)).taken == "BF16"


def test_without_an_engine_safetensors_are_refused_with_the_reason() -> None:
    choice = choose_variant(machine("laptop_no_gpu"), options("BF16", "Q4_0", parameters=1e9))
    assert choice.taken == "Q4_0"
    reason = choice.refused[0].reason
    assert reason == "no engine for safetensors is installed that could use this machine"


def test_a_card_without_vllm_is_told_the_command() -> None:
    choice = choose_variant(machine("rtx_3060_12gb"), options("BF16", "Q4_0", parameters=1e9))
    assert choice.taken == "Q4_0"
    assert choice.refused[0].reason.endswith("which `llmserve engines install vllm` would change")


def test_an_unknown_size_is_no_obstacle() -> None:
    option = VariantOption("x", "gguf", "Q4_K_M", None, None)
    choice = choose_variant(machine("laptop_no_gpu"), [option, replace(option, label="y", quantization="strange")])
    assert choice.taken == "x"
    assert choice.fits


@pytest.mark.parametrize(
    ("hardware", "quantization", "expected"),
    [
        ("laptop_no_gpu", "Q4_0", True),
        ("laptop_no_gpu", "Q4_K_M", True),
        ("laptop_no_gpu", "Q4_1", False),
        ("laptop_no_gpu", "Q8_0", False),
        ("laptop_no_gpu", "Q2_K", False),
        ("xeon_amx", "Q2_K", True),
        ("apple_m2_16gb", "Q8_0", True),
    ],
)
def test_repacking_depends_on_the_instruction_set(hardware: str, quantization: str, expected: bool) -> None:
    assert is_repacked(machine(hardware).cpu, quantization) is expected


# --- what a pull asks for ---


@pytest.fixture
def store(private_home: Path) -> Store:
    variants = (
        Variant("gguf", "Q4_K_M", "hf:o/r-GGUF", "m-Q4_K_M.gguf", None, None),
        Variant("gguf", "Q8_0", "hf:o/r-GGUF", "m-Q8_0.gguf", None, None),
        Variant("safetensors", "BF16", "hf:o/r", "", None, None),
    )
    return Store(private_home, catalog=Catalog((CatalogModel("m:8b", ("m",), None, "", variants),)))


def gpu() -> HardwareInfo:
    return machine("rtx_3060_12gb")


@pytest.mark.parametrize(
    ("name", "asked", "installed_as", "origin"),
    [
        ("m", PullOptions(), "m:8b", "hf:o/r-GGUF:m-Q4_K_M.gguf"),
        ("m:8b", PullOptions(machine=gpu), "m:8b", "hf:o/r-GGUF:m-Q8_0.gguf"),
        ("m:8b-q8_0", PullOptions(), "m:8b-q8_0", "hf:o/r-GGUF:m-Q8_0.gguf"),
        ("m-q8_0", PullOptions(), "m:8b-q8_0", "hf:o/r-GGUF:m-Q8_0.gguf"),
        ("m", PullOptions(quantization="q8_0"), "m:8b-q8_0", "hf:o/r-GGUF:m-Q8_0.gguf"),
        ("m", PullOptions(format="safetensors"), "m:8b-bf16", "hf:o/r:safetensors"),
        ("m", PullOptions(engine="vllm"), "m:8b-bf16", "hf:o/r:safetensors"),
        ("m", PullOptions(engine="llama.cpp", machine=gpu), "m:8b-q8_0", "hf:o/r-GGUF:m-Q8_0.gguf"),
        ("hf:o/r", PullOptions(quantization="Q5_K_M"), "hf:o/r:Q5_K_M", "hf:o/r:Q5_K_M"),
        ("o/r", PullOptions(format="safetensors"), "hf:o/r:safetensors", "hf:o/r:safetensors"),
    ],
)
def test_a_pull_wants_what_was_asked_for(
    store: Store, name: str, asked: PullOptions, installed_as: str, origin: str
) -> None:
    wanted = store.wanted(name, asked)
    assert (str(wanted.reference), str(wanted.origin)) == (installed_as, origin)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("m", PullOptions(quantization="Q5_K_M")),
        ("m:8b-q8_0", PullOptions(format="safetensors")),
        ("m", PullOptions(engine="vllm", format="gguf")),
        ("hf:o/r:Q8_0", PullOptions(quantization="Q4_0")),
    ],
)
def test_what_there_is_not_is_refused(store: Store, name: str, asked: PullOptions) -> None:
    with pytest.raises(InvalidRequest):
        store.wanted(name, asked)


def test_the_machine_is_only_looked_at_where_there_is_a_choice(private_home: Path) -> None:
    def no_machine() -> HardwareInfo:
        raise AssertionError("nothing was to be chosen")

    asked = PullOptions(machine=no_machine)
    choice = Store(private_home).wanted("smollm2:135m", asked).choice
    assert choice is not None
    assert (choice.taken, choice.reason) == ("smollm2:135m-q4_1", "the only variant there is")
    assert Store(private_home).wanted("hf:o/r", asked).choice is None


def test_the_shipped_catalog_has_every_kind_of_model() -> None:
    models = load_catalog().models
    assert len(models) >= 25
    assert {model.task for model in models} == {"chat", "code", "reasoning", "embed", "rerank"}
    for model in models:
        labels = [variant.label for variant in model.variants]
        assert len(set(labels)) == len(labels)
        assert all(load_catalog().entry(f"{model.name}-{label}") == model for label in labels)


def test_a_users_catalog_lies_in_the_data_directory(private_home: Path) -> None:
    private_home.mkdir(mode=0o700)
    (private_home / "models.toml").write_text(
        '[models."mine:1b"]\ndescription = "mine"\n'
        'variants = [{ format = "gguf", quantization = "Q8_0", source = "hf:me/my-GGUF", file = "my.gguf" }]\n'
    )
    store = Store(private_home)
    assert str(store.wanted("mine:1b", PullOptions()).origin) == "hf:me/my-GGUF:my.gguf"
    assert store.catalog.find("smollm2") is not None
