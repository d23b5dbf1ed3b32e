"""Settings put into the text of other programs' files: they are in it, and so is everything that was."""

from __future__ import annotations

import json

import pytest
import yaml  # type: ignore[import-untyped]

from llmserve.cli.config_text import with_environment, with_model, with_variables
from llmserve.errors import InvalidRequest

MODEL = {
    "name": "llmserve tiny",
    "provider": "openai",
    "model": "tiny:1b",
    "apiBase": "http://127.0.0.1:11435/v1",
    "apiKey": "it's: #a key",
}
OTHER = {"name": "other", "provider": "ollama", "model": "x"}


class TestVariables:
    def test_they_replace_what_was_set_and_follow_what_was_not(self) -> None:
        before = "# mine\n\nexport A = old#er # why\nB='kept # not a comment'\nA=\"a \\\" b\" # this\nA=\nE=it's\n"
        assert with_variables(before, {"A": "http://x/v1", "C": "c d"}) == (
            "# mine\n\nexport A = http://x/v1 # why\nB='kept # not a comment'\nA=http://x/v1 # this\nA=http://x/v1\n"
            "E=it's\nC='c d'\n"
        )

    def test_twice_is_once(self) -> None:
        values = {"A": "1", "J": '{"0":{"enable":true}}'}
        once = with_variables("", values)
        assert once == 'A=1\nJ=\'{"0":{"enable":true}}\'\n'
        assert with_variables(once, values) == once

    @pytest.mark.parametrize(
        "text", ["not an assignment", "A='open\nclosed'", "=x", "1A=2", "A='x'y", 'A="x\\"', "A=#x", '{"A": 1}']
    )
    def test_what_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="left as it is"):
            with_variables(f"{text}\n", {"B": "1"})

    @pytest.mark.parametrize("value", ["a'b c", "a\nB=1"])
    def test_a_value_that_could_be_read_as_another_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidRequest):
            with_variables("", {"A": value})


class TestEnvironment:
    def test_everything_else_stays(self) -> None:
        before = {"model": "opus", "hooks": {"x": [1, 2.5, None]}, "env": {"B": "kept", "A": "old"}, "ü": "ß"}
        after = with_environment(json.dumps(before), {"A": "new", "C": "c"})
        assert json.loads(after) == {**before, "env": {"B": "kept", "A": "new", "C": "c"}}
        assert list(json.loads(after)) == list(before)
        assert '"ü": "ß"' in after

    def test_a_file_that_says_so_already_keeps_its_form(self) -> None:
        text = '{"env":{"A":"1","B":"2"}}'
        assert with_environment(text, {"A": "1"}) == text

    @pytest.mark.parametrize("text", ["", " \n"])
    def test_where_there_is_no_file(self, text: str) -> None:
        assert json.loads(with_environment(text, {"A": "1"})) == {"env": {"A": "1"}}

    @pytest.mark.parametrize(
        "text", ["{", "// mine\n{}", "[]", "1", '{"env": []}', '{"env": 1}', '{"a": 1, "a": 2}', "[" * 100_000]
    )
    def test_what_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="left as it is"):
            with_environment(text, {"A": "1"})


HEAD = "name: Mine # my own\nversion: 1.0.0\nschema: v1\n"
TAIL = "rules:\n  - be brief # please\n"
BLOCK = """\
models:
  # the good one
  - name: other
    provider: ollama
    model: x # why
"""


class TestModel:
    @pytest.mark.parametrize(
        "text",
        [
            HEAD,
            HEAD.rstrip("\n"),
            HEAD + "models:\n",
            HEAD + "models: []\n" + TAIL,
            HEAD + "models: # none yet\n" + TAIL,
            HEAD + "models: null\n" + TAIL,
            HEAD + BLOCK + "\n# rules\n" + TAIL,
            HEAD + TAIL + BLOCK.rstrip("\n"),
            HEAD + BLOCK.replace("\n  ", "\n") + TAIL,
            HEAD + BLOCK.replace("\n  ", "\n      ") + TAIL,
            HEAD + BLOCK + "    roles:\n      - chat\n      - edit\n\n" + TAIL,
            HEAD + BLOCK + "    prompt: |\n      a\n\n      b\n" + TAIL,
            HEAD + "models: [{name: other, provider: ollama, model: x}] # flow\n" + TAIL,
            HEAD + "models:\n  - {name: other, provider: ollama, model: x}\n" + TAIL,
            HEAD.replace("\n", "\r\n") + BLOCK.replace("\n", "\r\n"),
        ],
    )
    def test_it_is_added_and_everything_else_stays(self, text: str) -> None:
        before = yaml.safe_load(text)
        after = with_model(text, MODEL)
        assert yaml.safe_load(after) == {**before, "models": [*(before.get("models") or []), MODEL]}
        for comment in ("# my own", "# the good one", "# why", "# please", "# rules"):
            assert (comment in after) == (comment in text)
        assert with_model(after, MODEL) == after

    @pytest.mark.parametrize(
        "entry",
        [
            "- name: llmserve tiny\n    model: old # this\n    roles: [chat]\n",
            "- model: old\n    roles: [chat] # this\n    name: llmserve tiny\n    apiKey: gone\n    apiBase:\n",
            "- {name: llmserve tiny, model: old, roles: [chat]} # this\n",
            '- "name": "llmserve tiny"\n    "apiKey": >-\n      old\n    roles: [chat] # this\n',
        ],
    )
    def test_one_of_the_same_name_is_changed_where_it_is(self, entry: str) -> None:
        text = f"{HEAD}models:\n  {entry}  - name: other\n{TAIL}"
        after = with_model(text, MODEL)
        mine, other = yaml.safe_load(after)["models"]
        assert mine == {**MODEL, "roles": ["chat"]}
        assert other == {"name": "other"}
        assert "# this" in after
        assert with_model(after, MODEL) == after

    def test_where_there_is_no_file(self) -> None:
        made = yaml.safe_load(with_model("", MODEL))
        assert made == {"name": "Local Config", "version": "1.0.0", "schema": "v1", "models": [MODEL]}

    @pytest.mark.parametrize(
        "text",
        [
            "a: [",
            "- a\n",
            "models: 5\n",
            "models: {a: 1}\n",
            "just text",
            "a: 1\n---\nb: 2\n",
            "? [a, b]\n: 1\n",
            "{name: x, version: 1}\n",
            "a: 1\n...\n",
            "models: &all\n  - name: other\nagain: *all\n",
            "a: !!python/object/apply:os.system [true]\n",
        ],
    )
    def test_what_cannot_be_changed_safely_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="left as it is"):
            with_model(text, MODEL)
