from __future__ import annotations

import pytest

from llmserve.errors import InvalidModel, InvalidRequest
from llmserve.llama.chat_template import CHATML, ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]


def test_chatml() -> None:
    assert ChatTemplate(CHATML).render(MESSAGES) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': '<é>'}|tojson }}", '{"a": "<é>"}'),
        ("{% for m in messages %}\n{% if true %}x{% break %}{% endif %}\n{% endfor %}", "x"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ tools is none }}{{ add_generation_prompt }}", "TrueTrue"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
        ("{{ strftime_now('%Y')|length }}", "4"),
    ],
)
def test_what_templates_of_the_hub_rely_on(source: str, expected: str) -> None:
    assert ChatTemplate(source, bos="<s>", eos="</s>").render(MESSAGES) == expected


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
        ChatTemplate(source).render(MESSAGES)
    assert caught.value.code == "template_error"
    assert len(caught.value.message) <= 300


def test_messages_cannot_be_changed_by_a_template() -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InvalidRequest):
        ChatTemplate("{{ messages[0].update({'content': 'x'}) }}").render(messages)
    assert messages == [{"role": "user", "content": "hi"}]
