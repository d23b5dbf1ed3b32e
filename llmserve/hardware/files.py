"""Facts out of the small text files in which a kernel tells them."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file without the space around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def whole_number(text: str) -> int | None:
    """A number written in decimal digits alone; None for anything else ("max", "-1", "")."""
    return int(text) if text.isascii() and text.isdigit() else None


def hexadecimal(text: str) -> int | None:
    """A number in hexadecimal, with or without 0x; None for anything else."""
    try:
        return int(text, 16)
    except ValueError:
        return None
