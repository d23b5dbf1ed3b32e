"""`python -m llmserve.store.catalog_refresh [--check] [FILE]`: what the Hub says of the models of a catalog file.

Every repository and file is looked up (`HF_ENDPOINT` is honoured), and sizes and digests that are not stated yet are
filled in. One that is stated and differs is never replaced: somebody has to find out why. Exit code 1 where a
repository or file is missing or differs.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmserve.errors import LlmserveError
from llmserve.store.names import HubReference, parse_name
from llmserve.store.sources.hub_choice import choose_files
from llmserve.store.sources.hub_errors import hub_errors
from llmserve.store.sources.huggingface import Listing, ask

# A variant as an inline table on a line of its own, which is how the catalog writes those of the Hub.
_VARIANT = re.compile(r"(?P<before>\s*)(?P<table>\{.*\})(?P<after>,?\s*)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the catalog with what is now known, and the problem with its variant, if there is one."""

    line: str
    problem: str | None = None


def refresh(text: str) -> tuple[str, tuple[str, ...]]:
    """The text of a catalog with sizes and digests filled in, and every problem in a sentence. Asks the Hub."""
    look_up = cache(_listing)
    findings = [_refreshed(line, look_up) for line in text.splitlines(keepends=True)]
    return "".join(finding.line for finding in findings), tuple(f.problem for f in findings if f.problem)


def _refreshed(line: str, look_up: Any) -> Finding:
    match = _VARIANT.fullmatch(line)
    if match is None:
        return Finding(line)
    try:
        variant = tomllib.loads(f"variant = {match['table']}")["variant"]
        reference = parse_name(f"{variant['source']}:{variant.get('file') or variant['format']}")
    except (tomllib.TOMLDecodeError, KeyError, LlmserveError):
        return Finding(line)
    if not isinstance(reference, HubReference):
        return Finding(line)
    try:
        known = _known(reference, look_up(HubReference(reference.owner, reference.repository, reference.revision)))
    except LlmserveError as error:
        return Finding(line, f"{reference}: {error.message}")
    for key, value in known.items():
        if variant.get(key, value) != value:
            return Finding(line, f"{reference}: `{key}` is {variant[key]} in the catalog and {value} on the Hub")
    added = "".join(f", {key} = {_toml(value)}" for key, value in known.items() if key not in variant)
    table = f"{match['table'][:-1].rstrip()}{added} }}" if added else match["table"]
    return Finding(f"{match['before']}{table}{match['after']}")


def _listing(reference: HubReference) -> Listing:
    with hub_errors(reference):
        return ask(reference)


def _known(reference: HubReference, listing: Listing) -> Mapping[str, int | str]:
    """Size of all files and, of a single one, its digest. Raises `LlmserveError` where the files are not there."""
    names = choose_files(reference, tuple(listing.files))
    files = [listing.files[name] for name in names]
    if not all(files):
        return {}
    known: dict[str, int | str] = {"size": sum(file.size_bytes for file in files if file)}
    if len(files) == 1 and files[0] is not None and files[0].is_lfs:
        known["sha256"] = files[0].etag
    return known


def _toml(value: int | str) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/refresh-catalog")
    parser.add_argument("file", nargs="?", type=Path, default=Path("models.toml"))
    parser.add_argument("--check", action="store_true", help="tell what is wrong and write nothing")
    arguments = parser.parse_args()
    text = arguments.file.read_text(encoding="utf-8")
    refreshed, problems = refresh(text)
    if refreshed != text and not arguments.check:
        arguments.file.write_text(refreshed, encoding="utf-8")
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
