"""Options that more than one command has, with the names of the settings they override."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from llmserve.choices import KvType

Function = TypeVar("Function", bound=Callable[..., Any])


def plan_options(function: Function) -> Function:
    """The options that override a plan; their values are checked by `load_settings`."""
    options = (
        click.option("--context", type=int, metavar="TOKENS", help="The longest sequence."),
        click.option("--parallel", type=int, metavar="N", help="Sequences computed at the same time."),
        click.option("--threads", type=int, metavar="N", help="CPU threads that compute."),
        click.option("--kv-type", type=click.Choice(get_args(KvType)), help="How keys and values are stored."),
        click.option("--gpu-layers", type=int, metavar="N", help="Layers that a GPU computes."),
    )
    for option in reversed(options):
        function = option(function)
    return function
