"""Vulkan is present when loader, driver and device are."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.hardware.vulkan import parse_manifest, read_vulkan
from tests.hardware.trees import plant

RADEON = (
    '{"ICD": {"api_version": "1.3.289", "library_path": "/usr/lib/libvulkan_radeon.so"}, "file_format_version": "1"}'
)
LAVAPIPE = '{"ICD": {"library_path": "libvulkan_lvp.so"}}'
LOADER = {"usr/lib/x86_64-linux-gnu/libvulkan.so.1": ""}
DRIVERS = {
    "usr/share/vulkan/icd.d/radeon_icd.x86_64.json": RADEON,
    "usr/share/vulkan/icd.d/lvp_icd.x86_64.json": LAVAPIPE,
}
DEVICE = {"dev/dri/renderD128": ""}


@pytest.mark.parametrize(
    ("files", "present", "finding"),
    [
        (LOADER | DRIVERS | DEVICE, True, "loader and drivers are installed (libvulkan_radeon.so)"),
        ({"usr/lib64/libvulkan.so.1": ""} | DRIVERS | {"dev/nvidia0": ""}, True, "loader and drivers are installed"),
        (DRIVERS | DEVICE, False, "none, because the Vulkan loader is not installed"),
        (LOADER | DEVICE, False, "none, because no driver for a GPU is installed"),
        (LOADER | DEVICE | {"etc/vulkan/icd.d/lvp.json": LAVAPIPE}, False, "none, because no driver for a GPU"),
        (LOADER | DEVICE | {"etc/vulkan/icd.d/broken.json": "{"}, False, "none, because no driver for a GPU"),
        (LOADER | DRIVERS, False, "none, because there is no GPU device in /dev"),
        (LOADER | {"usr/share/vulkan/icd.d/folder.json/file": ""}, None, "unknown, because"),
        ({}, False, "none, because the Vulkan loader is not installed"),
    ],
)
def test_linux(tmp_path: Path, files: dict[str, str], present: bool | None, finding: str) -> None:
    found = read_vulkan(system="linux", environ={}, root=plant(tmp_path, files))
    assert found.present is present
    assert found.finding.startswith(finding)


def test_a_mac_with_moltenvk(tmp_path: Path) -> None:
    files = {
        "opt/homebrew/lib/libvulkan.1.dylib": "",
        "opt/homebrew/etc/vulkan/icd.d/MoltenVK_icd.json": '{"ICD": {"library_path": "../libMoltenVK.dylib"}}',
    }
    assert read_vulkan(system="darwin", environ={}, root=plant(tmp_path, files)).present is True


def test_another_system_is_unknown(tmp_path: Path) -> None:
    assert read_vulkan(system="win32", environ={}, root=tmp_path).present is None


def test_the_environment_names_loader_and_driver(tmp_path: Path) -> None:
    root = plant(tmp_path, DEVICE | {"own/libvulkan.so.1": "", "own/driver.json": RADEON})
    environ = {
        "LD_LIBRARY_PATH": f"/nowhere:{tmp_path / 'own'}",
        "VK_DRIVER_FILES": f"{tmp_path / 'own/driver.json'}:/nowhere.json",
    }
    assert read_vulkan(system="linux", environ=environ, root=root).present is True


def test_a_driver_in_the_user_s_home_counts(tmp_path: Path) -> None:
    root = plant(tmp_path, LOADER | DEVICE | {"home/ann/.local/share/vulkan/icd.d/radeon.json": RADEON})
    assert read_vulkan(system="linux", environ={"HOME": str(tmp_path / "home/ann")}, root=root).present is True


@pytest.mark.parametrize(
    ("text", "library"),
    [
        (RADEON, "/usr/lib/libvulkan_radeon.so"),
        ("", None),
        ("[]", None),
        ('{"ICD": {}}', None),
        ('{"ICD": {"library_path": 3}}', None),
        ('{"layer": {"library_path": "libVkLayer.so"}}', None),
    ],
)
def test_manifests(text: str, library: str | None) -> None:
    assert parse_manifest(text) == library
