"""Which format a chat template speaks of."""

from __future__ import annotations

import pytest

from llmserve.errors import SettingsError
from llmserve.llama.output import call_form
from llmserve.llama.output.formats import by_name, detect
from tests.llama.output.recorded import RECORDINGS

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        (TOOLS + "<tool_call>\n{'name': ...}\n</tool_call>", "qwen2", "hermes"),
        (TOOLS + "<tool_call>\n<function=example>\n<parameter=p>\n", "qwen3moe", "qwen3-coder"),
        (TOOLS + "<tool_call>{name}\n<arg_key>{key}</arg_key>", "glm4moe", "glm"),
        (
            TOOLS + "<|start_header_id|>{% if builtin_tools %}Environment: ipython{% endif %}<|python_tag|>",
            "llama",
            "llama3-json",
        ),
        (TOOLS + "<|header_start|>", "llama4", "pythonic"),
        (TOOLS + "<|tool_call_start|>[f(a=1)]<|tool_call_end|>", "lfm2", "pythonic"),
        (TOOLS + "[AVAILABLE_TOOLS][INST][TOOL_CALLS] [", "llama", "mistral"),
        (TOOLS + "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function", "deepseek2", "deepseek"),
        (TOOLS + "<|start|>assistant<|channel|>analysis<|message|>", "gpt-oss", "harmony"),
        (TOOLS + "<|tool_call>call:f{}<tool_call|>", "gemma4", "gemma4"),
        (TOOLS + "<start_function_call>", "gemma3", "functiongemma"),
        ("<start_of_turn>user", "gemma3", "gemma"),
        (TOOLS + "<|start_of_role|>available_tools<|end_of_role|><|tool_call|>", "granite", "granite"),
        (TOOLS + "<|tool|>{}<|/tool|><|tool_call|>", "phi3", "phi4"),
        (TOOLS + "<TOOLCALL>[", "nemotron_h", "nemotron"),
        (TOOLS + "<seed:tool_call>\n<function=f>", "seed_oss", "seed"),
        ("<|im_start|>user", "llama", "generic"),
        ("", None, "generic"),
    ],
)
def test_a_template_names_its_format(template: str, architecture: str | None, name: str) -> None:
    assert detect(template, architecture).name == name


@pytest.mark.parametrize("name", sorted({recording.format for recording in RECORDINGS}))
def test_every_format_can_be_asked_for_by_name(name: str) -> None:
    assert by_name(name).name == name


def test_a_format_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        by_name("klingon")
    assert caught.value.hint is not None
    assert "hermes" in caught.value.hint


@pytest.mark.parametrize(
    ("template", "accepts"),
    [
        ("{%- if tools is not none and tools|length > 0 %}", True),
        ("{% for tool in tools %}", True),
        ("You have no tools. {{ messages }}", False),
        ("{% if 'tools' in message and message['tools'] %}{{ message.tools }}", False),
        ("{{ builtin_tools }}", False),
        ("{{ tools", True),
    ],
)
def test_whether_the_template_shows_tools(template: str, accepts: bool) -> None:
    assert detect(template).accepts_tools is accepts


def test_what_is_known_better_of_the_template_counts_more_than_its_text() -> None:
    assert detect("{{ tools }}[TOOL_CALLS]", accepts_tools=False).form is call_form.HERMES


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (TOOLS + "[TOOL_CALLS] [", call_form.MISTRAL_LIST),
        (TOOLS + "[TOOL_CALLS]f[ARGS]{}", call_form.MISTRAL),
        (TOOLS + "<｜tool▁calls▁begin｜>```json", call_form.DEEPSEEK_V3),
        (TOOLS + "<｜tool▁calls▁begin｜>", call_form.DEEPSEEK_V31),
        (TOOLS + "<|start_of_role|><|tool_call|>", call_form.GRANITE),
        (TOOLS + "<|start_of_role|><tool_call>", call_form.HERMES),
        ("<|start_header_id|>Environment: ipython", call_form.HERMES),
    ],
)
def test_a_generation_of_a_family_has_its_own_form(template: str, form: call_form.CallForm) -> None:
    assert detect(template).form is form


@pytest.mark.parametrize(
    ("template", "thinks"), [("{{ '<think>' }}", True), ("[THINK][TOOL_CALLS]", True), ("{{ messages }}", False)]
)
def test_whether_the_model_thinks(template: str, thinks: bool) -> None:
    assert detect(template).thinks is thinks


def test_a_format_can_be_asked_for_against_the_template() -> None:
    found = detect("{{ tools }}<tool_call>{% if enable_thinking %}", name="mistral")
    assert (found.name, found.accepts_tools, found.control.switch) == ("mistral", True, "enable_thinking")


def test_a_template_without_end_is_read_in_no_time() -> None:
    assert not detect("{% " * 60_000 + "tool").accepts_tools
