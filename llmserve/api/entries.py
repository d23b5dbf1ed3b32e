"""The entries of `GET /v1/models`: OpenAI's four keys, and what a person wants to know besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmserve.errors import InvalidModel, ModelNotFound
from llmserve.types import InstalledModel, ModelInfo

if TYPE_CHECKING:
    from llmserve.store.store import Store


class ModelEntries:
    """Entries for the models of `store`. All methods block on the disk; several threads may call them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Reading a model's header takes a while and gives the same for the same bytes.
        self._inspected: dict[str, ModelInfo | None] = {}

    def all(self) -> list[dict[str, Any]]:
        models = self._store.list()
        installed = {model.sha256 for model in models}
        self._inspected = {sha256: info for sha256, info in self._inspected.items() if sha256 in installed}
        return [self._entry(model) for model in models]

    def one(self, name: str) -> dict[str, Any]:
        """Raises `ModelNotFound`, `InvalidRequest` or `InvalidModel` as `Store.find` does."""
        return self._entry(self._store.find(name))

    def _entry(self, model: InstalledModel) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": int(model.pulled_at),
            "owned_by": "llmserve",
            "name": model.name,
            "aliases": list(model.aliases),
            "format": model.format,
            "quantization": model.quantization,
            "size_bytes": model.size_bytes,
        }
        if info := self.info(model):
            entry |= {
                "kind": info.kind,
                "architecture": info.architecture,
                "parameters": info.parameters,
                "context_length": info.context_length,
            }
        return entry

    def info(self, model: InstalledModel) -> ModelInfo | None:
        """What the model's files say, None where they cannot be read any more."""
        if model.sha256 not in self._inspected:
            try:
                self._inspected[model.sha256] = self._store.inspect(model.name)
            except (InvalidModel, ModelNotFound):
                # Removed or changed since it was listed.
                return None
        return self._inspected[model.sha256]
