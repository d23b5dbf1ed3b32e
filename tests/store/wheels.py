"""Wheels that carry a model, and the catalog that knows it; light enough for a child process to import."""

from __future__ import annotations

import zipfile
from pathlib import Path

from llmserve.store.catalog import Catalog, CatalogModel, Variant

MEMBER = "tiny_model/tiny.Q4_1.gguf"


def write_wheel(directory: Path, content: bytes, name: str = "tiny-model", version: str = "1.0") -> Path:
    """A minimal valid wheel holding `content` as `MEMBER`."""
    distribution = name.replace("-", "_")
    path = directory / f"{distribution}-{version}-py3-none-any.whl"
    info = f"{distribution}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def catalog_of(sha256: str | None, size_bytes: int | None, name: str = "tiny:1m") -> Catalog:
    """A catalog of one model, which comes from the wheel."""
    variant = Variant("gguf", "F16", "pypi:tiny-model==1.0", MEMBER, size_bytes, sha256)
    return Catalog((CatalogModel(name, (name.partition(":")[0],), "MIT", "a tiny model", (variant,)),))
