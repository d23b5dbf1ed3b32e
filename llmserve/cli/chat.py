"""The interactive chat: a loop of reading, answering and small commands."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.cli.answer import Answer, stream_answer, talk_about
from llmserve.cli.parameters import PARAMETER_TYPES, Message, Parameters
from llmserve.cli.terminal import show_error, talk
from llmserve.errors import Conflict, InvalidRequest, LlmserveError

if TYPE_CHECKING:
    from llmserve.client import Gateway

HELP = f"""\
/set                  show the parameters
/set NAME VALUE       set one: {", ".join(PARAMETER_TYPES)}
/set NAME             leave it to the server again
/clear                forget the conversation
/save FILE            write the conversation to a new file (.json for the messages, anything else for Markdown)
/help                 this list
/bye                  leave, as Ctrl-D does

Alt-Enter begins another line; \"\"\" before and after a text keeps all of its lines together.
Ctrl-C stops an answer."""


@dataclass(slots=True)
class Chat:
    """One conversation with one model. `verbose` tells the figures after each answer."""

    gateway: Gateway
    model: str
    parameters: Parameters
    verbose: bool = False
    conversation: list[Message] = field(default_factory=list)

    def loop(self, read: Callable[[], str]) -> None:
        """Answer what `read` returns until it raises `EOFError` or says `/bye`; errors are told and survived."""
        talk("/help lists the commands, /bye or Ctrl-D leaves")
        while True:
            try:
                text = read()
                if text in {"/bye", "/exit"}:
                    return
                self.handle(text)
            except EOFError:
                return
            except KeyboardInterrupt:
                talk("(Ctrl-D or /bye leaves)")
            except LlmserveError as error:
                show_error(error.message, error.hint)

    def handle(self, text: str) -> None:
        """Do what one line says: a command if it starts with a slash, else a message. Raises `LlmserveError`."""
        if not text.strip():
            return
        if not text.startswith("/"):
            self.answer(text)
            return
        name, _, argument = text[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "set": self.set,
            "clear": self.clear,
            "save": self.save,
            "help": self.help,
        }
        if name not in commands:
            similar = difflib.get_close_matches(name, [*commands, "bye"], n=1)
            hint = f"did you mean `/{similar[0]}`?" if similar else "`/help` lists the commands"
            raise InvalidRequest(f"there is no command `/{name}`", hint=hint)
        commands[name](argument.strip())

    def answer(self, text: str) -> None:
        """Send a message and print the answer. Ctrl-C ends the answer; what had come by then stays in the chat.

        A message that got no answer at all is taken back, so that the roles keep alternating.
        """
        question: Message = {"role": "user", "content": text}
        answer = Answer(started=time.monotonic())
        try:
            stream_answer(self.gateway, self.parameters.request(self.model, [*self.conversation, question]), answer)
        except KeyboardInterrupt:
            talk("(stopped)")
        if answer.text:
            self.conversation += [question, {"role": "assistant", "content": answer.text}]
        if self.verbose:
            talk_about(answer, load_seconds=None)

    def set(self, argument: str) -> None:
        """`/set NAME VALUE`, `/set NAME`, `/set`."""
        if argument:
            name, _, value = argument.partition(" ")
            self.parameters = self.parameters.changed(name.replace("-", "_"), value.strip())
            return
        for name in PARAMETER_TYPES:
            value = getattr(self.parameters, name)
            talk(f"{name:<12}  {'(the server decides)' if value is None else value}")

    def clear(self, argument: str) -> None:
        """`/clear`: the parameters, the system message among them, stay."""
        self.conversation.clear()
        talk("the conversation is forgotten")

    def save(self, argument: str) -> None:
        """`/save FILE`: never over a file that exists."""
        if not argument:
            raise InvalidRequest("where to?", hint="`/save FILE` writes the conversation to FILE")
        path = Path(argument).expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.transcript(as_json=path.suffix == ".json"))
        except FileExistsError as error:
            raise Conflict(f"`{path}` exists already", hint="choose another name") from error
        except OSError as error:
            raise InvalidRequest(f"cannot write `{path}`: {error.strerror}") from error
        talk(f"saved to {path}")

    def help(self, argument: str) -> None:
        """`/help`."""
        talk(HELP)

    def transcript(self, *, as_json: bool) -> str:
        """The conversation, with its system message, as text: JSON messages or Markdown."""
        system = [{"role": "system", "content": self.parameters.system}] if self.parameters.system else []
        messages = [*system, *self.conversation]
        if as_json:
            return json.dumps(messages, indent=2, ensure_ascii=False) + "\n"
        return "\n".join(f"## {message['role']}\n\n{message['content']}\n" for message in messages)
