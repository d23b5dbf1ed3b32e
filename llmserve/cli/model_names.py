"""The models that the tab key offers where a command wants one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from llmserve.errors import LlmserveError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def installed_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models that are installed, by every name."""
    return _matching(incomplete, installed=True)


def known_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Those of the catalog too."""
    return _matching(incomplete, installed=False)


def _matching(incomplete: str, *, installed: bool) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        names = sorted(name for name in set(_names(installed=installed)) if name.startswith(incomplete))
    except (LlmserveError, OSError):
        # The terminal is in the middle of a line, and no place for an error.
        return []
    return [CompletionItem(name) for name in names]


def _names(*, installed: bool) -> Iterable[str]:
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    here = store.manifests.names()
    yield from here
    for model in store.catalog.models:
        if not installed or model.name in here:
            yield from (model.name, *model.aliases)
