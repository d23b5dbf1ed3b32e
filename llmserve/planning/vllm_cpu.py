"""How to run a safetensors model with vLLM's CPU build: one process computes, and the pool lies in RAM."""

from __future__ import annotations

from llmserve.planning import rules
from llmserve.planning.accelerators import margin_bytes
from llmserve.planning.formatting import counted, human_bytes, human_tokens
from llmserve.planning.memory import GIB, MIB, kv_bytes_per_token, weight_bytes
from llmserve.planning.offload import total_layers
from llmserve.planning.vllm_parsers import choose_parsers
from llmserve.settings import Settings
from llmserve.types import CpuInfo, DeviceMemory, EnginePlan, HardwareInfo, ModelInfo, Refusal, VllmOptions

# Tokens in a block of the pool; a part of one is of no use.
BLOCK_TOKENS = 128

_WIDE, _NARROW = "float32", "bfloat16"
_SEQUENCES = 32
_BATCH = 1024
_MOST_POOL_BYTES = 8 * GIB
# Server, scheduler and worker each import torch: measured with vLLM 0.32, beyond weights and pool.
_PROCESS_BYTES = 2 * GIB + 256 * MIB
# Instruction sets that multiply 16-bit floats. Without them every product is widened first.
_SIXTEEN_BIT = ("amx_bf16", "avx512_bf16")


def pays_on(cpu: CpuInfo) -> bool:
    """Whether this processor computes with 16-bit floats as they are."""
    return any(feature in cpu.features for feature in _SIXTEEN_BIT)


def block_bytes(model: ModelInfo, dtype: str = "bfloat16") -> int:
    """Bytes of one block of the pool: keys and values of `BLOCK_TOKENS` tokens, in all layers."""
    return BLOCK_TOKENS * kv_bytes_per_token(model, "f16") * (2 if dtype == _WIDE else 1)


def choose_dtype(hardware: HardwareInfo, model: ModelInfo, correction: int = 0) -> str:
    """The type to compute in: 32-bit floats where the processor has no instructions for 16-bit ones and RAM allows it.

    Measured on two cores with AVX2 and SmolLM2-135M, tokens per second of 1 and 16 clients: 12 and 96 with 32 bits, 9
    and 23 with 16. Quantized weights have kernels of their own, which compute in 16 bits.
    """
    if pays_on(hardware.cpu) or model.quantization not in {"BF16", "F16", "F32"}:
        return _NARROW
    context = rules.contexts(model, Settings(), rules.SMALLEST_CONTEXT)[-1]
    _, fits = _memory(hardware, model, _SEQUENCES, _blocks(context), _WIDE, correction)
    return _WIDE if fits else _NARROW


def plan_vllm_cpu(
    hardware: HardwareInfo, model: ModelInfo, settings: Settings, refused: tuple[Refusal, ...], correction: int = 0
) -> EnginePlan:
    """The plan for an installed CPU build. `correction` is what earlier loads took of RAM beyond their estimates."""
    parallel = settings.parallel or _SEQUENCES
    dtype = choose_dtype(hardware, model, correction)
    lengths = rules.contexts(model, settings, rules.SMALLEST_CONTEXT)
    context = next(
        (length for length in lengths if _memory(hardware, model, parallel, _blocks(length), dtype, correction)[1]),
        lengths[-1],
    )
    blocks = _pool_blocks(hardware, model, parallel, context, dtype, correction)
    memory, fits = _memory(hardware, model, parallel, blocks, dtype, correction)
    parsers = choose_parsers(model)
    refused_gpus = tuple(
        Refusal(f"{gpu.device}:{gpu.index}", f"{gpu.name} is not used, because the installed vLLM is built for CPUs")
        for gpu in hardware.gpus
    )
    return EnginePlan(
        engine="vllm",
        devices=("cpu",),
        gpu_layers=0,
        total_layers=total_layers(model),
        context=context,
        parallel=parallel,
        kv_cells=blocks * BLOCK_TOKENS,
        kv_type="f16",
        threads=rules.threads(hardware.cpu, settings),
        wait_policy=rules.wait_policy(hardware),
        batch=_BATCH,
        micro_batch=_BATCH,
        flash_attention=True,
        memory=(memory,),
        fits=fits,
        reason=_reason(hardware, model, settings, memory, context, blocks),
        refused=(*refused, *refused_gpus),
        kind=model.kind,
        vllm=VllmOptions(
            dtype=dtype,
            kv_cache_bytes=memory.kv_cache,
            # Compiling takes a minute at every change of the model or its options, and gains little on a processor.
            eager=settings.fast_start is not False,
            tool_parser=parsers.tool,
            reasoning_parser=parsers.reasoning,
        ),
    )


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def _memory(
    hardware: HardwareInfo, model: ModelInfo, parallel: int, blocks: int, dtype: str, correction: int
) -> tuple[DeviceMemory, bool]:
    """Bytes in RAM with a pool of so many blocks, and whether they are there. A block more is held back by vLLM."""
    width = 4 if dtype == _WIDE else 2
    widened = dtype == _WIDE and model.quantization != "F32"
    activations = width * _BATCH * (10 * model.embedding_length + 2 * model.feed_forward_length)
    logits = 8 * parallel * model.vocabulary
    memory = DeviceMemory(
        device="ram",
        weights=weight_bytes(model) * (2 if widened else 1),
        kv_cache=(blocks + 1) * block_bytes(model, dtype),
        compute=activations + logits,
        overhead=_PROCESS_BYTES,
        available=hardware.memory.available,
        correction=correction,
    )
    return memory, memory.available is None or memory.total <= memory.available


def _pool_blocks(
    hardware: HardwareInfo, model: ModelInfo, parallel: int, context: int, dtype: str, correction: int
) -> int:
    """All sequences at full length, or what a quarter of the RAM that is left holds, but one sequence at least."""
    least, size = _blocks(context), block_bytes(model, dtype)
    memory, fits = _memory(hardware, model, parallel, least, dtype, correction)
    if not size or not fits or memory.available is None:
        return least
    left = memory.available - memory.total + memory.kv_cache - margin_bytes(memory.available, least=256 * MIB)
    room = min(left // 4, _MOST_POOL_BYTES) // size
    return max(least, min(parallel * _blocks(context), room))


def _reason(
    hardware: HardwareInfo, model: ModelInfo, settings: Settings, memory: DeviceMemory, context: int, blocks: int
) -> str:
    threads = counted(rules.threads(hardware.cpu, settings), "CPU thread")
    pool = f"a {human_tokens(blocks * BLOCK_TOKENS)}-token pool ({human_bytes(memory.kv_cache)})"
    clauses = [f"{human_bytes(memory.weights)} of {model.quantization} weights and {pool}"]
    available = memory.available
    if available is None:
        clauses[0] += f" need {human_bytes(memory.total)} in all, and how much RAM is free is not known"
    elif memory.total <= available:
        clauses[0] += f" fit in {human_bytes(available)} of free RAM"
    else:
        needed, missing = human_bytes(memory.total), human_bytes(memory.total - available)
        clauses[0] += f" need {needed} in all, {missing} more than is free"
    if not pays_on(hardware.cpu):
        clauses.append("this processor has no instructions for 16-bit floats, so a GGUF file of the model runs faster")
        if memory.weights > weight_bytes(model):
            clauses.append("it computes with 32 bits, which takes twice the memory and is faster here")
    wanted = rules.context_limit(model, settings)
    if context < wanted:
        clauses.append(
            f"the context is {human_tokens(context)} instead of {human_tokens(wanted)} tokens to save memory"
        )
    if settings.kv_type not in {None, "f16"}:
        clauses.append(f"the KV cache stays 16-bit, because vLLM has no {settings.kv_type}")
    return f"vLLM on {threads} ({rules.instruction_set(hardware.cpu)}): {'; '.join(clauses)}"
