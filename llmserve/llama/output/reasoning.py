"""How families mark what a model thinks before it answers, and how they are told whether and how much to think."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.llama.output.template import reads

# gpt-oss knows three levels and cannot leave thinking out.
_THREE_LEVELS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """Thoughts stand between one of `openings` and one of `closings`, at the beginning of an answer.

    `hidden` are texts that mark the answer itself and are not part of it.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    hidden: tuple[str, ...] = ()

    def begins_inside(self, prompt_end: str) -> bool:
        """Whether a prompt that ends like this has opened the thoughts itself."""
        return prompt_end.rstrip().endswith(self.openings)

    def is_over(self, prompt_end: str) -> bool:
        """Whether a prompt that ends like this has closed the thoughts itself, so that there will be none."""
        return prompt_end.rstrip().endswith(self.closings)


THINK = ReasoningStyle(("<think>",), ("</think>",))
# Granite 3.2 writes sentences, 3.3 tags.
GRANITE = ReasoningStyle(
    ("<think>", "Here is my thought process:", "Here's my thought process:"),
    ("</think>", "Here is my response:", "Here's my response:"),
    ("<response>", "</response>"),
)
MISTRAL = ReasoningStyle(("[THINK]", "<think>"), ("[/THINK]", "</think>"))
GEMMA = ReasoningStyle(("<|channel>thought",), ("<channel|>",))
SEED = ReasoningStyle(("<seed:think>",), ("</seed:think>",))
COMMAND = ReasoningStyle(("<|START_THINKING|>",), ("<|END_THINKING|>",), ("<|START_RESPONSE|>", "<|END_RESPONSE|>"))


@dataclass(frozen=True, slots=True)
class ReasoningControl:
    """The arguments of a chat template that say whether and how much to think; which of them the template reads."""

    switch: str | None = None
    effort: bool = False

    @classmethod
    def of(cls, template: str) -> ReasoningControl:
        """What `template` reads: `enable_thinking` (Qwen3, GLM), `thinking` (DeepSeek, Granite), `reasoning_effort`."""
        switches = ("enable_thinking", "thinking")
        switch = next((name for name in switches if reads(template, name)), None)
        return cls(switch, reads(template, "reasoning_effort"))

    def arguments(self, effort: str | None, enable_thinking: bool | None = None) -> dict[str, str | bool]:
        """Template arguments for a request's `reasoning_effort` and `enable_thinking`; empty where it states neither.

        An effort of "none" switches thinking off where the template can, every other switches it on.
        """
        arguments: dict[str, str | bool] = {}
        if effort is not None and enable_thinking is None:
            enable_thinking = effort != "none"
        if enable_thinking is not None and self.switch is not None:
            arguments[self.switch] = enable_thinking
        if effort is not None and self.effort:
            arguments["reasoning_effort"] = _THREE_LEVELS.get(effort, effort)
        return arguments


class ThinkingBudget:
    """Counts the tokens a model thinks, and says when it has to stop.

    Give it every token's text as it comes, until `done`: the model has stopped thinking, or has not begun. `limit`
    None only counts. `inside`: the prompt has opened the thoughts.
    """

    def __init__(self, style: ReasoningStyle, limit: int | None, *, inside: bool) -> None:
        self._style = style
        self._limit = limit
        self._tail = ""
        self._reach = max(map(len, style.openings + style.closings))
        self.inside = inside
        self.done = False
        self.used = 0

    @property
    def exhausted(self) -> bool:
        """Whether the thoughts have to end now, with `end`."""
        return self.inside and not self.done and self._limit is not None and self.used >= self._limit

    def accept(self, text: str) -> None:
        """One more token."""
        if self.done:
            return
        self._tail = (self._tail + text)[-(self._reach + len(text)) :]
        if not self.inside:
            self._open()
            return
        self.used += 1
        self.done = any(closing in self._tail for closing in self._style.closings)

    def end(self) -> str:
        """The text that ends the thoughts, which whoever writes the answer makes the model write."""
        self.done = True
        return f"\n{self._style.closings[0]}\n\n"

    def _open(self) -> None:
        begun = self._tail.lstrip()
        if begun.startswith(self._style.openings):
            self.inside = True
            self._tail = ""
        elif begun and not any(opening.startswith(begun) for opening in self._style.openings):
            self.done = True
