"""The rules of thumb a plan starts from: context, sequences, threads, batch sizes. Settings override each of them."""

from __future__ import annotations

from llmserve.planning.memory import GIB
from llmserve.settings import Settings
from llmserve.types import CpuInfo, HardwareInfo, ModelInfo, WaitPolicy

TARGET_CONTEXT = 16384
EMBEDDING_CONTEXT = 8192
SMALLEST_CONTEXT = 2048
# Below this, layers go to the CPU rather than tokens from the context.
SMALLEST_CONTEXT_ON_GPU = 4096

CPU_SEQUENCES = 16
GPU_SEQUENCES = 32
TINY_MACHINE_SEQUENCES = 4

CPU_BATCH = 512
GPU_BATCH = 2048
MICRO_BATCH = 512
# Rows of logits beyond one for each sequence: each takes 4 bytes per token of the vocabulary, twice.
SPARE_ROWS = 32

MOST_STREAM_BYTES = 8 * GIB
# Streams that a split cache has from the start: enough for somebody who chats, and the title that clients ask for
# beside it. Clearing more of them is most of what a cold first answer would wait for.
FIRST_STREAMS = 2
# Streams that it grows to, before it gets all.
FEW_STREAMS = 4
# On the disk, of all models together: some conversations of a large model, or tool blocks of many.
PREFIX_DISK_BYTES = 2_000_000_000


def context_limit(model: ModelInfo, settings: Settings) -> int:
    """The context to aim for: what was asked, or the default target, but never more than the model was made for."""
    target = EMBEDDING_CONTEXT if model.kind == "embed" else TARGET_CONTEXT
    return min(model.context_length, settings.context or target)


def contexts(model: ModelInfo, settings: Settings, smallest: int) -> tuple[int, ...]:
    """The contexts to try, longest first: by halves down to `smallest`; only the one asked for, if one was."""
    length = context_limit(model, settings)
    candidates = [length]
    while settings.context is None and length > smallest:
        length = max(length // 2, smallest)
        candidates.append(length)
    return tuple(candidates)


def sequences(hardware: HardwareInfo, model: ModelInfo, settings: Settings, free: int | None, *, on_gpu: bool) -> int:
    """How many sequences may run at once.

    They share one pool of cells, so one more costs little beyond its logits, unless the model has recurrent layers:
    their states, one per sequence, may take a quarter of the `free` bytes.
    """
    if settings.parallel is not None:
        return settings.parallel
    parallel = GPU_SEQUENCES if on_gpu else CPU_SEQUENCES
    available = hardware.memory.available
    if not on_gpu and (hardware.cpu.usable_cpus < 2 or (available is not None and available < 2 * GIB)):
        parallel = TINY_MACHINE_SEQUENCES
    state = sum(layer.state_bytes for layer in model.layers)
    while free is not None and parallel > 1 and state * parallel > free // 4:
        parallel //= 2
    return parallel


def splits_cache(model: ModelInfo, kv_bytes: int, free: int | None) -> bool:
    """Whether each sequence gets a stream of cells for itself on a CPU, where all of them together take `kv_bytes`.

    Attention there walks over every cell of what it shares with others, so separate streams are faster (measured with
    16 sequences: by half), but each must hold a whole context. They may take a quarter of the `free` RAM, and no more
    than is cleared within a second or two at the start. Recurrent states are separate anyway, and sliding windows
    cannot be copied from stream to stream.
    """
    if free is None or any(layer.state_bytes or layer.sliding_window for layer in model.layers):
        return False
    return kv_bytes <= min(free // 4, MOST_STREAM_BYTES)


def saved_prefix_bytes(left: int | None) -> int:
    """RAM for prefixes that left the KV cache: an eighth of what the plan has `left`; nothing where that is little."""
    if left is None or left < 2 * GIB:
        return 0
    return min(left // 8, 2 * GIB)


def threads(cpu: CpuInfo, settings: Settings) -> int:
    """One thread per physical core that affinity and quota leave.

    Two hyper-threads share the units that matrix products keep busy, and threads beyond a quota are stopped in the
    middle of a step while the others wait for them.
    """
    if settings.threads is not None:
        return settings.threads
    return max(1, min(cpu.usable_cpus, cpu.physical_cores or cpu.usable_cpus))


def wait_policy(hardware: HardwareInfo) -> WaitPolicy:
    """How idle threads wait for the next piece of work.

    Awake gains a little on a machine that does nothing else, and costs several times the speed as soon as another busy
    process, such as a second model, wants the same cores. On Linux a worker sees that and gives a thread back;
    elsewhere its threads go to sleep after a short spin.
    """
    return "active" if hardware.system == "linux" else "passive"


def instruction_set(cpu: CpuInfo) -> str:
    """The widest matrix or vector instructions of this processor, as its maker writes them."""
    names = {
        "amx_int8": "AMX",
        "amx_bf16": "AMX",
        "avx512_bf16": "AVX-512 BF16",
        "avx512_vnni": "AVX-512 VNNI",
        "avx512f": "AVX-512",
        "avx_vnni": "AVX-VNNI",
        "avx2": "AVX2",
        "avx": "AVX",
        "sve": "SVE",
        "neon": "NEON",
    }
    return next((name for feature, name in names.items() if feature in cpu.features), cpu.architecture)
