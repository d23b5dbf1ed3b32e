"""What the user's settings say of single models, looked up by name or alias. Pure."""

from __future__ import annotations

from collections.abc import Collection

from llmserve.settings import ModelSettings, Settings
from llmserve.types import InstalledModel

_NOTHING_SAID = ModelSettings(name="")


class ModelRules:
    """The tables `[models."NAME"]` and `[[groups]]` of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._models = {model.name: model for model in settings.models or ()}
        self._groups = settings.groups or ()

    def of(self, model: InstalledModel) -> ModelSettings:
        names = (model.name, *model.aliases)
        return next((self._models[name] for name in names if name in self._models), _NOTHING_SAID)

    def preloaded(self) -> tuple[str, ...]:
        """The models to load at the start."""
        return tuple(model.name for model in self._models.values() if model.preload)

    def apart(self, model: InstalledModel, other: InstalledModel) -> bool:
        """Whether these two may not be loaded at the same time."""
        return any(
            not group.together and _in(model, group.models) and _in(other, group.models) for group in self._groups
        )

    def companions(self, model: InstalledModel) -> tuple[str, ...]:
        """The names, as written in the settings, of the models that are to be loaded where this one is."""
        own = {model.name, *model.aliases}
        groups = [group.models for group in self._groups if group.together and _in(model, group.models)]
        return tuple(name for names in groups for name in names if name not in own)


def _in(model: InstalledModel, names: Collection[str]) -> bool:
    return not {model.name, *model.aliases}.isdisjoint(names)
