"""`llmserve run`: one answer, or a chat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmserve.cli.model_names import known_models
from llmserve.cli.parameters import PARAMETER_TYPES, Parameters, read_schema
from llmserve.errors import LlmserveError, ModelNotFound
from llmserve.openai.adapters import split_adapter, with_adapter

if TYPE_CHECKING:
    from llmserve.client import Gateway
    from llmserve.settings import Settings
    from llmserve.store.store import Store
    from llmserve.types import InstalledModel


@click.command("run")
@click.argument("model", shell_complete=known_models)
@click.argument("prompt", nargs=-1)
@click.option("--system", type=PARAMETER_TYPES["system"], help="The system message.")
@click.option("--temperature", type=PARAMETER_TYPES["temperature"], help="0 always takes the likeliest token.")
@click.option("--top-p", type=PARAMETER_TYPES["top_p"], help="Choose among the likeliest tokens of this total mass.")
@click.option("--max-tokens", type=PARAMETER_TYPES["max_tokens"], help="The longest answer, in tokens.")
@click.option("--seed", type=PARAMETER_TYPES["seed"], help="Repeat the same choices.")
@click.option(
    "--json-schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer with JSON that satisfies the schema in FILE.",
)
@click.option("--verbose", is_flag=True, help="Tell tokens, tokens per second and times at the end, on stderr.")
def command(model: str, prompt: tuple[str, ...], json_schema: Path | None, verbose: bool, **flags: Any) -> None:
    """Answer PROMPT, or chat with MODEL.

    Text on standard input goes before PROMPT. A model that is missing is pulled first. The running server is used
    if there is one; otherwise a private one is started, and stopped at the end.
    """
    from llmserve.cli.connection import any_gateway
    from llmserve.cli.models import open_serving_store
    from llmserve.cli.question import read_question
    from llmserve.settings import load_settings

    parameters = Parameters(**flags, json_schema=None if json_schema is None else read_schema(json_schema))
    question = read_question(prompt)
    settings = load_settings()
    store = open_serving_store(settings)
    adapter = split_adapter(model)[1]
    name = with_adapter(_ready_model(store, model, settings).name, adapter)
    parameters = parameters.with_defaults(store.defaults(name))
    with any_gateway(settings) as gateway:
        load_seconds = _load(gateway, store, name)
        if question is None:
            _chat(gateway, name, parameters, settings, verbose=verbose)
        else:
            _answer(gateway, parameters.request(name, [{"role": "user", "content": question}]), load_seconds, verbose)


def _ready_model(store: Store, model: str, settings: Settings) -> InstalledModel:
    """The model, pulled if it was missing, in the variant that suits this machine."""
    from llmserve.cli.models import installed_model, refuse_ambiguous
    from llmserve.cli.progress import pull
    from llmserve.cli.pull import this_machine
    from llmserve.store.options import PullOptions

    try:
        return installed_model(store, model)
    except ModelNotFound:
        if split_adapter(model)[1] is not None:
            raise  # what has adapters was created here, and cannot be pulled
        refuse_ambiguous(model)
        return pull(store, model, PullOptions(machine=this_machine(settings)), settings)


def _load(gateway: Gateway, store: Store, model: str) -> float:
    """Have the model loaded; returns the seconds that took. Raises `Unavailable` where no engine here can run it."""
    from llmserve.cli.terminal import status

    started = time.monotonic()
    try:
        with status(f"loading {model} ..."):
            gateway.load(model)
    except LlmserveError as error:
        variant = _gguf_variant(store, model) if error.code == "no_engine" else None
        if variant is not None and store.find(model).format != "gguf":
            error.hint = f"`llmserve run {variant}` takes the GGUF variant, which llama.cpp runs"
        raise
    return time.monotonic() - started


def _gguf_variant(store: Store, model: str) -> str | None:
    """The name of a GGUF variant of a model of the catalog; None where there is none or the model is of no catalog."""
    if (entry := store.catalog.entry(model)) is None:
        return None
    label = next((variant.label for variant in entry.variants if variant.format == "gguf"), None)
    return None if label is None else f"{entry.name}-{label}"


def _answer(gateway: Gateway, request: dict[str, Any], load_seconds: float, verbose: bool) -> None:
    from llmserve.cli.answer import Answer, stream_answer, talk_about

    answer = Answer(started=time.monotonic())
    stream_answer(gateway, request, answer)
    if verbose:
        talk_about(answer, load_seconds=load_seconds)


def _chat(gateway: Gateway, model: str, parameters: Parameters, settings: Settings, *, verbose: bool) -> None:
    from llmserve.cli.chat import Chat
    from llmserve.cli.editor import line_editor
    from llmserve.settings import home_directory

    Chat(gateway, model, parameters, verbose).loop(line_editor(home_directory(settings) / "history"))
