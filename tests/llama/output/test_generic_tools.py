"""Tools for models whose template knows none."""

from __future__ import annotations

import json

from llmserve.llama.output.formats import by_name
from llmserve.llama.output.generic_tools import generic_tools_prompt, with_tools_prompt
from tests.llama.output.recorded import TOOLS
from tests.llama.output.test_recordings import Meaning

TOOL = {"type": "function", "function": {"name": "größe", "description": "How tall", "parameters": {"type": "object"}}}


def test_the_prompt_holds_each_tool_as_a_line_of_json() -> None:
    lines = generic_tools_prompt([TOOL, TOOL]).splitlines()
    assert [json.loads(line) for line in lines if line.startswith('{"name": "g')] == [TOOL["function"]] * 2
    assert "größe" in "".join(lines)


def test_the_example_in_the_prompt_is_a_call() -> None:
    parser = by_name("generic").parser(TOOLS)
    found = Meaning()
    found.add([*parser.feed(generic_tools_prompt([])), *parser.finish()])
    assert found.names == ["function_name"]


def test_the_tools_join_the_system_message() -> None:
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}
    joined = with_tools_prompt([system, user], [TOOL])
    assert joined[0]["content"].startswith("Be brief.\n\n")
    assert joined[1:] == [user]
    alone = with_tools_prompt([user], [TOOL])
    assert [message["role"] for message in alone] == ["system", "user"]
    assert system["content"] == "Be brief."
