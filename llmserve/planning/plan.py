"""From a machine, a model and the user's wishes to one plan, and the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from llmserve.errors import LlmserveError, SettingsError, Unavailable
from llmserve.planning import vllm
from llmserve.planning.formatting import listed
from llmserve.planning.llamacpp import plan_llama_cpp
from llmserve.planning.measurements import NOTHING_KNOWN, Knowledge
from llmserve.planning.vllm import plan_vllm
from llmserve.settings import Settings
from llmserve.types import Device, Engine, EnginePlan, HardwareInfo, ModelInfo, Refusal

_ENGINES: tuple[Engine, ...] = ("llama.cpp", "vllm")
_TITLES: dict[Engine, str] = {"llama.cpp": "llama.cpp", "vllm": "vLLM"}


def plan(
    hardware: HardwareInfo, model: ModelInfo, settings: Settings, knowledge: Knowledge = NOTHING_KNOWN
) -> EnginePlan:
    """How to run `model` on `hardware`, with every number decided and the reason in words. Pure: no I/O, no clock.

    `knowledge` is what was measured here of this model and engine: it corrects estimates, and goes before rules.

    GGUF files are llama.cpp's, safetensors vLLM's. A plan is made even where the memory does not suffice (`fits` is
    False then and `reason` says what is missing). Raises `SettingsError` when `settings.engine` cannot run the model
    here, and `Unavailable` when no engine can; the message names the reason for each.
    """
    why_not = {engine: _why_not(engine, hardware, model) for engine in _ENGINES}
    possible = [engine for engine in _ENGINES if why_not[engine] is None]
    if settings.engine is not None and settings.engine not in possible:
        raise SettingsError(
            f"{_TITLES[settings.engine]} cannot run this model here, because {why_not[settings.engine]}",
            param="engine",
            hint=f"leave `engine` unset: {_TITLES[possible[0]]} can run it" if possible else None,
        )
    if not possible:
        raise _no_engine(hardware, model, why_not)
    chosen = settings.engine or possible[0]
    refused = tuple(
        Refusal(engine, f"not taken, because {reason}") for engine, reason in why_not.items() if reason is not None
    )
    if chosen == "vllm":
        return plan_vllm(hardware, model, settings, refused, knowledge)
    return plan_llama_cpp(hardware, model, settings, _devices(hardware, chosen), refused, knowledge)


def _why_not(engine: Engine, hardware: HardwareInfo, model: ModelInfo) -> str | None:
    """Why `engine` cannot run `model` on this machine, as the end of a sentence; None if it can."""
    if engine == "llama.cpp" and model.format != "gguf":
        return f"the model is in {model.format} format, not a GGUF file"
    if engine == "vllm" and model.format == "gguf":
        return "the model is a GGUF file"
    devices = _devices(hardware, engine)
    if not devices:
        broken = (info.detail for info in hardware.engines if info.engine == engine and info.version is not None)
        return next((f"what is installed cannot be used ({why})" for why in broken), "it is not installed")
    return _why_no_gpu_for_vllm(hardware, devices, model) if engine == "vllm" else None


def _why_no_gpu_for_vllm(hardware: HardwareInfo, built_for: Sequence[Device], model: ModelInfo) -> str | None:
    if (reason := vllm.unreadable(model)) is not None:
        return reason
    if "cpu" in built_for:
        return None
    if "cuda" not in built_for:
        return "the installed vLLM was built neither for CUDA nor for CPUs"
    if not hardware.gpus:
        return "it needs a CUDA GPU and no GPU was found"
    reasons = {gpu.name: vllm.unusable(gpu, model) for gpu in hardware.gpus}
    if None in reasons.values():
        return None
    return "it cannot use " + listed([f"{name} ({reason})" for name, reason in reasons.items()])


def _devices(hardware: HardwareInfo, engine: Engine) -> tuple[Device, ...]:
    """What the installed build of `engine` can use; nothing if it is not installed."""
    return next((info.devices for info in hardware.engines if info.engine == engine), ())


def _no_engine(hardware: HardwareInfo, model: ModelInfo, why_not: dict[Engine, str | None]) -> LlmserveError:
    reasons = listed([f"{_TITLES[engine]} is not taken, because {reason}" for engine, reason in why_not.items()])
    hint = "use a GGUF file of the same model: llama.cpp runs it on any machine"
    if model.format == "gguf":
        hint = "`llmserve engines install llama.cpp` builds it for this machine"
    elif not _devices(hardware, "vllm"):
        hint = f"`llmserve engines install vllm`, or {hint}"
    return Unavailable(f"no engine here can run this model: {reasons}", param="model", code="no_engine", hint=hint)
