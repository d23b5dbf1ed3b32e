"""Why vLLM did not start, or ended: its last lines in the user's terms, with what would help.

Only what is known is said: a text that no row knows is no diagnosis. Nothing of the log itself is repeated but numbers
and names that the rows take out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["memory", "context", "driver", "model", "compiler", "installation", "setting", "disk"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was wrong: `problem` completes the sentence "`x` could not be loaded: ..."."""

    kind: Kind
    problem: str
    hint: str


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    kind: Kind
    problem: Callable[[re.Match[str]], str]
    hint: Callable[[re.Match[str]], str]


def _row(pattern: str, kind: Kind, problem: str, hint: str) -> _Row:
    """A row whose texts take the pattern's named groups in braces."""

    def filled(text: str) -> Callable[[re.Match[str]], str]:
        return lambda match: text.format(**match.groupdict())

    return _Row(re.compile(pattern), kind, filled(problem), filled(hint))


_SMALLER = (
    "set a smaller `context` or `parallel`, stop what else uses the GPU, or choose a smaller or quantized variant"
)
_REINSTALL = "`llmserve engines install vllm` makes its environment anew"

# The cause stands before its consequences, so the row that is found first in the text counts, whatever its place here.
_ROWS = (
    _row(
        r"max seq len \((?P<length>\d+)\)[^\n]{0,40}?(?P<needed>[\d.]+) GiB KV cache is needed"
        r"[^\n]*?available KV cache memory \((?P<free>[\d.]+) GiB\)"
        r"(?:[^\n]*?estimated maximum model length is (?P<most>\d+))?",
        "context",
        "a context of {length} tokens needs {needed} GiB of KV cache, and {free} GiB are free for it",
        "set `context` to {most} or less",
    ),
    _row(
        r"max_model_len \((?P<length>\d+)\) is greater than the derived max_model_len "
        r"\((?:[a-z_]+=)?(?P<most>\d+)",
        "context",
        "a context of {length} tokens is longer than the model's own",
        "set `context` to {most} or less",
    ),
    _row(
        r"Free memory on device[^\n]*?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\)[^\n]*?is less than desired",
        "memory",
        "only {free} of the GPU's {total} GiB are free",
        "stop what else uses the GPU, or try again when it has ended",
    ),
    _row(
        r"No available memory for the cache blocks",
        "memory",
        "its weights leave no GPU memory for a KV cache",
        _SMALLER,
    ),
    _row(
        r"(?:torch\.(?:cuda\.)?OutOfMemoryError: )?(?:CUDA|HIP) out of memory\. "
        r"Tried to allocate (?P<wanted>[\d.]+ [KMG]iB)"
        r"(?:[^\n]*?total capac\w+ of (?P<total>[\d.]+ [KMG]iB) of which (?P<free>[\d.]+ [KMG]iB) is free)?",
        "memory",
        "the GPU's memory ran out: {wanted} more were needed, and {free} of {total} were free",
        _SMALLER,
    ),
    _row(r"torch\.OutOfMemoryError|CUDA out of memory|out of memory", "memory", "the GPU's memory ran out", _SMALLER),
    _row(
        r"DefaultCPUAllocator: (?:can't|not enough)|std::bad_alloc|^MemoryError|Not enough available memory",
        "memory",
        "the RAM does not suffice",
        "set a smaller `context` or `parallel`, or choose a smaller or quantized variant",
    ),
    _row(
        r"NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
        "driver",
        "the installed vLLM needs a newer NVIDIA driver (this one speaks CUDA {version})",
        "update the driver, or let `llmserve engines install vllm` choose the build that fits it",
    ),
    _row(
        r"CUDA driver version is insufficient|forward compatibility was attempted|Found no NVIDIA driver|"
        r"CUDA initialization: ",
        "driver",
        "the installed vLLM and the NVIDIA driver do not go together",
        "update the driver, or let `llmserve engines install vllm` choose the build that fits it",
    ),
    _row(
        r"no kernel image is available",
        "driver",
        "the installed vLLM has no kernels for this GPU",
        "let `llmserve engines install vllm` choose the build that fits it, or use a GGUF file of the model",
    ),
    _row(
        r"Bfloat16 is only supported on GPUs with compute capability of at least",
        "driver",
        "this GPU does not compute with bfloat16",
        "use a variant in float16, or a GGUF file of the model",
    ),
    _row(
        r"Model architectures? \[?'?(?P<name>[A-Za-z0-9_]{1,64})'?\]?[^\n]{0,80} "
        r"(?:not supported|failed to be inspected)",
        "model",
        "the installed vLLM does not know the architecture {name}",
        "a newer vLLM may: `llmserve engines update vllm`; or use a GGUF file of the model",
    ),
    _row(
        r"model type `?(?P<name>[A-Za-z0-9_.-]{1,64})`? but Transformers does not recognize",
        "model",
        "the installed vLLM does not know models of the type {name}",
        "a newer vLLM may: `llmserve engines update vllm`; or use a GGUF file of the model",
    ),
    _row(
        r"trust_remote_code=True|contains custom code which must be executed",
        "model",
        "it needs code of its repository, which is never run",
        "use a GGUF file of the model",
    ),
    _row(
        r"Unknown quantization method|[Qq]uantization method[^\n]{0,60} is not supported",
        "model",
        "the installed vLLM does not know how its weights are quantized",
        "choose another variant of the model",
    ),
    _row(
        r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer",
        "model",
        "its files are damaged",
        "`llmserve verify` finds which; then pull the model again",
    ),
    _row(
        r"invalid (?:tool call|reasoning) parser: ?(?P<name>[A-Za-z0-9_.-]{1,64})|"
        r"[Pp]arser '(?P<other>[A-Za-z0-9_.-]{1,64})' not found",
        "setting",
        "the installed vLLM has no parser of that name",
        "correct the parser's name in models.toml",
    ),
    _row(
        r"Failed to find C compiler|InvalidCxxCompiler|No such file or directory: '(?:gcc|g\+\+|cc|c\+\+|clang)'|"
        r"No working C\+\+ compiler",
        "compiler",
        "it compiles the model for this machine, and there is no C++ compiler",
        "install one (`sudo apt-get install build-essential`), or set `fast_start` to do without",
    ),
    _row(
        r"unrecognized arguments: (?P<name>--[a-z0-9-]{1,64})",
        "installation",
        "the installed vLLM does not know the option {name}",
        _REINSTALL,
    ),
    _row(
        r"ModuleNotFoundError: No module named|undefined symbol|cannot open shared object file|PackageNotFoundError",
        "installation",
        "its installation is incomplete",
        _REINSTALL,
    ),
    _row(r"No space left on device", "disk", "the disk is full", "free some space where the data directory is"),
)


def diagnose(log: str) -> Diagnosis | None:
    """What the end of a log says of the cause; None where no row knows it."""
    found = [(match.start(), row, match) for row in _ROWS if (match := row.pattern.search(log))]
    if not found:
        return None
    _, row, match = min(found, key=lambda item: item[0])
    return Diagnosis(row.kind, _without_unknown(row.problem(match)), _without_unknown(row.hint(match)))


def _without_unknown(text: str) -> str:
    """A text without the clauses for which the log had no numbers."""
    text = re.sub(r", and None of None were free", "", text)
    return "set a smaller `context`" if "to None or less" in text else text
