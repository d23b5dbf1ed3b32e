"""Tools and reasoning through a real worker, whose tiny model writes nonsense unless it is made to write sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.llama.conftest import WorkerProcess, running, tiny_plan
from tests.llama.test_worker import events, post
from tests.tiny_gguf import CHATML, write_tiny_model

CONTEXT = 4096
# Shows tools and calls, and lets the model think.
THINKS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
)
KINDS = ["hello", "world"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_kind",
            "description": "Set the kind",
            "parameters": {
                "type": "object",
                "properties": {"kind": {"enum": KINDS}, "sure": {"type": "boolean"}},
                "required": ["kind", "sure"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "set_kind"}}


PLAN = tiny_plan(context=CONTEXT, kv_cells=2 * CONTEXT)


@pytest.fixture(scope="module", params=["no tools in the template", "tools and thoughts in the template"])
def chatty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    file = tmp_path_factory.mktemp("chatty") / "tiny.gguf"
    template = THINKS if request.param.startswith("tools") else CHATML
    with running(write_tiny_model(file, context=CONTEXT, chat_template=template), PLAN) as [worker]:
        yield worker


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    file = tmp_path_factory.mktemp("thinker") / "tiny.gguf"
    with running(write_tiny_model(file, context=CONTEXT, chat_template=THINKS), PLAN) as [worker]:
        yield worker


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello world"}]
    return {"model": "m", "messages": messages, "temperature": 1, "seed": 7, "max_tokens": 300, **fields}


def joined(worker: WorkerProcess, body: dict[str, Any]) -> tuple[str, str, list[tuple[str, str]], str | None]:
    """Content, reasoning, calls and finish reason of a stream's only choice."""
    content, reasoning, reason = "", "", None
    calls: list[list[str]] = []
    identities: set[str] = set()
    for event in events(worker, body):
        for choice in ChatCompletionChunk.model_validate(event).choices:
            content += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                if call.id is not None:
                    assert call.index == len(calls)
                    assert call.type == "function"
                    identities.add(call.id)
                    calls.append([call.function.name or "", ""])
                calls[call.index][1] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    assert len(identities) == len(calls)
    return content, reasoning, [(name, arguments) for name, arguments in calls], reason


def whole(worker: WorkerProcess, body: dict[str, Any]) -> tuple[str, str, list[tuple[str, str]], str | None]:
    answer = ChatCompletion.model_validate(post(worker, body)).choices[0]
    reasoning = (answer.message.model_extra or {}).get("reasoning_content") or ""
    calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or []]  # type: ignore[union-attr]
    assert answer.message.content is not None or calls
    return answer.message.content or "", reasoning, calls, answer.finish_reason


QUICK = {"thinking_token_budget": 4}


SAID = [{"role": "user", "content": "hello world"}]


def ask_tokens(worker: WorkerProcess, **fields: Any) -> dict[str, Any]:
    response = worker.client.post("/tokenize", json={"model": "m", "messages": SAID, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class TestCalls:
    @pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
    def test_a_demanded_call_is_made(self, chatty: WorkerProcess, choice: Any) -> None:
        for seed in range(3):
            body = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, seed=seed, **QUICK)
            content, _, calls, reason = whole(chatty, body)
            assert content == ""
            assert reason == "tool_calls"
            ((name, text),) = calls
            arguments = json.loads(text)
            if name == "set_kind":
                assert arguments.keys() == {"kind", "sure"}
                assert arguments["kind"] in KINDS
            else:
                assert (name, arguments, choice) == ("now", {}, "required")

    @pytest.mark.parametrize("choice", ["required", NAMED, "auto"], ids=["required", "named", "auto"])
    def test_a_joined_stream_is_the_whole_answer(self, chatty: WorkerProcess, choice: Any) -> None:
        body = chat(tools=TOOLS, tool_choice=choice, max_tokens=120, **QUICK)
        whole(chatty, body)  # Both go on from a prompt that is cached: kernels round otherwise where one is computed.
        assert joined(chatty, body) == whole(chatty, body)

    def test_calls_and_results_can_be_played_back(self, chatty: WorkerProcess) -> None:
        first = post(chatty, chat(tools=TOOLS, tool_choice=NAMED, **QUICK))["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "done"}
        messages = [*chat()["messages"], first, result]
        assert whole(chatty, chat(messages=messages, tools=TOOLS, max_tokens=8, **QUICK))[3] == "length"

    def test_a_schema_that_cannot_be_enforced_is_refused_only_where_it_is_strict(self, chatty: WorkerProcess) -> None:
        odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "items": {"type": "null"}}}}
        tool: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": odd}}
        body = chat(tools=[tool], tool_choice="required", parallel_tool_calls=False, **QUICK)
        assert post(chatty, body)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "odd"
        tool["function"]["strict"] = True
        response = chatty.client.post("/v1/chat/completions", json={**body, "tools": [TOOLS[0], tool]})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "tools[1].function.parameters"
        assert "`uniqueItems` at /properties/a" in response.json()["error"]["message"]

    def test_what_is_at_fault_is_named_where_the_answer_may_call(self, chatty: WorkerProcess) -> None:
        schema = {"type": "array", "uniqueItems": True}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        response = chatty.client.post("/v1/chat/completions", json=chat(tools=TOOLS, response_format=form))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "response_format.json_schema.schema"
        assert "`uniqueItems`" in response.json()["error"]["message"]

    def test_several_choices_have_calls_of_their_own(self, chatty: WorkerProcess) -> None:
        choices = post(chatty, chat(tools=TOOLS, tool_choice=NAMED, n=3, **QUICK))["choices"]
        identities = {choice["message"]["tool_calls"][0]["id"] for choice in choices}
        assert len(identities) == 3


class TestThoughts:
    @pytest.mark.parametrize("budget", [0, 1, 12])
    def test_a_budget_ends_the_thoughts(self, thinker: WorkerProcess, budget: int) -> None:
        body = chat(thinking_token_budget=budget, max_tokens=60)
        answer = post(thinker, body)
        message = answer["choices"][0]["message"]
        assert message["content"]
        assert "</think>" not in message["content"]
        details = answer["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] == budget
        assert joined(thinker, body) == whole(thinker, body)

    def test_without_a_budget_all_is_thought(self, thinker: WorkerProcess) -> None:
        content, reasoning, _, reason = whole(thinker, chat(max_tokens=30, ignore_eos=True))
        assert (content, reason) == ("", "length")
        assert reasoning

    @pytest.mark.parametrize(
        "off", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
    )
    def test_thinking_can_be_switched_off(self, thinker: WorkerProcess, off: dict[str, Any]) -> None:
        content, reasoning, _, _ = whole(thinker, chat(max_tokens=30, ignore_eos=True, **off))
        assert content
        assert reasoning == ""

    def test_a_schema_holds_for_the_answer_and_not_for_the_thoughts(self, thinker: WorkerProcess) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": KINDS}}}
        content, reasoning, _, reason = whole(thinker, chat(response_format=form, thinking_token_budget=10))
        assert json.loads(content) in KINDS
        assert reasoning
        assert reason == "stop"


class TestTokens:
    """`/tokenize` gives the prompt from which the same chat is answered."""

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"tools": TOOLS, "tool_choice": "required"},
            {"tools": TOOLS, "tool_choice": "none"},
            {"reasoning_effort": "none"},
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"messages": [*SAID, {"role": "assistant", "content": "hello"}], "continue_final_message": True},
        ],
        ids=repr,
    )
    def test_they_are_those_of_the_prompt(self, chatty: WorkerProcess, fields: dict[str, Any]) -> None:
        computed = chatty.stats()["prompt_tokens"]
        counted = ask_tokens(chatty, **fields)
        assert counted["max_model_len"] == CONTEXT
        assert counted["count"] == len(counted["tokens"])
        assert chatty.stats()["prompt_tokens"] == computed
        answer = post(chatty, {**chat(**fields), "max_tokens": 1})
        assert counted["count"] == answer["usage"]["prompt_tokens"]

    def test_they_are_told_as_the_vocabulary_writes_them(self, chatty: WorkerProcess) -> None:
        counted = ask_tokens(chatty, return_token_strs=True)
        assert len(counted["token_strs"]) == counted["count"]
        assert counted["token_strs"][0] == "<|im_start|>"
        assert any("\u0120" in text for text in counted["token_strs"])

    def test_they_may_be_more_than_the_context_holds(self, chatty: WorkerProcess) -> None:
        counted = ask_tokens(chatty, messages=[{"role": "user", "content": "hello " * CONTEXT}])
        assert counted["count"] > CONTEXT
