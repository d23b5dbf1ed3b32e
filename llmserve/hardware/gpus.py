"""Lists of GPUs: read from a child's answer, and cut to what the user left visible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from llmserve.hardware.failure import ProbeFailed
from llmserve.types import GpuInfo, from_json


def parse_gpus(found: object) -> tuple[GpuInfo, ...]:
    """The GPUs in a child's answer. Raises `ProbeFailed` when it is no list of GPUs."""
    try:
        return from_json(tuple[GpuInfo, ...], json.dumps(found))
    except ValueError as error:
        raise ProbeFailed("the probe's answer is not a list of GPUs") from error


def select_visible(gpus: Sequence[GpuInfo], value: str | None) -> tuple[GpuInfo, ...]:
    """The GPUs that `value` names, in its order and numbered from 0 as a program started with it sees them.

    `value` is a comma-separated list of indices or of beginnings of UUIDs; None means all. As the runtimes do, the
    list ends at the first entry that names no GPU, so "-1" and "" hide all. The rules are those of the CUDA guide
    for CUDA_VISIBLE_DEVICES; HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES follow them.
    """
    if value is None:
        return tuple(gpus)
    chosen: list[GpuInfo] = []
    for entry in value.split(","):
        gpu = _named(gpus, entry.strip())
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return tuple(dataclasses.replace(gpu, index=index) for index, gpu in enumerate(chosen))


def _named(gpus: Sequence[GpuInfo], entry: str) -> GpuInfo | None:
    if entry.isascii() and entry.isdigit():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matches = [gpu for gpu in gpus if entry and gpu.uuid and gpu.uuid.lower().startswith(entry.lower())]
    return matches[0] if len(matches) == 1 else None
