"""Which GPUs are left, and numbered how, for each form of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import dataclasses
import json

import pytest

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.gpus import parse_gpus, select_visible
from llmserve.types import GpuInfo, to_json

GPUS = tuple(
    GpuInfo(
        device="cuda",
        index=index,
        name=f"GPU {index}",
        uuid=uuid,
        compute_capability=(8, 6),
        architecture="ampere",
        total_memory=24 * 2**30,
        free_memory=23 * 2**30,
        driver_version="570.133.20",
        runtime_version="12.8",
        unified_memory=False,
    )
    for index, uuid in enumerate(("GPU-aaaa1111", "GPU-aaaa2222", "MIG-bbbb3333", None))
)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, (0, 1, 2, 3)),
        ("0,1", (0, 1)),
        ("3, 0", (3, 0)),
        ("GPU-aaaa2222", (1,)),
        ("gpu-aaaa2", (1,)),
        ("MIG-bbbb3333,0", (2, 0)),
        ("", ()),
        ("-1", ()),
        ("1,-1,2", (1,)),
        ("0,9,1", (0,)),
        # A prefix of two UUIDs names neither; a GPU named twice ends the list.
        ("GPU-aaaa", ()),
        ("0,0,1", (0,)),
        ("NoDevFiles", ()),
    ],
)
def test_visible_gpus(value: str | None, names: tuple[int, ...]) -> None:
    visible = select_visible(GPUS, value)
    assert [gpu.name for gpu in visible] == [f"GPU {name}" for name in names]
    assert [gpu.index for gpu in visible] == list(range(len(names)))


def test_a_child_s_list_reads_back() -> None:
    assert parse_gpus(json.loads(to_json(GPUS))) == GPUS


@pytest.mark.parametrize(
    "found",
    [None, 3, {}, [{}], [[]], ["GPU"], [dataclasses.asdict(GPUS[0]) | {"index": "first"}]],
)
def test_anything_else_is_refused(found: object) -> None:
    with pytest.raises(ProbeFailed, match="not a list of GPUs"):
        parse_gpus(found)
