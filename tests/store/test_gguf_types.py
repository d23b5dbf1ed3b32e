"""The tables of the GGUF format agree with the format's own package."""

from __future__ import annotations

import gguf
import pytest

from llmserve.store.gguf_types import FILE_TYPES, NUMBER_FORMATS, TENSOR_TYPES, ValueType


@pytest.mark.parametrize("kind", gguf.GGML_QUANT_SIZES, ids=lambda kind: kind.name)
def test_every_tensor_type_of_the_package_is_known(kind: gguf.GGMLQuantizationType) -> None:
    ours = TENSOR_TYPES[kind.value]
    assert (ours.name, ours.block_elements, ours.block_bytes) == (kind.name, *gguf.GGML_QUANT_SIZES[kind])


def test_tensor_types_are_those_of_llama_cpp() -> None:
    # The package is older than the engine, which has one type more.
    assert set(TENSOR_TYPES) - {kind.value for kind in gguf.GGML_QUANT_SIZES} == {42}


@pytest.mark.parametrize("kind", gguf.GGUFValueType, ids=lambda kind: kind.name)
def test_every_value_type_is_known(kind: gguf.GGUFValueType) -> None:
    assert ValueType(kind.value).name == kind.name
    assert (kind.name in {"STRING", "ARRAY"}) == (ValueType(kind.value) not in NUMBER_FORMATS)


@pytest.mark.parametrize("kind", set(gguf.LlamaFileType) - {gguf.LlamaFileType.GUESSED}, ids=lambda kind: kind.name)
def test_every_file_type_has_its_usual_name(kind: gguf.LlamaFileType) -> None:
    name = kind.name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE")
    assert FILE_TYPES[kind.value] == name
