from __future__ import annotations

from typing import Any

import pytest

from llmserve.errors import SettingsError
from llmserve.llama.built_in_templates import BUILT_IN, built_in, choose_built_in
from llmserve.llama.chat_template import ChatTemplate
from llmserve.llama.conversation import shape
from llmserve.llama.template_capabilities import probe

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "llama3": "<B><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "gemma": "<B><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\nBye<|end|>\n"
    "<|assistant|>\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nBye</s>\n"
    "<|assistant|>\n",
    "harmony": "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant"
    "<|message|>Hello<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant",
    "deepseek": "<B>Be brief.<｜User｜>Hi<｜Assistant｜>Hello<｜User｜>Bye<｜Assistant｜>",
}


def render(name: str, messages: list[dict[str, Any]]) -> str:
    template = ChatTemplate(built_in(name), {"bos_token": "<B>"})
    shaped = shape(messages, probe(template.render))
    return template.render({"messages": shaped, "add_generation_prompt": True})


@pytest.mark.parametrize("name", RENDERED)
def test_a_familys_form(name: str) -> None:
    assert render(name, MESSAGES) == RENDERED[name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_template_shows_every_message(name: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": '{"a": "VALUE"}'}}
    tools = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "RESULT", "tool_call_id": "c"},
    ]
    text = render(name, [*MESSAGES, *tools])
    for shown in ("Be brief.", "Hi", "Hello", "Bye", "lookup", "VALUE", "RESULT"):
        assert shown in text


@pytest.mark.parametrize(
    ("architecture", "control_texts", "name"),
    [
        ("llama", ("<s>", "</s>", "<|im_start|>", "<|im_end|>"), "chatml"),
        ("llama", ("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"), "llama3"),
        ("llama", ("[INST]", "[/INST]"), "mistral"),
        ("phi3", ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), "phi4"),
        ("phi3", ("<|assistant|>", "<|end|>", "<|user|>"), "phi3"),
        ("llama", ("<|assistant|>", "<|user|>"), "zephyr"),
        ("gemma2", (), "gemma"),
        ("command-r", ("<|START_OF_TURN_TOKEN|>",), "command-r"),
        ("gpt-oss", ("<|start|>", "<|message|>", "<|end|>"), "harmony"),
        ("qwen2", (), "chatml"),
        (None, (), "chatml"),
    ],
)
def test_the_template_follows_from_the_vocabulary_then_the_architecture(
    architecture: str | None, control_texts: tuple[str, ...], name: str
) -> None:
    assert choose_built_in(architecture, control_texts) == name


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        built_in("chatlm")
    assert "chatml" in (caught.value.hint or "")
