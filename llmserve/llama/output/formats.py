"""The output formats of the model families, and which of them a chat template speaks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from llmserve.errors import SettingsError
from llmserve.llama.output import call_form, deepseek_calls, gemma_calls, harmony, mistral_calls, reasoning
from llmserve.llama.output.answer import TextAnswer
from llmserve.llama.output.call_form import CallForm
from llmserve.llama.output.deepseek_calls import DeepSeekCalls
from llmserve.llama.output.gemma_calls import GemmaCalls
from llmserve.llama.output.harmony import HarmonyReader
from llmserve.llama.output.json_calls import TaggedJsonCalls
from llmserve.llama.output.mistral_calls import MistralCalls
from llmserve.llama.output.parser import OutputParser
from llmserve.llama.output.plain_calls import PlainCalls
from llmserve.llama.output.reader import CallReader
from llmserve.llama.output.reasoning import ReasoningControl, ReasoningStyle
from llmserve.llama.output.tag_calls import TagCalls
from llmserve.llama.output.template import reads
from llmserve.llama.output.tools import Tool, ToolSet

HARMONY = "harmony"
GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How one family writes thoughts and calls.

    `reader` makes a reader of calls for a request's tools, and `form` is how a call is written that a grammar
    enforces. `markers` are the texts of control tokens the parser has to see, although control tokens are otherwise
    invisible in text. Of the template: `accepts_tools`, it shows the model the tools itself; `thinks`, it knows of
    thoughts; `control`, what it reads about them.
    """

    name: str
    reader: Callable[[ToolSet], CallReader]
    form: CallForm
    reasoning: ReasoningStyle = reasoning.THINK
    markers: tuple[str, ...] = ()
    accepts_tools: bool = False
    thinks: bool = False
    control: ReasoningControl = field(default_factory=ReasoningControl)

    def parser(self, tools: Sequence[Tool] = (), prompt_end: str = "") -> OutputParser:
        """A parser for one answer. `prompt_end`: the last part of the rendered prompt, which may open the thoughts.

        Without `tools` nothing is a call.
        """
        known = ToolSet(tools)
        if self.name == HARMONY:
            return OutputParser(HarmonyReader(prompt_end), known)
        inside = self.reasoning.begins_inside(prompt_end)
        reader = self.reader(known) if known else None
        return OutputParser(TextAnswer(self.reasoning, reader, inside=inside), known)


@dataclass(frozen=True, slots=True)
class _Row:
    """A format, and texts of which one stands in the templates (or the GGUF architectures) that go with it."""

    format: OutputFormat
    texts: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    def fits(self, template: str, architecture: str | None) -> bool:
        return architecture in self.architectures or any(text in template for text in self.texts)


def detect(
    template: str, architecture: str | None = None, *, accepts_tools: bool | None = None, name: str | None = None
) -> OutputFormat:
    """The format of the model whose chat template and GGUF architecture these are; the one of that `name` if given.

    `accepts_tools`: whether the template shows tools to the model, as far as that is known better than from its text.
    Where it does not, the model gets the generic form of calls, which `generic_tools_prompt` explains, beside the
    family's own. Raises `SettingsError` for a name that is none.
    """
    found = by_name(name) if name is not None else _fitting(template, architecture)
    if accepts_tools is None:
        accepts_tools = reads(template, "tools")
    if not accepts_tools and found.name not in _READ_GENERIC_TOO:
        generic = by_name(GENERIC)
        found = replace(found, reader=generic.reader, form=generic.form, markers=found.markers + generic.markers)
    return replace(
        found,
        accepts_tools=accepts_tools,
        thinks=any(opening in template for opening in found.reasoning.openings),
        control=ReasoningControl.of(template),
        form=_trained_form(found.form, template),
    )


def _fitting(template: str, architecture: str | None) -> OutputFormat:
    return next((row.format for row in _rows() if row.fits(template, architecture)), by_name(GENERIC))


def by_name(name: str) -> OutputFormat:
    """The format a user asks for by its name. Raises `SettingsError` that lists them all."""
    formats = {row.format.name: row.format for row in _rows()}
    if name not in formats:
        raise SettingsError(f"there is no output format `{name}`", hint=f"one of {', '.join(formats)}")
    return formats[name]


def _trained_form(form: CallForm, template: str) -> CallForm:
    """The form this model of the family was trained on, where its template tells one generation from another."""
    if form is call_form.MISTRAL and mistral_calls.ARGS not in template:
        return call_form.MISTRAL_LIST
    if form is call_form.DEEPSEEK_V31 and "```json" in template:
        return call_form.DEEPSEEK_V3
    if form is call_form.GRANITE and "<|tool_call|>" not in template:
        return call_form.HERMES
    return form


def _tags(_: ToolSet) -> CallReader:
    return TagCalls()


def _seed_tags(_: ToolSet) -> CallReader:
    return TagCalls("<seed:tool_call>", "</seed:tool_call>")


def _mistral(_: ToolSet) -> CallReader:
    return MistralCalls()


def _deepseek(_: ToolSet) -> CallReader:
    return DeepSeekCalls()


def _gemma(_: ToolSet) -> CallReader:
    return GemmaCalls()


def _json_after(openings: tuple[str, ...], closings: tuple[str, ...]) -> Callable[[ToolSet], CallReader]:
    return lambda _: TaggedJsonCalls(openings, closings)


def _plain(openings: tuple[str, ...] = (), closings: tuple[str, ...] = ()) -> Callable[[ToolSet], CallReader]:
    return lambda tools: PlainCalls(tools, openings, closings)


_THINK = ("<think>", "</think>")
_TOOL_CALL = ("<tool_call>", "</tool_call>")
_DEEPSEEK_MARKS = (
    deepseek_calls.CALLS_BEGIN,
    deepseek_calls.CALLS_END,
    deepseek_calls.CALL_BEGIN,
    deepseek_calls.CALL_END,
    deepseek_calls.SEPARATOR,
)
_MISTRAL_MARKS = (mistral_calls.TOOL_CALLS, mistral_calls.ARGS, mistral_calls.CALL_ID, "[THINK]", "[/THINK]")
_HARMONY_MARKS = (harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.CONSTRAIN, harmony.END)
_GEMMA_MARKS = (*gemma_calls.OPENINGS, *gemma_calls.CLOSINGS, *gemma_calls.QUOTES, "<|channel>", "<channel|>")
_ARGUMENT_MARKS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_GRANITE_OPENINGS = ("<|tool_call|>", "<tool_call>", "<function_call>")
_GRANITE_CLOSINGS = ("</tool_call>", "</function_call>")
_PHI_OPENINGS = ("<|tool_call|>", "functools[", "<tool_call>")
_PHI_CLOSINGS = ("<|/tool_call|>", "</tool_call>")
_PYTHON_OPENINGS = ("<|python_start|>", "<|tool_call_start|>")
_PYTHON_CLOSINGS = ("<|python_end|>", "<|tool_call_end|>")
# Their readers know the generic form beside their own.
_READ_GENERIC_TOO = frozenset({GENERIC, "hermes", "qwen3-coder", "glm", "phi4", "gemma", HARMONY})


def _rows() -> tuple[_Row, ...]:
    """The formats, from the particular to the common: the first that fits is taken."""
    return (
        _Row(
            OutputFormat(HARMONY, _tags, call_form.HARMONY, markers=_HARMONY_MARKS),
            texts=(harmony.CHANNEL,),
            architectures=("gpt-oss",),
        ),
        _Row(
            OutputFormat("deepseek", _deepseek, call_form.DEEPSEEK_V31, markers=(*_THINK, *_DEEPSEEK_MARKS)),
            texts=(deepseek_calls.CALLS_BEGIN, deepseek_calls.CALL_BEGIN),
        ),
        _Row(
            OutputFormat(
                "mistral",
                _mistral,
                call_form.MISTRAL,
                reasoning.MISTRAL,
                markers=(*_THINK, *_MISTRAL_MARKS),
            ),
            texts=(mistral_calls.TOOL_CALLS,),
        ),
        _Row(
            OutputFormat("gemma4", _gemma, call_form.GEMMA_4, reasoning.GEMMA, markers=_GEMMA_MARKS),
            texts=("<|tool_call>",),
        ),
        _Row(
            OutputFormat("functiongemma", _gemma, call_form.FUNCTION_GEMMA, markers=_GEMMA_MARKS),
            texts=("<start_function_call>",),
        ),
        _Row(
            OutputFormat("glm", _tags, call_form.HERMES, markers=(*_THINK, *_TOOL_CALL, *_ARGUMENT_MARKS)),
            texts=("<arg_key>",),
        ),
        _Row(
            OutputFormat(
                "seed",
                _seed_tags,
                call_form.tagged("<seed:tool_call>", "</seed:tool_call>"),
                reasoning.SEED,
                markers=("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>"),
            ),
            texts=("<seed:tool_call>",),
        ),
        _Row(
            OutputFormat("qwen3-coder", _tags, call_form.HERMES, markers=(*_THINK, *_TOOL_CALL)),
            texts=("<function=",),
        ),
        _Row(
            OutputFormat(
                "nemotron",
                _json_after(("<TOOLCALL>",), ("</TOOLCALL>",)),
                call_form.listed("<TOOLCALL>", "</TOOLCALL>"),
                markers=_THINK,
            ),
            texts=("<TOOLCALL>",),
        ),
        _Row(
            OutputFormat(
                "granite",
                _json_after(_GRANITE_OPENINGS, _GRANITE_CLOSINGS),
                call_form.GRANITE,
                reasoning.GRANITE,
                markers=(*_THINK, *_GRANITE_OPENINGS),
            ),
            texts=("<|start_of_role|>",),
        ),
        _Row(
            OutputFormat(
                "phi4",
                _json_after(_PHI_OPENINGS, _PHI_CLOSINGS),
                call_form.listed("<|tool_call|>", "<|/tool_call|>"),
                markers=(*_THINK, "<|tool_call|>", "<|/tool_call|>"),
            ),
            texts=("<|tool|>", "<|tool_call|>"),
        ),
        _Row(
            OutputFormat(
                "pythonic",
                _plain(_PYTHON_OPENINGS, _PYTHON_CLOSINGS),
                call_form.LLAMA_4,
                markers=(*_THINK, *_PYTHON_OPENINGS, *_PYTHON_CLOSINGS),
            ),
            texts=_PYTHON_OPENINGS,
            architectures=("llama4",),
        ),
        _Row(OutputFormat("hermes", _tags, call_form.HERMES, markers=(*_THINK, *_TOOL_CALL)), texts=("<tool_call>",)),
        _Row(
            OutputFormat(
                "llama3-json", _plain(("<|python_tag|>",)), call_form.LLAMA, markers=(*_THINK, "<|python_tag|>")
            ),
            texts=("<|python_tag|>", "Environment: ipython"),
        ),
        _Row(
            OutputFormat("gemma", _plain(("<tool_call>",), ("</tool_call>",)), call_form.HERMES),
            texts=("<start_of_turn>",),
            architectures=("gemma", "gemma2", "gemma3", "gemma3n"),
        ),
        _Row(OutputFormat(GENERIC, _tags, call_form.HERMES, markers=(*_THINK, *_TOOL_CALL))),
    )
