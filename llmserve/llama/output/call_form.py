"""How calls are written, as data: what a grammar needs that makes a model write them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmserve.llama.output import deepseek_calls, gemma_calls, harmony, mistral_calls

NAME = "NAME"


@dataclass(frozen=True, slots=True)
class CallForm:
    """`opening`, then calls with `separator` between them, then `closing`.

    A call is `head` with NAME in the place of the function's, the arguments as a JSON object, and `tail`. `single`:
    one answer holds one call. `marker` is what begins calls and cannot begin anything else, None where nothing does;
    then `tag` may stand before the calls, for where they could not be told from the answer otherwise.
    """

    head: str
    tail: str = ""
    opening: str = ""
    closing: str = ""
    separator: str = ""
    marker: str | None = None
    tag: str | None = None
    single: bool = False

    def with_marker(self) -> CallForm:
        """The form in which something marks the calls, if there is one."""
        return self if self.tag is None else replace(self, opening=self.tag, marker=self.tag)


_OBJECT = f'{{"name": "{NAME}", "arguments": '


def tagged(opening: str, closing: str) -> CallForm:
    """Each call is an object between tags on lines of their own."""
    return CallForm(f"{opening}\n{_OBJECT}", f"}}\n{closing}", separator="\n", marker=opening)


def listed(opening: str, closing: str = "") -> CallForm:
    """The calls are a list of objects behind a tag."""
    return CallForm(_OBJECT, "}", f"{opening}[", f"]{closing}", ", ", marker=opening)


HERMES = tagged("<tool_call>", "</tool_call>")
LLAMA = CallForm(f'{{"name": "{NAME}", "parameters": ', "}", separator="; ", tag="<|python_tag|>")
LLAMA_4 = replace(LLAMA, tag="<|python_start|>")
GRANITE = listed("<|tool_call|>")
MISTRAL_LIST = CallForm(_OBJECT, "}", f"{mistral_calls.TOOL_CALLS} [", "]", ", ", marker=mistral_calls.TOOL_CALLS)
MISTRAL = CallForm(f"{mistral_calls.TOOL_CALLS}{NAME}{mistral_calls.ARGS}", marker=mistral_calls.TOOL_CALLS)
DEEPSEEK_V3 = CallForm(
    f"{deepseek_calls.CALL_BEGIN}function{deepseek_calls.SEPARATOR}{NAME}\n```json\n",
    f"\n```{deepseek_calls.CALL_END}",
    deepseek_calls.CALLS_BEGIN,
    deepseek_calls.CALLS_END,
    "\n",
    marker=deepseek_calls.CALLS_BEGIN,
)
DEEPSEEK_V31 = CallForm(
    f"{deepseek_calls.CALL_BEGIN}{NAME}{deepseek_calls.SEPARATOR}",
    deepseek_calls.CALL_END,
    deepseek_calls.CALLS_BEGIN,
    deepseek_calls.CALLS_END,
    marker=deepseek_calls.CALLS_BEGIN,
)
HARMONY = CallForm(
    f"{harmony.CHANNEL}commentary to=functions.{NAME} {harmony.CONSTRAIN}json{harmony.MESSAGE}", single=True
)
GEMMA_4 = CallForm(f"{gemma_calls.OPENINGS[0]}call:{NAME}", gemma_calls.CLOSINGS[0], marker=gemma_calls.OPENINGS[0])
FUNCTION_GEMMA = CallForm(
    f"{gemma_calls.OPENINGS[1]}call:{NAME}", gemma_calls.CLOSINGS[1], marker=gemma_calls.OPENINGS[1]
)
