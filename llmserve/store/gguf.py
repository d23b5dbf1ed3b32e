"""The GGUF inspector: what a model file says of itself, without loading it and without trusting it.

Both functions read at most the first 24 MiB, take well under a second and raise `InvalidModel` for everything that
is not a sound model file, so that native code never sees one. They do blocking I/O: not for the event loop.
"""

from __future__ import annotations

from pathlib import Path

from llmserve.store.gguf_bytes import open_header
from llmserve.store.gguf_header import GgufHeader, parse_header
from llmserve.store.gguf_model import describe
from llmserve.store.gguf_split import join, require_first, split_count
from llmserve.store.gguf_vocabulary import check_vocabulary
from llmserve.types import ModelInfo


def inspect_gguf(path: Path) -> ModelInfo:
    """Describe the model at `path`, after every check there is; of a split one, `path` is the first part."""
    with open_header(path) as source:
        header = parse_header(source)
        require_first(header)
        check_vocabulary(header, source)
    if split_count(header) > 1:
        header = join(header, path)
    return describe(header)


def read_header(path: Path) -> GgufHeader:
    """The metadata and tensor list of any GGUF file, checked for its format but not for making sense as a model."""
    with open_header(path) as source:
        return parse_header(source)


def read_whole_header(path: Path) -> GgufHeader:
    """As `read_header`, with the tensors of all parts where `path` is the first of a split model."""
    header = read_header(path)
    return join(header, path) if split_count(header) > 1 else header
