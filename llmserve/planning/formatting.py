"""Sizes and lists as people write them, for the plan's sentences."""

from __future__ import annotations

from collections.abc import Sequence


def human_bytes(count: int) -> str:
    """`count` bytes in binary units with two or three digits: "92 MiB", "1.2 GiB", "22.1 GiB", "503 GiB"."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        # 1023.5 would be rounded to "1024 MiB"; it belongs to the next unit.
        if size < 1023.5 or unit == "TiB":
            break
    decimals = 1 if size < 9.95 or (unit in {"GiB", "TiB"} and size < 99.95) else 0
    return f"{size:.{decimals}f} {unit}"


def human_tokens(count: int) -> str:
    """`count` tokens in short: "512", "16k" (1k is 1024), "1.5k"."""
    if count < 1024:
        return str(count)
    thousands = count / 1024
    decimals = 1 if thousands < 9.95 and count % 1024 else 0
    return f"{thousands:.{decimals}f}k"


def counted(count: int, noun: str) -> str:
    """`count` and its noun: "1 thread", "8 threads"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Sequence[str]) -> str:
    """`words` as prose: "a", "a and b", "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
