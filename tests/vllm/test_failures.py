"""Last lines of starts that failed, and what is said of them."""

from __future__ import annotations

import pytest

from llmserve.vllm.failures import diagnose

OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 112.00 MiB. GPU 0 has a total capacity of 23.64 GiB "
    "of which 67.81 MiB is free. Process 3 has 22.9 GiB memory in use."
)
TOO_LONG = (
    "ValueError: To serve at least one request with the models's max seq len (40960), (5.62 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (4.81 GiB). Based on the available memory, the estimated "
    "maximum model length is 35040. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)
TAKEN = (
    "ValueError: Free memory on device cuda:0 (3.2/23.64 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 21.75 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
OLD_DRIVER = (
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"
)
UNKNOWN_ARCHITECTURE = (
    "ValueError: Model architectures ['BrandNewForCausalLM'] are not supported for now. Supported architectures: dict_"
)
LONGER_THAN_TRAINED = (
    "  Value error, User-specified max_model_len (512) is greater than the derived max_model_len "
    "(max_position_embeddings=256 or model_max_length=None in model's config.json). To allow overriding this maximum, "
    "set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
)
OUTER = "\nRuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"


@pytest.mark.parametrize(
    ("line", "kind", "problem", "hint"),
    [
        (OUT_OF_MEMORY, "memory", "112.00 MiB more were needed, and 67.81 MiB of 23.64 GiB were free", "`context`"),
        (TOO_LONG, "context", "40960 tokens needs 5.62 GiB of KV cache, and 4.81 GiB are free", "35040 or less"),
        (LONGER_THAN_TRAINED, "context", "512 tokens is longer than the model's own", "256 or less"),
        (TAKEN, "memory", "only 3.2 of the GPU's 23.64 GiB are free", "stop what else uses the GPU"),
        ("No available memory for the cache blocks. Try", "memory", "leave no GPU memory for a KV cache", "`context`"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", "memory", "the RAM does not suffice", "`context`"),
        (OLD_DRIVER, "driver", "this one speaks CUDA 12020", "update the driver"),
        ("CUDA error: no kernel image is available for execution", "driver", "no kernels for this GPU", "GGUF"),
        (UNKNOWN_ARCHITECTURE, "model", "the architecture BrandNewForCausalLM", "engines update vllm"),
        (
            "The checkpoint you are trying to load has model type `new_kind` but Transformers does not recognize this",
            "model",
            "models of the type new_kind",
            "engines update vllm",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'g++'",
            "compiler",
            "no C++ compiler",
            "`fast_start`",
        ),
        ("api_server: error: unrecognized arguments: --new-flag 3", "installation", "the option --new-flag", "anew"),
        ("KeyError: 'invalid tool call parser: nope (chose from { hermes })'", "setting", "no parser", "models.toml"),
        ("OSError: [Errno 28] No space left on device", "disk", "the disk is full", "free some space"),
    ],
)
def test_a_known_cause_is_told_with_what_helps(line: str, kind: str, problem: str, hint: str) -> None:
    found = diagnose(f"INFO something else\n{line}{OUTER}")
    assert found is not None
    assert found.kind == kind
    assert problem in found.problem
    assert hint in found.hint


def test_numbers_that_the_log_does_not_give_are_not_invented() -> None:
    found = diagnose("CUDA out of memory. Tried to allocate 2.00 GiB. ")
    assert found is not None
    assert found.problem == "the GPU's memory ran out: 2.00 GiB more were needed"


def test_the_cause_goes_before_its_consequences() -> None:
    found = diagnose(f"{OLD_DRIVER}\nCUDA out of memory\n")
    assert found is not None
    assert found.kind == "driver"


@pytest.mark.parametrize("log", ["", "INFO all is well\n", "RuntimeError: Engine core initialization failed."])
def test_nothing_is_said_of_what_is_not_known(log: str) -> None:
    assert diagnose(log) is None
