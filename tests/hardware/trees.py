"""Fake file systems for probes, and the captured texts to fill them with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CAPTURES = Path(__file__).parent / "captures"


def captured(name: str) -> str:
    return (CAPTURES / name).read_text(encoding="utf-8")


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Write `files` (path below `root` -> text) and return `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
