"""`llmserve batch run`: answers in a file, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmserve.client import Gateway
from tests.cli.conftest import Invoke
from tests.cli.fakes import HOLD, FakeGateway
from tests.cli.test_interrupt import REPOSITORY, driver, interrupt
from tests.support import until

ANSWER = {"choices": [{"text": "hi"}], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}}
REFUSAL = {"error": {"message": "no", "type": "invalid_request_error", "param": "input", "code": None}}


@pytest.fixture(autouse=True)
def models(gateway: FakeGateway) -> None:
    gateway.replies |= {
        "/v1/models/tiny": (200, {"id": "tiny:1b"}),
        "/v1/completions": (200, ANSWER),
        "/v1/embeddings": (400, REFUSAL),
    }


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def line(number: int, url: str = "/v1/completions", **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"id {number}", "method": "POST", "url": url, "body": {"model": "tiny"}, **changes}


def written(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in lines))
    return str(path)


def ids(path: Path) -> list[str]:
    return [json.loads(text)["custom_id"] for text in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl*"))


def test_every_line_is_answered_in_order(invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path) -> None:
    source = written(tmp_path, *(line(number) for number in range(30)))
    result = invoke("batch", "run", source, "-o", str(output))
    assert (result.code, result.out) == (0, "")
    assert "30 lines are answered, " in result.err
    assert "tokens/s" in result.err
    assert ids(output) == [f"id {number}" for number in range(30)]
    answer = json.loads(output.read_text().splitlines()[0])
    assert (answer["response"]["status_code"], answer["response"]["body"]) == (200, ANSWER)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]
    assert gateway.paths().count("/admin/load") == 1


def test_errors_have_a_file_and_an_exit_code(invoke: Invoke, tmp_path: Path, output: Path) -> None:
    source = written(tmp_path, line(1), line(2, "/v1/embeddings"), line(3))
    result = invoke("batch", "run", source, "-o", str(output))
    assert (result.code, "1 with errors" in result.err) == (1, True)
    assert ids(output) == ["id 1", "id 3"]
    errors = tmp_path / "out.errors.jsonl"
    assert ids(errors) == ["id 2"]
    assert json.loads(errors.read_text())["response"]["body"] == REFUSAL


def test_another_model_is_asked(invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path) -> None:
    gateway.replies["/v1/models/big"] = (200, {"id": "big:9b"})
    source = written(tmp_path, line(1, body={"prompt": "a"}), line(2))
    assert invoke("batch", "run", source, "-o", str(output), "--model", "big").code == 0
    asked = [body for _, path, body in gateway.requests if path == "/v1/completions"]
    assert asked == [{"prompt": "a", "model": "big"}, {"model": "big"}]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(1), {"custom_id": 3}], "error: line 2: `custom_id` must be a string"),
        ([line(1, body={})], "error: line 1: `body.model` must name a model\n\nhint: `--model MODEL`"),
        ([line(1), *[line(2, url="x")] * 9], "error: line 2: `url` must be"),
        ([], "error: the file holds no requests"),
    ],
)
def test_a_file_that_is_wrong_is_not_begun(
    invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path, lines: list[Any], said: str
) -> None:
    result = invoke("batch", "run", written(tmp_path, *lines), "-o", str(output))
    assert (result.code, result.err[: len(said)]) == (2, said)
    assert ("and 4 more" in result.err) == (len(lines) == 10)
    assert (gateway.requests, names(tmp_path)) == ([], ["in.jsonl"])


def test_a_model_that_is_not_there(invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path) -> None:
    gateway.replies["/admin/load"] = (404, {"error": {"message": "there is no `tiny`", "code": "model_not_found"}})
    result = invoke("batch", "run", written(tmp_path, line(1)), "-o", str(output))
    assert (result.code, result.err) == (1, "error: there is no `tiny`\n")
    assert names(tmp_path) == ["in.jsonl"]


def test_nothing_is_overwritten(invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path) -> None:
    source = written(tmp_path, line(1))
    for path in (output, tmp_path / "out.errors.jsonl", Path(source)):
        path.touch()
        target = path if path != tmp_path / "out.errors.jsonl" else output
        content = path.read_bytes()
        result = invoke("batch", "run", source, "-o", str(target))
        assert (result.code, "is there already" in result.err) == (1, True)
        assert path.read_bytes() == content
        if path != Path(source):
            path.unlink()
    assert gateway.requests == []


def test_a_beginning_of_other_input_is_left_alone(invoke: Invoke, tmp_path: Path, output: Path) -> None:
    partial = tmp_path / "out.jsonl.partial"
    partial.write_text("somebody's\n")
    result = invoke("batch", "run", written(tmp_path, line(1)), "-o", str(output))
    assert (result.code, "was begun with another file" in result.err) == (1, True)
    assert partial.read_text() == "somebody's\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_the_same_command_goes_on(
    invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path, number: signal.Signals, code: int
) -> None:
    source = written(tmp_path, line(1), line(2, "/v1/embeddings"), line(3), line(4, "/v1/chat/completions"), line(5))
    gateway.script = [[HOLD]]
    program = subprocess.Popen(
        driver("batch", "run", source, "-o", str(output)),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until(lambda: "/v1/chat/completions" in gateway.paths())
    if number == signal.SIGINT:
        interrupt(program)
    else:
        program.kill()
    said = program.communicate(timeout=30)[1].decode()
    assert program.returncode == code
    assert number == signal.SIGKILL or said.endswith("3 of 5 lines are answered; the same command goes on\n")
    assert gateway.cancelled.wait(10)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl.partial"]

    gateway.replies["/v1/chat/completions"] = (200, ANSWER)
    result = invoke("batch", "run", source, "-o", str(output))
    assert result.err.startswith("3 of 5 lines are answered already\n")
    assert (result.code, ids(output), ids(tmp_path / "out.errors.jsonl")) == (
        1,
        ["id 1", "id 3", "id 4", "id 5"],
        ["id 2"],
    )
    assert [gateway.paths().count(path) for path in ("/v1/completions", "/v1/embeddings")] == [3, 1]
    assert names(tmp_path) == ["in.jsonl", "out.errors.jsonl", "out.jsonl"]


def test_a_file_that_changes_meanwhile_is_an_error(
    invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, line(1))
    load = Gateway.load

    def change_and_load(self: Gateway, model: str) -> None:
        Path(source).write_text("{")
        load(self, model)

    monkeypatch.setattr(Gateway, "load", change_and_load)
    result = invoke("batch", "run", source, "-o", str(output))
    assert (result.code, "error: line 1: the file has changed" in result.err) == (2, True)


def test_an_end_that_was_interrupted_is_repeated(
    invoke: Invoke, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, line(1), line(2, "/v1/embeddings"))

    def failing(old: Path, new: Path) -> None:
        if new == output:
            raise OSError(28, "No space left on device")
        old.replace(new)

    with monkeypatch.context() as full:
        full.setattr("llmserve.cli.batch_run.rename_durably", failing)
        result = invoke("batch", "run", source, "-o", str(output))
    assert (result.code, "no room on the disk" in result.err, "Traceback" in result.err) == (1, True, False)
    assert invoke("batch", "run", source, "-o", str(output)).code == 1
    assert names(tmp_path) == ["in.jsonl", "out.errors.jsonl", "out.jsonl"]


def test_a_server_that_goes_away_ends_the_command_and_not_the_batch(
    invoke: Invoke, gateway: FakeGateway, tmp_path: Path, output: Path
) -> None:
    source = written(tmp_path, line(1), line(2, "/v1/chat/completions"))
    gateway.script = [["drop"]]
    result = invoke("batch", "run", source, "-o", str(output))
    assert result.code == 1
    assert "1 of 2 lines are answered; the same command goes on" in result.err
    assert "error: the connection to the server" in result.err
    gateway.replies["/v1/chat/completions"] = (200, ANSWER)
    assert invoke("batch", "run", source, "-o", str(output)).code == 0
