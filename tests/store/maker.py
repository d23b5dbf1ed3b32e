"""Makes models of descriptions, as `llmserve create` does."""

from __future__ import annotations

from pathlib import Path

from llmserve.store.copies import create
from llmserve.store.store import Store
from llmserve.types import InstalledModel

TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"


class Maker:
    """Writes descriptions and makes models of them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def __call__(self, text: str, name: str = "made:v1") -> InstalledModel:
        file = self.folder / "model.toml"
        file.write_text(text)
        return create(self.store, name, file)

    def with_template(self, name: str = "made:v1", template: str = TEMPLATE) -> InstalledModel:
        return self(f"base = 'tiny'\ntemplate = '''{template}'''\n", name)
