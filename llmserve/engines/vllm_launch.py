"""How a vLLM server is started for a plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from llmserve.engines.command import Command
from llmserve.engines.llama_cpp import SHORT_SPIN
from llmserve.engines.vllm import Installation
from llmserve.errors import Unavailable
from llmserve.hardware.environment import native_environment
from llmserve.types import EnginePlan, InstalledModel, VllmOptions
from llmserve.vllm import flags

# Requests beyond those that run, before vLLM refuses: the fleet's queue is the one that counts, and is shorter.
_QUEUED_REQUESTS = 1024
# As many as the request schema allows; vLLM's own limit is four.
_STOP_STRINGS = 16


def command(
    plan: EnginePlan,
    model: InstalledModel,
    socket: Path,
    installation: Installation,
    *,
    home: Path,
    environ: Mapping[str, str] | None = None,
) -> Command:
    """The server of `model` on the Unix socket `socket` as `plan` says, run by `installation`'s interpreter.

    What vLLM compiles is kept under the data directory `home`, for the next start. The environment is cut from
    `environ` (default: this process's) by an allow-list. Raises `Unavailable` for a version that is not supported.
    """
    if (reason := flags.problem(installation.version)) is not None:
        raise Unavailable(f"the installed vLLM cannot be used: {reason}", hint="`llmserve engines install vllm`")
    version = flags.version_of(installation.version) or flags.NEWEST
    argv = (
        # Ends vLLM's processes when the gateway ends, which they would not do by themselves.
        *(sys.executable, "-P", "-m", "llmserve.engines.keeper"),
        *(str(installation.python), "-P", "-m", flags.server_module(version)),
        *server_arguments(plan, model, socket, version),
    )
    return Command(argv, _environment(plan, socket, home, os.environ if environ is None else environ))


def server_arguments(plan: EnginePlan, model: InstalledModel, socket: Path, version: flags.Version) -> tuple[str, ...]:
    """The options of vLLM's server. What is not stated is its default, and no code of a model's is ever trusted."""
    options = plan.vllm
    if options is None:
        raise Unavailable(f"the plan of `{model.name}` is not one for vLLM")
    arguments = [
        *("--model", model.path, "--served-model-name", model.name, "--uds", str(socket)),
        *("--max-model-len", str(plan.context), "--max-num-seqs", str(plan.parallel)),
        *("--max-num-batched-tokens", str(max(plan.batch, plan.parallel))),
        *("--kv-cache-memory-bytes", str(options.kv_cache_bytes), "--dtype", options.dtype),
        *("--fingerprint-mode", "none", "--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        *("--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", "--disable-fastapi-docs"),
    ]
    if plan.kind == "embed":
        arguments += ["--runner", "pooling"]
    else:
        arguments.append("--enable-prefix-caching")
    if flags.has("--max-num-queued-reqs", version):
        arguments += ["--max-num-queued-reqs", str(plan.parallel + _QUEUED_REQUESTS)]
    if len(plan.devices) > 1:
        arguments += ["--tensor-parallel-size", str(len(plan.devices))]
    if options.eager:
        arguments.append("--enforce-eager")
    if model.template is not None:
        arguments += ["--chat-template", model.template]
    return (*arguments, *_parser_arguments(options))


def _parser_arguments(options: VllmOptions) -> list[str]:
    arguments = []
    if options.tool_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", options.tool_parser]
    if options.reasoning_parser is not None:
        arguments += ["--reasoning-parser", options.reasoning_parser]
    return arguments


def _environment(plan: EnginePlan, socket: Path, home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    cache = home / "cache" / "vllm"
    environment = native_environment(environ) | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        # The sockets between its own processes: private, and swept away with the worker's.
        "VLLM_RPC_BASE_PATH": str(socket.parent),
        # Its processes write their titles over their arguments: not over the environment too, by which those are known
        # that nothing else is left of (`fleet/orphans.py`).
        "SPT_NOENV": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_MAX_STOP_STRINGS": str(_STOP_STRINGS),
        "PYTHONUNBUFFERED": "1",
    }
    if plan.devices == ("cpu",):
        return environment | {
            "CUDA_VISIBLE_DEVICES": "-1",
            # Left to itself it keeps a whole core free for its scheduler.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(plan.threads),
            # Its threads would wait awake for each other, beside its scheduler and whatever else runs here: seen to
            # cost nine tenths of the speed.
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": str(SHORT_SPIN),
        }
    # NVML, whose numbers the plan uses, counts GPUs in this order; CUDA by itself counts the fastest first.
    visible = ",".join(_visible_devices(plan, environ.get("CUDA_VISIBLE_DEVICES")))
    return environment | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible, "OMP_NUM_THREADS": "1"}


def _visible_devices(plan: EnginePlan, inherited: str | None) -> list[str]:
    """The plan's GPUs as the variable names them: the plan counts those that are visible to the gateway."""
    indices = [int(device.partition(":")[2]) for device in plan.devices]
    names = [] if inherited is None else [name.strip() for name in inherited.split(",")]
    return [names[index] if index < len(names) else str(index) for index in indices]
