"""The names by which requests choose among a model's adapters: `model@name`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from llmserve.openai.adapters import NO_ADAPTER
from llmserve.store.names import is_component, is_path


class Nameable(Protocol):
    """An adapter as manifests, bundles and lock files have it."""

    @property
    def name(self) -> str | None: ...
    @property
    def default(self) -> bool | None: ...


def is_adapter_name(text: str) -> bool:
    """Whether an adapter can be called `text`: as a part of a model's name, and nothing that means something else."""
    return is_component(text) and text != NO_ADAPTER and not is_path(text)


def are_sound_names(adapters: Iterable[Nameable]) -> bool:
    """Whether each name is one, and none occurs twice; one at most is the default, and that has a name."""
    adapters = tuple(adapters)
    names = [adapter.name for adapter in adapters if adapter.name is not None]
    defaults = [adapter.name for adapter in adapters if adapter.default]
    return (
        all(map(is_adapter_name, names)) and len({*names}) == len(names) and len(defaults) <= 1 and None not in defaults
    )
