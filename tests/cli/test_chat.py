"""The interactive chat's loop, with its lines read from a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmserve.cli.chat import Chat
from llmserve.cli.parameters import Parameters
from llmserve.client import Gateway
from llmserve.errors import WorkerDied
from tests.cli.fakes import FakeGateway, answer, delta, event


@pytest.fixture
def chat(gateway: FakeGateway) -> Iterator[Chat]:
    with Gateway.tcp("127.0.0.1", gateway.port) as client:
        yield Chat(client, "tiny:1b", Parameters())


def lines(*texts: str | BaseException) -> Callable[[], str]:
    """A reader of these lines, then Ctrl-D; an exception is raised in its turn."""
    remaining = iter(texts)

    def read() -> str:
        for text in remaining:
            if isinstance(text, BaseException):
                raise text
            return text
        raise EOFError

    return read


def test_each_answer_is_part_of_the_next_question(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.script = [answer("Hi", "!"), answer("Fine.")]
    chat.loop(lines("hello", "how are you?"))
    assert capsys.readouterr().out == "Hi!\nFine.\n"
    assert gateway.chats[1]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "how are you?"},
    ]


@pytest.mark.parametrize("leave", ["/bye", "/exit", EOFError()])
def test_ways_to_leave(chat: Chat, gateway: FakeGateway, leave: str | BaseException) -> None:
    chat.loop(lines(leave, "never asked"))
    assert gateway.requests == []


def test_an_empty_line_asks_nothing(chat: Chat, gateway: FakeGateway) -> None:
    chat.loop(lines("", "  "))
    assert gateway.requests == []


def test_an_interrupt_at_the_prompt_says_how_to_leave(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.script = [answer("ok")]
    chat.loop(lines(KeyboardInterrupt(), "still here?"))
    captured = capsys.readouterr()
    assert "(Ctrl-D or /bye leaves)" in captured.err
    assert captured.out == "ok\n"


def test_a_failed_answer_is_told_and_its_question_taken_back(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.script = [[delta("ha"), event(WorkerDied("the worker ended").body())], answer("ok")]
    chat.loop(lines("one", "two"))
    assert "error: the worker ended" in capsys.readouterr().err
    assert gateway.chats[1]["messages"] == [{"role": "user", "content": "two"}]


def test_an_interrupted_answer_keeps_what_had_come(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def interrupted(text: str) -> None:
        shown.append(text)
        if text == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr("llmserve.cli.answer.print_answer", interrupted)
    gateway.script = [answer("a", "b", "c"), answer("ok")]
    chat.loop(lines("one", "two"))
    assert shown == ["a", "b", "\n", "ok", "\n"]
    assert "(stopped)" in capsys.readouterr().err
    assert gateway.chats[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "ab"},
        {"role": "user", "content": "two"},
    ]


def test_set_changes_the_next_request(chat: Chat, gateway: FakeGateway) -> None:
    gateway.script = [answer("ok"), answer("ok")]
    chat.loop(
        lines("/set temperature 0.5", "/set max-tokens 9", "/set system Be kind", "one", "/set temperature", "two")
    )
    first, second = gateway.chats
    assert (first["temperature"], first["max_tokens"]) == (0.5, 9)
    assert first["messages"][0] == {"role": "system", "content": "Be kind"}
    assert "temperature" not in second
    assert second["max_tokens"] == 9


def test_set_alone_shows_the_parameters(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(lines("/set seed 3", "/set"))
    err = capsys.readouterr().err
    assert "seed          3\n" in err
    assert "top_p         (the server decides)\n" in err


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("/set heat 1", "there is no parameter `heat`", "parameters: system, temperature"),
        ("/set temperature hot", "`temperature`: 'hot' is not a valid", None),
        ("/set temperature 3", "`temperature`: 3.0 is not in the range", None),
        ("/set max_tokens 0", "`max_tokens`: 0 is not in the range", None),
        ("/clera", "there is no command `/clera`", "did you mean `/clear`?"),
        ("/xyzzy", "there is no command `/xyzzy`", "`/help` lists the commands"),
        ("/save", "where to?", "`/save FILE`"),
        ("/save /nonexistent/folder/file", "cannot write", None),
    ],
)
def test_a_wrong_command_is_told_and_survived(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], line: str, error: str, hint: str | None
) -> None:
    chat.loop(lines(line))
    captured = capsys.readouterr()
    assert f"error: {error}" in captured.err
    assert hint is None or f"\n\nhint: {hint}" in captured.err
    assert captured.out == ""
    assert gateway.requests == []


def test_clear_forgets_the_conversation(chat: Chat, gateway: FakeGateway) -> None:
    gateway.script = [answer("ok"), answer("ok")]
    chat.loop(lines("one", "/clear", "two"))
    assert gateway.chats[1]["messages"] == [{"role": "user", "content": "two"}]


def test_help_names_every_parameter(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(lines("/help"))
    err = capsys.readouterr().err
    assert all(name in err for name in ("system", "temperature", "top_p", "max_tokens", "seed", "/save", "/bye"))


@pytest.mark.parametrize("name", ["talk.md", "talk.json", "a name with spaces.txt"])
def test_save_writes_the_conversation(chat: Chat, gateway: FakeGateway, tmp_path: Path, name: str) -> None:
    gateway.script = [answer("Grüße")]
    chat.loop(lines("/set system Be kind", "hello", f"/save {tmp_path / name}"))
    text = (tmp_path / name).read_text(encoding="utf-8")
    expected = [("system", "Be kind"), ("user", "hello"), ("assistant", "Grüße")]
    if name.endswith(".json"):
        assert json.loads(text) == [{"role": role, "content": content} for role, content in expected]
    else:
        assert text == "\n".join(f"## {role}\n\n{content}\n" for role, content in expected)


def test_save_never_overwrites(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "precious.md"
    file.write_text("precious")
    chat.loop(lines(f"/save {file}"))
    assert file.read_text() == "precious"
    assert "exists already" in capsys.readouterr().err


def test_verbose_tells_the_figures_after_each_answer(
    chat: Chat, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    chat.verbose = True
    gateway.script = [answer("ok"), answer("ok")]
    chat.loop(lines("one", "two"))
    assert capsys.readouterr().err.count("first token") == 2
