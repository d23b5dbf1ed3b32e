"""Pictures of text: what a device's memory is filled with, and how values compare."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmserve.types import DeviceMemory

WIDTH = 48
SPEED_WIDTH = 32
# The parts of a device's memory, in the order of the bar: name, block, and letter where blocks cannot be shown.
_PARTS = (
    ("weights", "weights", "█", "W"),
    ("kv_cache", "KV cache", "▓", "K"),
    ("compute", "compute", "▒", "C"),
    ("overhead", "overhead", "░", "o"),
    ("saved_prefixes", "prefixes", "·", "p"),
)


def memory_bar(memory: DeviceMemory) -> str:
    """A bar of `WIDTH` characters, as long as what is available: its parts, then what stays free.

    Where more is needed than there is, the bar is as long as the need and `!` marks what is over.
    """
    available = memory.available if memory.available is not None else memory.total
    scale = max(memory.total, available, 1)
    # A correction has no place of its own; it belongs to what the runtime takes.
    sizes = [getattr(memory, name) + (memory.correction if name == "overhead" else 0) for name, *_ in _PARTS]
    bar, filled = "", 0
    for size, (*_, block, letter) in zip(sizes, _PARTS, strict=True):
        if size <= 0:
            continue
        filled += size
        # What is there is seen, however little it is.
        bar += (block if _has_blocks() else letter) * max(1, round(filled / scale * WIDTH) - len(bar))
    end = round(available / scale * WIDTH)
    return f"[{(bar[:end] + '!' * (len(bar) - end)).ljust(WIDTH)[:WIDTH]}]"


def legend() -> str:
    """What the characters of `memory_bar` mean."""
    return "  ".join(f"{block if _has_blocks() else letter} {name}" for _, name, block, letter in _PARTS)


def speed_bar(speed: float, fastest: float) -> str:
    """A bar as long, of `SPEED_WIDTH` characters, as `speed` is of the `fastest`."""
    return ("█" if _has_blocks() else "#") * max(1, round(speed / max(fastest, 1e-9) * SPEED_WIDTH))


def _has_blocks() -> bool:
    """Whether the characters can be written to stdout."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
