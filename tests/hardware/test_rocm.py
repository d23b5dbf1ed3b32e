"""AMD GPUs by the kernel's files and by rocm-smi."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.hardware import rocm_smi
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.kfd import NODES, parse_marketing_names, parse_properties, read_kfd, target_name
from llmserve.hardware.rocm import probe_rocm
from llmserve.types import GpuInfo, to_json
from tests.hardware.trees import captured, plant

RX_7900_XTX = GpuInfo(
    device="rocm",
    index=0,
    name="AMD Radeon RX 7900 XTX",
    uuid="GPU-9246fd01f0c4a87b",
    compute_capability=None,
    architecture="gfx1100",
    total_memory=25753026560,
    free_memory=25753026560 - 442318848,
    driver_version="6.10.5",
    runtime_version="6.3.3",
    unified_memory=False,
)


def desktop(root: Path) -> Path:
    """A Ryzen with its own small GPU and a Radeon card."""
    card, apu = "sys/class/drm/renderD128/device", "sys/class/drm/renderD129/device"
    files = {
        f"{NODES}/0/properties": captured("kfd_cpu_node.txt"),
        f"{NODES}/1/properties": captured("kfd_7900xtx.txt"),
        f"{NODES}/2/properties": captured("kfd_raphael_apu.txt"),
        f"{card}/mem_info_vram_total": "25753026560\n",
        f"{card}/mem_info_vram_used": "442318848\n",
        f"{card}/device": "0x744c\n",
        f"{card}/revision": "0xc8\n",
        f"{apu}/mem_info_vram_total": "536870912\n",
        f"{apu}/mem_info_vram_used": "16146432\n",
        f"{apu}/mem_info_gtt_total": "16674312192\n",
        f"{apu}/mem_info_gtt_used": "29425664\n",
        "usr/share/libdrm/amdgpu.ids": captured("amdgpu.ids"),
        "sys/module/amdgpu/version": "6.10.5\n",
        "opt/rocm/.info/version": "6.3.3-74\n",
        "dev/kfd": "",
    }
    return plant(root, files)


def test_a_card_and_an_apu(tmp_path: Path) -> None:
    card, apu = read_kfd(desktop(tmp_path))
    assert card == RX_7900_XTX
    assert (apu.index, apu.name, apu.architecture, apu.uuid) == (1, "AMD GPU (gfx1036)", "gfx1036", None)
    assert apu.unified_memory
    assert apu.total_memory == 536870912 + 16674312192
    assert apu.free_memory == apu.total_memory - 16146432 - 29425664


def test_the_board_s_own_name_comes_first(tmp_path: Path) -> None:
    root = plant(desktop(tmp_path), {"sys/class/drm/renderD128/device/product_name": "Instinct MI300X\n"})
    assert read_kfd(root)[0].name == "Instinct MI300X"


def test_facts_without_a_file_are_unknown(tmp_path: Path) -> None:
    root = plant(tmp_path, {f"{NODES}/1/properties": captured("kfd_7900xtx.txt"), "dev/kfd": ""})
    (gpu,) = read_kfd(root)
    assert gpu == dataclasses.replace(
        RX_7900_XTX,
        name="AMD GPU (gfx1100)",
        total_memory=None,
        free_memory=None,
        driver_version=None,
        runtime_version=None,
    )


def test_nodes_are_counted_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    nodes = {f"{NODES}/{node}/properties": f"simd_count 4\nunique_id {node}\n" for node in (10, 9, 2)}
    gpus = read_kfd(plant(tmp_path, nodes | {"dev/kfd": ""}))
    assert [gpu.uuid for gpu in gpus] == [f"GPU-{node:016x}" for node in (2, 9, 10)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{NODES}/0/properties": captured("kfd_cpu_node.txt")}, "the amdgpu driver finds no GPU"),
        ({f"{NODES}/0/properties": captured("kfd_7900xtx.txt")}, "this user may not open /dev/kfd"),
    ],
)
def test_no_gpu_has_a_reason(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        read_kfd(plant(tmp_path, files))


@pytest.mark.parametrize(
    ("version", "name"),
    [(110000, "gfx1100"), (90010, "gfx90a"), (90402, "gfx942"), (100306, "gfx1036"), (120001, "gfx1201"), (0, None)],
)
def test_target_names(version: int, name: str | None) -> None:
    assert target_name(version) == name


@given(st.text(), st.text("0123456789 abcdefx,\t\n#"))
def test_no_text_breaks_the_parsers(text: str, likely: str) -> None:
    for sample in (text, likely):
        assert all(value >= 0 for value in parse_properties(sample).values())
        assert all(isinstance(name, str) for name in parse_marketing_names(sample).values())
        with pytest.raises(ProbeFailed):
            rocm_smi.parse_report(sample)


def test_rocm_smi() -> None:
    card, apu = rocm_smi.parse_report(captured("rocm_smi_7900xtx.json"))
    assert card == dataclasses.replace(RX_7900_XTX, runtime_version=None)
    assert (apu.index, apu.name, apu.uuid) == (1, "AMD GPU (gfx1036)", None)
    assert apu.unified_memory


def test_an_old_rocm_smi_spells_the_name_otherwise() -> None:
    (gpu,) = rocm_smi.parse_report(captured("rocm_smi_5_4.json"))
    assert (gpu.name, gpu.architecture, gpu.uuid) == ("Instinct MI100", None, "GPU-1a2b3c4d5e6f7081")
    assert (gpu.total_memory, gpu.free_memory) == (34342961152, 34332000256)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("No AMD GPUs specified", "not JSON"),
        ("{", "not JSON"),
        ("{}", "reports no GPU"),
        ('{"card0": 7, "system": []}', "reports no GPU"),
    ],
)
def test_rocm_smi_without_a_gpu(text: str, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        rocm_smi.parse_report(text)


def test_rocm_smi_is_run_where_the_kernel_s_files_are_missing(tmp_path: Path) -> None:
    program = tmp_path / "bin/rocm-smi"
    plant(tmp_path, {"bin/rocm-smi": f"#!/bin/sh\ncat <<'END'\n{captured('rocm_smi_7900xtx.json')}END\n"})
    program.chmod(0o755)
    environ = {"PATH": f"{program.parent}:/bin:/usr/bin", "HIP_VISIBLE_DEVICES": "0"}
    (gpu,) = probe_rocm(timeout=20, system="linux", environ=environ, root=tmp_path)
    assert gpu.name == "AMD Radeon RX 7900 XTX"


@pytest.mark.parametrize(
    ("environ", "uuids"),
    [
        ({}, ["GPU-a", "GPU-b", "GPU-c"]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, ["GPU-c", "GPU-a"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["GPU-a"]),
        # The driver's list is cut first, and HIP counts what is left of it.
        ({"ROCR_VISIBLE_DEVICES": "GPU-c,GPU-b", "HIP_VISIBLE_DEVICES": "1"}, ["GPU-b"]),
    ],
)
def test_hidden_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], uuids: list[str]
) -> None:
    gpus = tuple(dataclasses.replace(RX_7900_XTX, index=n, uuid=f"GPU-{uuid}") for n, uuid in enumerate("abc"))
    monkeypatch.setattr("llmserve.hardware.rocm.run_child", lambda target, *, timeout: json.loads(to_json(gpus)))
    visible = probe_rocm(timeout=1, system="linux", environ=environ, root=desktop(tmp_path))
    assert [gpu.uuid for gpu in visible] == uuids


@pytest.mark.parametrize(
    ("system", "environ", "reason"),
    [
        ("darwin", {}, "this is not Linux"),
        ("linux", {"PATH": "/nowhere"}, "the amdgpu compute driver is not loaded"),
    ],
)
def test_no_driver_has_a_reason(tmp_path: Path, system: str, environ: dict[str, str], reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        probe_rocm(timeout=1, system=system, environ=environ, root=tmp_path)
