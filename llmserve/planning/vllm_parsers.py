"""Which of vLLM's parsers read a model's tool calls and thoughts: from its architecture and its chat template.

The names are those of `vllm/tool_parsers` and `vllm/reasoning` in vLLM 0.32. Nothing is guessed from a model's name: a
template says in which form calls are written, and where it does not, there is no parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmserve.types import ModelInfo, ParserNames


@dataclass(frozen=True, slots=True)
class _Row:
    """A parser, for templates that hold one of `texts`, of models of one of `architectures` (empty: of any)."""

    parser: str
    texts: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    def fits(self, architecture: str, template: str) -> bool:
        if self.architectures and not architecture.startswith(self.architectures):
            return False
        return not self.texts or any(text in template for text in self.texts)


# The first row that fits counts: forms that share a mark with a commoner one stand before it.
_TOOLS = (
    _Row("openai", architectures=("gpt_oss",)),
    _Row("deepseek_v32", ("<｜DSML｜",)),
    _Row("deepseek_v31", ("<｜tool▁sep｜>{{", "tool▁sep｜>' + tool['function']['arguments']"), ("deepseek",)),
    _Row("deepseek_v3", ("<｜tool▁calls▁begin｜>",)),
    _Row("kimi_k2", ("<|tool_calls_section_begin|>",)),
    _Row("minimax_m2", ("<minimax:tool_call>",)),
    _Row("seed_oss", ("<seed:tool_call>",)),
    _Row("glm45", ("<arg_key>",)),
    _Row("step3p5", ("<function=",), ("step3p5",)),
    _Row("qwen3_coder", ("<function=",)),
    _Row("mistral", ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]")),
    _Row("llama4_pythonic", architectures=("llama4",)),
    _Row("llama3_json", ("<|python_tag|>", '"parameters": dictionary of argument name')),
    _Row("functiongemma", ("<start_function_call>",)),
    _Row("gemma4", ("<|tool_call>",), ("gemma4",)),
    _Row("lfm2", ("<|tool_call_start|>",)),
    _Row("cohere_command3", ("<|START_ACTION|>",)),
    _Row("internlm", ("<|plugin|>",)),
    _Row("granite4", ("<tool_call>",), ("granitemoehybrid",)),
    _Row("granite", ("<|tool_call|>",), ("granite",)),
    _Row("phi4_mini_json", ("<|tool|>",), ("phi3", "phi4")),
    _Row("jamba", ("<tool_calls>",), ("jamba",)),
    _Row("hunyuan_a13b", ("<tool_calls>",), ("hunyuan",)),
    _Row("olmo3", ("<function_calls>",), ("olmo3",)),
    _Row("ernie45", ("<tool_call>",), ("ernie4_5",)),
    # The commonest form, of Hermes and Qwen models and of many that followed them.
    _Row("hermes", ("<tool_call>",)),
)
_REASONING = (
    _Row("openai_gptoss", architectures=("gpt_oss",)),
    _Row("mistral", ("[THINK]",)),
    _Row("seed_oss", ("<seed:think>",)),
    _Row("gemma4", ("<|channel>",), ("gemma4",)),
    _Row("granite", ("Here is my thought process",), ("granite",)),
    # Both ends stand in the template where it can turn thoughts off, so the beginning may not be in the answer.
    _Row("deepseek_v3", ("</think>",), ("deepseek_v3", "deepseek_v32")),
    _Row("minimax_m2", ("<think>",), ("minimax_m2",)),
    _Row("glm45", ("<think>",), ("glm4",)),
    _Row("nemotron_v3", ("<think>",), ("nemotron",)),
    _Row("kimi_k2", ("<think>",), ("kimi",)),
    _Row("olmo3", ("<think>",), ("olmo3",)),
    _Row("ernie45", ("<think>",), ("ernie4_5",)),
    _Row("hunyuan_a13b", ("<think>",), ("hunyuan",)),
    _Row("step3p5", ("<think>",), ("step3p5",)),
    _Row("step3", ("<think>",), ("step3",)),
    _Row("qwen3", ("<think>", "</think>"), ("qwen3",)),
    # A template that opens the thoughts itself, as those of R1 and its distilled models do.
    _Row("deepseek_r1", ("<think>", "</think>")),
)


def choose_parsers(model: ModelInfo) -> ParserNames:
    """The parsers of `model`: those its catalog entry states, or else those its template calls for."""
    stated = model.parsers or ParserNames()
    template = model.chat_template or ""
    return ParserNames(
        tool=stated.tool or _first(_TOOLS, model.architecture, template),
        reasoning=stated.reasoning or _first(_REASONING, model.architecture, template),
    )


def _first(rows: Sequence[_Row], architecture: str, template: str) -> str | None:
    if not template:
        return None
    return next((row.parser for row in rows if row.fits(architecture, template)), None)
