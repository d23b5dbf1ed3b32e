from __future__ import annotations

from typing import Any

import pytest

from llmserve.errors import InvalidModel, InvalidRequest
from llmserve.llama.built_in_templates import CHATML
from llmserve.llama.chat_template import ChatTemplate, TooLong

MESSAGES = [{"role": "user", "content": "hi"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source, TOKENS).render({"messages": MESSAGES, "add_generation_prompt": True, **variables})


def test_chatml() -> None:
    assert render(CHATML) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': '<é>'}|tojson }}", '{"a": "<é>"}'),
        ("{{ {'b': '<é>', 'a': 1}|tojson(true, 1, [', ', ':'], true) }}", '{\n "a":1, \n "b":"<\\u00e9>"\n}'),
        ("{{ {'b': [1]}|tojson(separators=(',', ':')) }}", '{"b":[1]}'),
        ("{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}!", "hi!"),
        ("{{ documents is none }}{{ enable_thinking is defined }}", "TrueFalse"),
        ("{%- macro twice(x) -%}{{ x }}{{ x }}{%- endmacro -%}{{ twice('a') }}", "aa"),
        ("{% for m in messages %}\n{% if true %}x{% break %}{% endif %}\n{% endfor %}", "x"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ tools is none }}{{ add_generation_prompt }}", "TrueTrue"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
        ("{{ strftime_now('%Y')|length }}", "4"),
    ],
)
def test_what_templates_of_the_hub_rely_on(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% include 'x' %}{{", "x" * 300_000], ids=lambda text: text[:12])
def test_a_template_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(InvalidModel):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only pairs') }}",
        "{{ messages[9].content.x }}",
        "{{ 1 + 'a' }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler }}{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{% include 'other' %}",
        "{{ range(10**9) }}",
        "{{ 1 // 0 }}",
    ],
)
def test_what_a_template_may_not_do_costs_the_request_a_400(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render(source)
    assert caught.value.code == "template_error"
    assert len(caught.value.message) <= 300


def test_messages_cannot_be_changed_by_a_template() -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InvalidRequest):
        render("{{ messages[0].update({'content': 'x'}) }}", messages=messages)
    assert messages == [{"role": "user", "content": "hi"}]


def test_output_is_bounded() -> None:
    template = ChatTemplate("{{ messages[0].content }}{% for a in range(9999) %}aaaaaaaaaa{% endfor %}")
    assert len(template.render({"messages": MESSAGES}, 99_992)) == 99_992
    with pytest.raises(TooLong):
        template.render({"messages": MESSAGES}, 99_991)
