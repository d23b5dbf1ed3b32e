"""`llmserve run` with a prompt: what is asked, what goes where, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve import errors
from llmserve.store.catalog import Catalog, CatalogModel, Variant
from llmserve.store.defaults import ChatDefaults
from llmserve.types import AdapterFile, ModelFormat
from tests.cli.conftest import Invoke
from tests.cli.fakes import DONE, DROP, FakeGateway, FakeStore, answer, delta, event, finish, installed

pytestmark = pytest.mark.usefixtures("store")


def test_the_answer_alone_is_on_stdout(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("Blue", " light", " scatters.")]
    result = invoke("run", "tiny", "Why", "is the sky blue?")
    assert (result.code, result.out, result.err) == (0, "Blue light scatters.\n", "")
    (request,) = gateway.chats
    assert request["model"] == "tiny:1b"
    assert request["messages"] == [{"role": "user", "content": "Why is the sky blue?"}]


def test_the_adapter_is_asked_for_by_the_models_full_name(
    invoke: Invoke, gateway: FakeGateway, store: FakeStore
) -> None:
    polite = AdapterFile("/polite.gguf", "0" * 64, name="polite")
    store.models["tiny:1b"] = replace(store.models["tiny:1b"], adapters=(polite,))
    gateway.script = [answer("Yes.")]
    assert invoke("run", "tiny@polite", "hi").code == 0
    assert gateway.chats[0]["model"] == "tiny:1b@polite"
    result = invoke("run", "tiny@rude", "hi")
    assert result.code == 1
    assert "`tiny:1b` has no adapter `rude`" in result.err
    assert "`tiny:1b@polite`" in result.err
    store.available = {"nothing"}
    result = invoke("run", "nothing@polite", "hi")
    assert result.code == 1
    assert "`nothing` is not installed" in result.err
    assert "nothing" not in store.models, "what was not created here is not pulled for an adapter"
    assert len(gateway.chats) == 1


def test_an_answer_that_was_cut_is_told(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [[delta("half a sen"), finish("length"), DONE]]
    result = invoke("run", "tiny", "hi")
    assert (result.code, result.out) == (0, "half a sen\n")
    assert result.err == "(the answer reached its limit of tokens)\n"


def test_the_line_end_is_not_doubled(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("one\n")]
    assert invoke("run", "tiny", "hi").out == "one\n"


def test_an_empty_answer_is_empty(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer()]
    assert invoke("run", "tiny", "hi").out == ""


@pytest.mark.parametrize(
    ("arguments", "stdin", "question"),
    [
        ((), b"from the pipe\n", "from the pipe"),
        (("Sum it up",), "Ein Text: äöü\n".encode(), "Ein Text: äöü\n\nSum it up"),
        (("only this",), b"", "only this"),
        (("only this",), b"\n \n", "only this"),
        (("--", "-5 + 3?"), b"", "-5 + 3?"),
    ],
)
def test_pipe_and_argument_make_the_question(
    invoke: Invoke, gateway: FakeGateway, arguments: tuple[str, ...], stdin: bytes, question: str
) -> None:
    gateway.script = [answer("ok")]
    assert invoke("run", "tiny", *arguments, stdin=stdin).code == 0
    assert gateway.chats[0]["messages"][-1]["content"] == question


@pytest.mark.parametrize("stdin", [b"", b"\n\n", b"\xff\xfe"])
def test_no_question_is_refused_before_anything_is_asked(invoke: Invoke, gateway: FakeGateway, stdin: bytes) -> None:
    result = invoke("run", "tiny", stdin=stdin)
    assert result.code == 2
    assert result.err.startswith("error: the prompt is ")
    assert gateway.requests == []


def test_an_argument_that_is_not_text_is_refused(invoke: Invoke, gateway: FakeGateway) -> None:
    result = invoke("run", "tiny", "\udcff")
    assert (result.code, gateway.requests) == (2, [])


def test_parameters_reach_the_request(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("ok")]
    flags = ("--system", "Be brief", "--temperature", "0", "--top-p", "0.5", "--max-tokens", "7", "--seed", "42")
    assert invoke("run", *flags, "tiny", "hi").code == 0
    (request,) = gateway.chats
    assert request["messages"][0] == {"role": "system", "content": "Be brief"}
    expected = {"temperature": 0.0, "top_p": 0.5, "max_tokens": 7, "seed": 42}
    assert {name: request[name] for name in expected} == expected


def test_what_is_not_set_is_not_sent(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("ok")]
    invoke("run", "tiny", "hi")
    assert set(gateway.chats[0]) == {"model", "messages", "stream", "stream_options"}


SUITED = CatalogModel(
    "tiny:1b", (), None, "a tiny model", (), defaults=ChatDefaults(system="You are a helper", temperature=0.0)
)


@pytest.mark.parametrize(
    ("flags", "system", "temperature"),
    [
        ((), "You are a helper", 0.0),
        (("--system", "Be brief", "--temperature", "1"), "Be brief", 1.0),
        (("--system", ""), None, 0.0),
    ],
)
def test_what_suits_the_model_is_used_where_nothing_is_said(
    invoke: Invoke,
    gateway: FakeGateway,
    store: FakeStore,
    flags: tuple[str, ...],
    system: str | None,
    temperature: float,
) -> None:
    store.catalog = Catalog((SUITED,))
    gateway.script = [answer("ok")]
    invoke("run", "tiny", "hi", *flags)
    (request,) = gateway.chats
    sent = [message["content"] for message in request["messages"] if message["role"] == "system"]
    assert sent == ([] if system is None else [system])
    assert request["temperature"] == temperature


def test_a_schema_becomes_a_strict_response_format(invoke: Invoke, gateway: FakeGateway, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    gateway.script = [answer('{"a":1}')]
    assert invoke("run", "tiny", "hi", "--json-schema", str(file)).out == '{"a":1}\n'
    assert gateway.chats[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the JSON schema"),
        (b'{"type": "object",\n}', "line 2, column 1"),
        (b"[1]", "is not an object"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_schema_file_is_told(
    invoke: Invoke, gateway: FakeGateway, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content)
    result = invoke("run", "tiny", "hi", "--json-schema", str(file))
    assert (result.code, gateway.requests) == (2, [])
    assert message in result.err
    assert str(file) in result.err


def test_verbose_tells_the_figures_on_stderr(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("a", "b", "c")]
    result = invoke("run", "tiny", "hi", "--verbose")
    assert result.out == "abc\n"
    lines = dict(line.split(maxsplit=1) for line in result.err.replace("first token", "first").splitlines() if line)
    assert lines["prompt"] == "9 tokens (4 cached)"
    assert lines["answer"].startswith("3 tokens, ")
    assert lines["answer"].endswith(" tokens/s")
    assert set(lines) == {"prompt", "answer", "first", "load"}


def test_a_missing_model_is_pulled_first(invoke: Invoke, gateway: FakeGateway, store: FakeStore) -> None:
    store.available = {"other:2b"}
    gateway.script = [answer("ok")]
    result = invoke("run", "other:2b", "hi")
    assert (result.code, result.out) == (0, "ok\n")
    assert "pulled other:2b" in result.err
    assert gateway.chats[0]["model"] == "other:2b"


def test_an_unknown_model_is_an_error(invoke: Invoke, gateway: FakeGateway) -> None:
    result = invoke("run", "nonsense", "hi")
    assert (result.code, result.out, gateway.requests) == (1, "", [])
    assert "error: there is no model `nonsense`\n\nhint: " in result.err


def test_a_path_is_adopted_and_its_name_used(
    invoke: Invoke, gateway: FakeGateway, store: FakeStore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    gateway.script = [answer("ok")]
    assert invoke("run", str(file), "hi").code == 0
    assert gateway.chats[0]["model"] == "mine:local"
    assert store.adopted == [file]


def test_the_model_is_loaded_before_it_is_asked(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.script = [answer("ok")]
    invoke("run", "tiny", "hi")
    assert gateway.paths() == ["/health", "/admin/load", "/v1/chat/completions"]


def test_another_version_is_warned_of(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.replies["/health"] = (200, {"status": "ok", "service": "llmserve", "version": "0.0.1"})
    gateway.script = [answer("ok")]
    result = invoke("run", "tiny", "hi")
    assert (result.code, result.out) == (0, "ok\n")
    assert result.err.startswith("warning: the server at ")
    assert "0.0.1" in result.err


def test_the_servers_refusal_is_shown_with_its_exit_code(invoke: Invoke, gateway: FakeGateway) -> None:
    error = errors.ContextLengthExceeded("the prompt has 3000 tokens, the context 2048", hint="shorten it")
    gateway.replies["/v1/chat/completions"] = (400, error.body())
    result = invoke("run", "tiny", "hi")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: the prompt has 3000 tokens, the context 2048\n\nhint: shorten it\n"


@pytest.mark.parametrize(
    ("end", "message"),
    [(event(errors.WorkerDied("the worker ended").body()), "the worker ended"), (DROP, "the connection to the server")],
)
def test_an_answer_that_breaks_off_keeps_its_text_and_fails(
    invoke: Invoke, gateway: FakeGateway, end: bytes | str, message: str
) -> None:
    gateway.script = [[delta("half"), end]]
    result = invoke("run", "tiny", "hi")
    assert (result.code, result.out) == (1, "half\n")
    assert message in result.err
    assert "Traceback" not in result.err


def test_the_key_of_the_settings_is_sent(invoke: Invoke, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSERVE_API_KEY", "secret")
    gateway.script = [answer("ok")]
    invoke("run", "tiny", "hi")
    assert set(gateway.keys) == {"Bearer secret"}


NO_ENGINE = {
    "error": {"message": "no engine here can run this model", "type": "unavailable_error", "code": "no_engine"}
}
BOTH = CatalogModel(
    "tiny:1b",
    (),
    None,
    "a tiny model",
    (
        Variant("safetensors", "BF16", "hf:owner/tiny", "", None, None),
        Variant("gguf", "Q4_0", "hf:owner/tiny-gguf", "tiny-q4_0.gguf", None, None),
    ),
)


@pytest.mark.parametrize(
    ("models", "form", "offers"),
    [((), "safetensors", False), ((BOTH,), "safetensors", True), ((BOTH,), "gguf", False)],
    ids=["no other variant", "a GGUF variant", "is one itself"],
)
def test_where_no_engine_runs_it_the_gguf_variant_is_offered(
    invoke: Invoke,
    gateway: FakeGateway,
    store: FakeStore,
    models: tuple[CatalogModel, ...],
    form: ModelFormat,
    offers: bool,
) -> None:
    store.catalog = Catalog(models)
    store.models["tiny:1b"] = replace(installed("tiny:1b"), format=form)
    gateway.replies["/admin/load"] = (503, NO_ENGINE)
    result = invoke("run", "tiny:1b", "hi")
    assert (result.code, result.out) == (1, "")
    offered = "`llmserve run tiny:1b-q4_0` takes the GGUF variant, which llama.cpp runs"
    assert result.err.startswith("error: no engine here can run this model")
    assert (offered in result.err) == offers
