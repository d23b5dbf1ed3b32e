"""`llmserve completion`: commands, options and models by the tab key."""

from __future__ import annotations

import os
from typing import ClassVar

import click
from click.shell_completion import BashComplete, add_completion_class, get_completion_class, split_arg_string

SHELLS = ("bash", "zsh", "fish")

# Bash ends words at colons, which the names of models have. So the line goes over as it was typed, and of each answer
# comes back what stands behind the last colon, as far as that has been typed outside of quotes.
_BASH = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" typed before="" type value
    typed="${line##*[[:space:]=]}"
    [[ $COMP_WORDBREAKS == *:* && $typed == *:* ]] && before="${typed%%:*}:"
    COMPREPLY=()
    while IFS="," read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(COMP_LINE="$line" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class LineComplete(BashComplete):
    """Completion in Bash from the whole line."""

    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        _, *words = split_arg_string(line) or [""]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])


def prepare() -> None:
    """Let click answer Bash by `LineComplete`."""
    add_completion_class(LineComplete)


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that teaches SHELL to complete.

    Commands, options and the names of models are completed.

    \b
    bash    eval "$(llmserve completion bash)"        in ~/.bashrc
    zsh     eval "$(llmserve completion zsh)"         in ~/.zshrc, behind compinit
    fish    llmserve completion fish | source         in ~/.config/fish/config.fish
    """
    from llmserve.cli.main import COMPLETION_VARIABLE, PROGRAM

    prepare()
    answers = get_completion_class(shell)
    if answers is None:
        raise click.UsageError(f"there is no completion for {shell}")
    root = click.get_current_context().find_root()
    click.echo(answers(root.command, {}, PROGRAM, COMPLETION_VARIABLE).source(), nl=False)
