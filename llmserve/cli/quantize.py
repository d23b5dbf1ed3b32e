"""`llmserve quantize`: a smaller model from a larger one."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import bytes_text, talk, warn


@click.command("quantize")
@click.argument("model", shell_complete=installed_models)
@click.argument("type_name", metavar="TYPE")
@click.option("-o", "--output", metavar="NAME", help="The name of what is made (family:tag).")
@click.option("--make-room", is_flag=True, default=None, help="Remove what was used longest ago, without asking.")
def command(model: str, type_name: str, output: str | None, make_room: bool | None) -> None:
    """Make a smaller model of a larger one.

    MODEL is an installed GGUF model; the work is done by llama.cpp's own function.

    \b
    TYPE is one of
      Q8_0, Q6_K             hardly any loss
      Q5_K_M, Q4_K_M, Q4_0   the usual ones; Q4_0 answers prompts fastest on most processors
      Q3_K_M, Q2_K           smaller, and worse
      F16, BF16, F32, and llama.cpp's other types that need no calibration

    Start from a model in 16 bits where there is one: what is quantized already loses quality a second time.
    """
    from llmserve.cli.models import installed_model, open_store
    from llmserve.cli.progress import budget, shown_progress
    from llmserve.settings import load_settings
    from llmserve.store.quantize import plan_quantization, quantize

    settings = load_settings({"make_room": make_room})
    store = open_store(settings)
    wanted = plan_quantization(store, installed_model(store, model).name, type_name, output)
    if wanted.again:
        warn(
            f"`{wanted.base.name}` is quantized already ({wanted.base.quantization}): what is made of it is worse than "
            f"{wanted.type} made of the original weights"
        )
    talk(f"making {wanted.target} ({wanted.type}, at most {bytes_text(wanted.most_bytes)})")
    with shown_progress() as report:
        made = quantize(store, wanted, report, budget(settings, report))
    talk(f"made {made.name} ({bytes_text(made.size_bytes)})")
