"""Which of vLLM's parsers a model gets: the marks are those of published chat templates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.planning.vllm_parsers import choose_parsers
from llmserve.types import ParserNames
from tests.planning.models import LLAMA31_8B_BF16


def chosen(
    architecture: str, template: str | None, parsers: ParserNames | None = None
) -> tuple[str | None, str | None]:
    model = replace(LLAMA31_8B_BF16, architecture=architecture, chat_template=template, parsers=parsers)
    names = choose_parsers(model)
    return names.tool, names.reasoning


@pytest.mark.parametrize(
    ("architecture", "template", "tool", "reasoning"),
    [
        ("qwen2", "{{ tools }} <tool_call>\n</tool_call>", "hermes", None),
        ("qwen3", "<tool_call></tool_call> enable_thinking <think>\n\n</think>", "hermes", "qwen3"),
        ("qwen3_moe", "<tool_call>\n<function=example_function_name>", "qwen3_coder", None),
        ("qwen2", "{{'<｜Assistant｜><think>\\n'}} </think> <｜tool▁calls▁begin｜>", "deepseek_v3", "deepseek_r1"),
        ("llama", "Environment: ipython <|python_tag|>", "llama3_json", None),
        ("llama", 'Respond in the format {"name": x, "parameters": dictionary of argument name', "llama3_json", None),
        ("llama4", "{{ tools }}", "llama4_pythonic", None),
        ("mistral", "[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral", None),
        ("mistral3", "[TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("gpt_oss", "<|channel|>", "openai", "openai_gptoss"),
        ("glm4_moe", "<tool_call>{name}<arg_key> <think></think>", "glm45", "glm45"),
        ("granite", "<|tool_call|> Here is my thought process", "granite", "granite"),
        ("granitemoehybrid", "<tool_call>", "granite4", None),
        ("phi3", "<|tool|>", "phi4_mini_json", None),
        ("kimi_k2", "<|tool_calls_section_begin|>", "kimi_k2", None),
        ("seed_oss", "<seed:tool_call> <seed:think>", "seed_oss", "seed_oss"),
        ("lfm2", "<|tool_call_start|>", "lfm2", None),
        ("llama", "{% for message in messages %}<|im_start|>", None, None),
        ("gpt_oss", None, None, None),
    ],
)
def test_a_template_calls_for_its_parsers(
    architecture: str, template: str | None, tool: str | None, reasoning: str | None
) -> None:
    assert chosen(architecture, template) == (tool, reasoning)


def test_what_the_catalog_states_counts() -> None:
    assert chosen("qwen3", "<tool_call> <think></think>", ParserNames(tool="xlam")) == ("xlam", "qwen3")
    assert chosen("llama", None, ParserNames("hermes", "deepseek_r1")) == ("hermes", "deepseek_r1")
