"""The hyperparameters of a model: the metadata under `<architecture>.`, with every number checked before use.

Several of the bounds are conditions that llama.cpp 0.5.0 asserts while it loads (`src/llama-model.cpp`,
`load_hparams`): a file that breaks one would not be refused there but end the process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from llmserve.store.gguf_bytes import quoted, refuse
from llmserve.store.gguf_header import GgufArray, GgufHeader, GgufValue

LAYERS_LIMIT = 512
EXPERTS_LIMIT = 1024
CONTEXT_LIMIT = 2**30
WIDTH_LIMIT = 2**24
HEADS_LIMIT = 2**16
HEAD_LENGTH_LIMIT = 2**16

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_NON_NEGATIVE_REALS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.scaling.factor",
    "rope.scale_linear",
)
_POSITIVE_REALS = ("rope.freq_base", "rope.freq_base_swa")


class Hyperparameters:
    """Typed, bounded access to one architecture's keys. Every method raises `InvalidModel` naming the key."""

    def __init__(self, header: GgufHeader) -> None:
        architecture = header.text("general.architecture")
        if architecture is None:
            refuse("it does not say its general.architecture")
        if not _ARCHITECTURE.fullmatch(architecture):
            refuse(f"general.architecture is not a name: {quoted(architecture)}")
        self.architecture = architecture
        self._header = header

    def has(self, key: str) -> bool:
        return self._key(key) in self._header.metadata

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """The integer at `<architecture>.<key>`, within `low` to `high`; without `default` it has to be there."""
        value = self._value(key)
        if value is None:
            if default is None:
                refuse(f"it does not say its {self._key(key)}")
            return default
        return self._bounded(key, value, low, high)

    def per_layer(self, key: str, layers: int, high: int, default: Sequence[int]) -> tuple[int, ...]:
        """One integer per layer, each 0 to `high`: an array of that many, or one number that holds for all."""
        value = self._value(key)
        if value is None:
            return tuple(default)
        if not isinstance(value, GgufArray):
            return (self._bounded(key, value, 0, high),) * layers
        items = self._items(key, value)
        if len(items) != layers:
            refuse(f"{self._key(key)} has {len(items)} items for {layers} layers")
        return tuple(self._bounded(key, item, 0, high) for item in items)

    def flags(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """One flag per layer, or None where the key is absent or not an array. Missing flags count as false."""
        value = self._value(key)
        if not isinstance(value, GgufArray):
            return None
        items = self._items(key, value)
        flags = [bool(self._bounded(key, int(item) if isinstance(item, bool) else item, 0, 2**32)) for item in items]
        return tuple((flags + [False] * layers)[:layers])

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            refuse(f"{self._key(key)} is not a boolean")
        return value

    def check(self, layers: int) -> None:
        """Check what no field of `ModelInfo` needs but llama.cpp computes with."""
        for key in (*_NON_NEGATIVE_REALS, *_POSITIVE_REALS):
            self._check_real(key, positive=key in _POSITIVE_REALS)
        for key in ("rope.dimension_count", "rope.dimension_count_swa"):
            self.integer(key, 0, HEAD_LENGTH_LIMIT, 0)
        scaling = self._header.text(self._key("rope.scaling.type"))
        if scaling is not None and scaling not in _ROPE_SCALINGS:
            refuse(f"{self._key('rope.scaling.type')} is {quoted(scaling)}, not one of {', '.join(_ROPE_SCALINGS)}")
        self._check_experts(layers)

    def _check_experts(self, layers: int) -> None:
        count = self.integer("expert_count", 0, EXPERTS_LIMIT, 0)
        if self.architecture.startswith("hunyuan") and count == 1:
            # These files say one expert for a dense model, and llama.cpp reads it as none.
            return
        used = max(self.per_layer("expert_used_count", layers, EXPERTS_LIMIT, [0] * layers))
        groups = self.integer("expert_group_count", 0, EXPERTS_LIMIT, 0)
        used_groups = self.integer("expert_group_used_count", 0, EXPERTS_LIMIT, 0)
        if used > count or (count > 0 and used == 0):
            refuse(f"it uses {used} of {count} experts")
        if groups > 0 and groups >= count:
            refuse(f"it has {groups} groups of {count} experts")
        if groups > 1 and (count % groups or not 0 < used_groups < groups):
            refuse(f"it uses {used_groups} of {groups} groups of {count} experts")

    def _check_real(self, key: str, *, positive: bool) -> None:
        value = self._value(key)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(f"{self._key(key)} is not a number")
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            refuse(f"{self._key(key)} is {value}")

    def _bounded(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            refuse(f"{self._key(key)} is not an integer")
        if not low <= value <= high:
            refuse(f"{self._key(key)} is {value}, outside {low} to {high}")
        return value

    def _items(self, key: str, value: GgufArray) -> tuple[int | float | bool | str, ...]:
        if value.items is None:
            refuse(f"{self._key(key)} has {value.count} items")
        return value.items

    def _value(self, key: str) -> GgufValue | None:
        return self._header.metadata.get(self._key(key))

    def _key(self, key: str) -> str:
        return f"{self.architecture}.{key}"
