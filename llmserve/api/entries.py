"""The entries of `GET /v1/models`: OpenAI's four keys, and what a person wants to know besides.

`info`, `details` and `status` are what Open WebUI reads: it then asks for usage, keeps embedding models out of the menu
of chats, sends its own tools only to models that know tools, and shows which models are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llmserve.dialects.ollama.models import details
from llmserve.errors import InvalidModel, ModelNotFound
from llmserve.openai.adapters import named_with, split_adapter, with_each_adapter
from llmserve.types import InstalledModel, ModelInfo

if TYPE_CHECKING:
    from llmserve.fleet.status import ModelStatus
    from llmserve.store.store import Store


class ModelEntries:
    """Entries for the models of `store`. All methods block on the disk; several threads may call them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Reading a model's header takes a while and gives the same for the same bytes.
        self._inspected: dict[str, ModelInfo | None] = {}

    def all(self, statuses: Iterable[ModelStatus] = ()) -> list[dict[str, Any]]:
        """Every installed model, and behind it one entry for each adapter that it can be asked for with.

        `statuses` are the fleet's.
        """
        by_name = {status.name: status for status in statuses}
        models = self._store.list()
        installed = {model.sha256 for model in models}
        self._inspected = {sha256: info for sha256, info in self._inspected.items() if sha256 in installed}
        return [self._entry(named, by_name.get(model.name)) for model in models for named in with_each_adapter(model)]

    def one(self, name: str, statuses: Iterable[ModelStatus] = ()) -> dict[str, Any]:
        """Raises `ModelNotFound`, `AdapterNotFound`, `InvalidRequest` or `InvalidModel` as `Store.find` does."""
        model = self._store.find(name)
        status = next((status for status in statuses if status.name == model.name), None)
        return self._entry(named_with(model, split_adapter(name)[1]), status)

    def _entry(self, model: InstalledModel, status: ModelStatus | None) -> dict[str, Any]:
        info = self.info(model)
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
            "details": {**details(model, info), "size": model.size_bytes},
            "info": {"meta": self._meta(model, info)},
            "status": _status(status),
        }
        base, adapter = split_adapter(model.name)
        if adapter is not None:
            entry["parent"] = base  # as vLLM has it
        if info is not None:
            entry |= {
                "kind": info.kind,
                "architecture": info.architecture,
                "parameters": info.parameters,
                "context_length": info.context_length,
            }
        return entry

    def _meta(self, model: InstalledModel, info: ModelInfo | None) -> dict[str, Any]:
        listed = self._store.catalog.find(model.name)
        described = {"description": listed.description} if listed is not None else {}
        hidden = {"hidden": True} if info is not None and info.kind != "generate" else {}
        # Its dozens of tools, 7,000 tokens with every message, are too much for who was never taught to call one.
        knows_tools = info is None or "tools" in (info.chat_template or "")
        capabilities = {"usage": True, "vision": False, "builtin_tools": knows_tools}
        return {**described, "capabilities": capabilities, **hidden}

    def info(self, model: InstalledModel) -> ModelInfo | None:
        """What the model's files say, None where they cannot be read any more."""
        if model.sha256 not in self._inspected:
            try:
                self._inspected[model.sha256] = self._store.inspect(split_adapter(model.name)[0])
            except (InvalidModel, ModelNotFound):
                # Removed or changed since it was listed.
                return None
        return self._inspected[model.sha256]


def _status(status: ModelStatus | None) -> dict[str, Any]:
    """In the words of llama.cpp's router."""
    if status is None or status.state == "stopping":
        return {"value": "unloaded"}
    if status.state == "failed":
        return {"value": "unloaded", "failed": True}
    return {"value": "loaded" if status.state == "ready" else "loading"}
