"""One answer: streamed to the terminal as it comes, and measured on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmserve.cli.terminal import print_answer, talk

if TYPE_CHECKING:
    from llmserve.client import Finish, Gateway


@dataclass(slots=True)
class Answer:
    """What has come of an answer so far. Times are of the monotonic clock; `finish` stays None if it was cut off."""

    started: float
    text: str = ""
    first_text: float | None = None
    last_text: float | None = None
    finish: Finish | None = None

    def first_token_seconds(self) -> float | None:
        return None if self.first_text is None else self.first_text - self.started

    def tokens_per_second(self) -> float | None:
        """The rate after the first token, as this client saw it; None for fewer than two tokens."""
        tokens = self.finish.completion_tokens if self.finish else None
        if tokens is None or tokens < 2 or self.first_text is None or self.last_text is None:
            return None
        seconds = self.last_text - self.first_text
        return (tokens - 1) / seconds if seconds > 0 else None


def stream_answer(gateway: Gateway, request: Mapping[str, Any], answer: Answer) -> None:
    """Print the answer to `request` on stdout while it comes, and gather it in `answer`.

    An interruption (Ctrl-C, an error) cancels the answer at the server and leaves in `answer` what had come. Whatever
    happens, the last line on stdout is complete.
    """
    from llmserve.client import Finish

    try:
        with closing(gateway.chat(request)) as events:
            for event in events:
                if isinstance(event, Finish):
                    answer.finish = event
                    continue
                answer.last_text = time.monotonic()
                answer.first_text = answer.first_text or answer.last_text
                answer.text += event.text
                print_answer(event.text)
    finally:
        if answer.text and not answer.text.endswith("\n"):
            print_answer("\n")
    if answer.finish is not None and answer.finish.reason == "length":
        talk("(the answer reached its limit of tokens)")


def talk_about(answer: Answer, *, load_seconds: float | None) -> None:
    """The figures of an answer, on stderr; one that is not known is left out."""
    finish = answer.finish
    if finish is None:
        return
    lines: list[str] = []
    if finish.prompt_tokens is not None:
        cached = "" if finish.cached_tokens is None else f" ({finish.cached_tokens} cached)"
        lines.append(f"prompt       {finish.prompt_tokens} tokens{cached}{_rate_text(finish.prompt_tokens_per_second)}")
    if finish.completion_tokens is not None:
        lines.append(f"answer       {finish.completion_tokens} tokens{_rate_text(answer.tokens_per_second())}")
    if (first := answer.first_token_seconds()) is not None:
        lines.append(f"first token  {first:.2f} s")
    if load_seconds is not None:
        lines.append(f"load         {load_seconds:.2f} s")
    talk()
    for line in lines:
        talk(line)


def _rate_text(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f", {tokens_per_second:.1f} tokens/s"
