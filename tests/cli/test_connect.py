"""`connect`: what clients are told, and where it is written."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from llmserve.cli.connect import CLIENTS
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeGateway, FakeStore

KEY = "sk-secret"


@pytest.fixture(autouse=True)
def person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with nothing in it, and nothing of this machine's settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLMSERVE_CONFIG", str(tmp_path / "settings.toml"))
    for name in ("API_KEY", "UDS", "HOST", "OLLAMA_PORT", "LOCKED"):
        monkeypatch.delenv(f"LLMSERVE_{name}", raising=False)
    for name in ("CLAUDE_CONFIG_DIR", "CONTINUE_GLOBAL_DIR", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "kind": "generate", "created": 5, "status": {"value": "unloaded"}, **fields}


def exported(text: str) -> dict[str, str]:
    """The variables that a shell has after `text`."""
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert all(not line or (line[0] == "export" and len(line) == 2) for line in words)
    pairs = (line[1].partition("=") for line in words if line)
    return {name: value for name, _, value in pairs}


class TestPrinted:
    def test_addresses_have_the_form_that_each_client_wants(self, invoke: Invoke, gateway: FakeGateway) -> None:
        root = f"http://127.0.0.1:{gateway.port}"
        assert exported(invoke("connect", "openai").out) == {
            "OPENAI_BASE_URL": f"{root}/v1",
            "OPENAI_API_KEY": "unused",
        }
        assert exported(invoke("connect", "anthropic").out)["ANTHROPIC_BASE_URL"] == root
        assert exported(invoke("connect", "ollama").out) == {"OLLAMA_HOST": root}
        web = exported(invoke("connect", "open-webui").out)
        assert web["OPENAI_API_BASE_URL"] == f"{root}/v1"
        connected = json.loads(web["OPENAI_API_CONFIGS"])["0"]
        assert (connected["provider"], connected["headers"]) == ("llama.cpp", {"X-Task": "{{TASK}}"})
        assert f'base_url="{root}/v1"' in invoke("connect", "langchain").out
        claude = json.loads(invoke("connect", "claude-code").out)["env"]
        assert (claude["ANTHROPIC_BASE_URL"], claude["ANTHROPIC_MODEL"]) == (root, "tiny:1b")
        (model,) = yaml.safe_load(invoke("connect", "continue").out)["models"]
        assert (model["apiBase"], model["model"]) == (f"{root}/v1", "tiny:1b")

    def test_open_webui_is_told_how_documents_are_embedded_in_comments(
        self, invoke: Invoke, gateway: FakeGateway
    ) -> None:
        printed = invoke("connect", "open-webui").out
        assert not [name for name in exported(printed) if name.startswith("RAG_")]
        documents = exported(printed.replace("# export RAG_", "export RAG_"))
        assert documents["RAG_EMBEDDING_ENGINE"] == "openai"
        assert documents["RAG_OPENAI_API_BASE_URL"] == f"http://127.0.0.1:{gateway.port}/v1"
        assert documents["RAG_OPENAI_API_KEY"] == "unused"

    def test_langchain_gets_lines_that_are_python(self, invoke: Invoke, gateway: FakeGateway) -> None:
        compile(invoke("connect", "langchain").out, "snippet", "exec")

    @pytest.mark.parametrize("client", CLIENTS)
    def test_the_key_is_printed_only_when_it_is_asked_for(
        self, invoke: Invoke, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, client: str
    ) -> None:
        monkeypatch.setenv("LLMSERVE_API_KEY", KEY)
        result = invoke("connect", client)
        assert (result.code, KEY in result.out + result.err) == (0, False)
        assert "<key of the server>" in result.out
        assert "--show-key" in result.err
        shown = invoke("connect", client, "--show-key")
        assert KEY in shown.out
        assert "--show-key" not in shown.err

    def test_a_server_whose_key_is_another(
        self,
        invoke: Invoke,
        gateway: FakeGateway,
        store: FakeStore,
        person: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        refusal = {"error": {"message": "no key", "type": "authentication_error", "code": "invalid_api_key"}}
        gateway.replies["/v1/models"] = (401, refusal)
        for known in ("", KEY):
            monkeypatch.setenv("LLMSERVE_API_KEY", known)
            result = invoke("connect", "openai", "--show-key")
            assert exported(result.out)["OPENAI_API_KEY"] == "<key of the server>"
            assert "wants another key" in result.err
            written = invoke("connect", "claude-code", "--write")
            assert (written.code, "LLMSERVE_API_KEY" in written.err) == (1, True)
            assert not (person / ".claude").exists()

    @pytest.mark.parametrize(
        ("entries", "chosen"),
        [
            ([entry("a"), entry("b", created=9), entry("c")], "b"),
            ([entry("a"), entry("b", created=9), entry("c", status={"value": "loaded"})], "c"),
            ([entry("e", kind="embed", created=9, status={"value": "loaded"}), entry("a")], "a"),
        ],
    )
    def test_the_model_is_one_that_is_loaded_or_the_newest(
        self, invoke: Invoke, gateway: FakeGateway, entries: list[dict[str, Any]], chosen: str
    ) -> None:
        gateway.replies["/v1/models"] = (200, {"object": "list", "data": entries})
        assert f"# model: {chosen}\n" in invoke("connect", "openai").out

    def test_a_model_of_the_persons_choice(self, invoke: Invoke, gateway: FakeGateway) -> None:
        data = [entry("a:1b", aliases=["a"]), entry("b:1b", created=9)]
        gateway.replies["/v1/models"] = (200, {"object": "list", "data": data})
        assert "# model: a:1b\n" in invoke("connect", "openai", "--model", "a").out
        missing = invoke("connect", "openai", "--model", "c")
        assert (missing.code, missing.out) == (1, "")
        assert "llmserve pull c" in missing.err

    def test_without_a_server_the_installed_models_count(
        self, invoke: Invoke, no_gateway: int, store: FakeStore
    ) -> None:
        result = invoke("connect", "openai")
        assert "# model: tiny:1b\n" in result.out
        assert f"no llmserve server at 127.0.0.1:{no_gateway}" in result.err
        store.models.clear()
        empty = invoke("connect", "openai")
        assert (empty.code, empty.out) == (1, "")
        assert "llmserve pull" in empty.err

    def test_ollamas_own_port_goes_first(
        self, invoke: Invoke, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLMSERVE_OLLAMA_PORT", "11434")
        assert exported(invoke("connect", "ollama").out)["OLLAMA_HOST"] == "http://127.0.0.1:11434"

    @pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")])
    def test_an_address_to_listen_on_is_none_to_connect_to(
        self,
        invoke: Invoke,
        no_gateway: int,
        store: FakeStore,
        monkeypatch: pytest.MonkeyPatch,
        host: str,
        shown: str,
    ) -> None:
        monkeypatch.setenv("LLMSERVE_HOST", host)
        assert exported(invoke("connect", "anthropic").out)["ANTHROPIC_BASE_URL"] == f"http://{shown}:{no_gateway}"

    def test_a_unix_socket_is_for_none_of_them(
        self, invoke: Invoke, store: FakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LLMSERVE_UDS", str(tmp_path / "socket"))
        result = invoke("connect", "openai")
        assert (result.code, result.out) == (2, "")
        assert "Unix socket" in result.err


class TestWritten:
    def test_claude_code(
        self, invoke: Invoke, gateway: FakeGateway, person: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLMSERVE_API_KEY", KEY)
        file = person / ".claude" / "settings.json"
        file.parent.mkdir()
        file.write_text('{"permissions": {"allow": ["Bash"]}, "env": {"MINE": "1"}}')
        file.chmod(0o644)
        result = invoke("connect", "claude-code", "--write")
        assert (result.code, result.out, KEY in result.err) == (0, "", False)
        settings = json.loads(file.read_text())
        assert settings["permissions"] == {"allow": ["Bash"]}
        assert settings["env"]["MINE"] == "1"
        assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == KEY
        assert (
            settings["env"] | json.loads(invoke("connect", "claude-code", "--show-key").out)["env"] == settings["env"]
        )
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "settings.json.bak" in result.err
        assert "already" in invoke("connect", "claude-code", "--write").err

    def test_claude_code_with_a_key_of_its_own(
        self, invoke: Invoke, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-person")
        result = invoke("connect", "claude-code", "--write")
        assert (result.code, "unset it" in result.err, "sk-of" in result.err) == (0, True, False)

    def test_claude_code_elsewhere(
        self, invoke: Invoke, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "elsewhere"))
        assert invoke("connect", "claude-code", "--write").code == 0
        assert "env" in json.loads((tmp_path / "elsewhere" / "settings.json").read_text())

    def test_continue(self, invoke: Invoke, gateway: FakeGateway, person: Path) -> None:
        file = person / ".continue" / "config.yaml"
        assert invoke("connect", "continue", "--write").code == 0
        made = yaml.safe_load(file.read_text())
        assert [model["model"] for model in made["models"]] == ["tiny:1b"]
        file.write_text("name: Mine # kept\nversion: 1.0.0\nschema: v1\n")
        assert invoke("connect", "continue", "--write").code == 0
        assert "# kept" in file.read_text()

    def test_continue_does_not_lose_an_older_file(self, invoke: Invoke, gateway: FakeGateway, person: Path) -> None:
        older = person / ".continue" / "config.json"
        older.parent.mkdir()
        older.write_text("{}")
        result = invoke("connect", "continue", "--write")
        assert (result.code, "config.json" in result.err) == (1, True)
        assert [path.name for path in older.parent.iterdir()] == ["config.json"]

    @pytest.mark.parametrize("client", ["openai", "open-webui", "anthropic", "ollama", "langchain"])
    def test_others_have_a_file_of_variables(
        self, invoke: Invoke, gateway: FakeGateway, tmp_path: Path, client: str
    ) -> None:
        refused = invoke("connect", client, "--write")
        assert (refused.code, "--file .env" in refused.err) == (2, True)
        file = tmp_path / ".env"
        file.write_text("# mine\nMINE=1\n")
        assert invoke("connect", client, "--write", "--file", str(file)).code == 0
        assert file.read_text().startswith("# mine\nMINE=1\n")
        assert f"127.0.0.1:{gateway.port}" in file.read_text()

    def test_a_file_that_cannot_be_read_is_left(self, invoke: Invoke, gateway: FakeGateway, person: Path) -> None:
        file = person / ".claude" / "settings.json"
        file.parent.mkdir()
        file.write_text("{ // mine\n}")
        result = invoke("connect", "claude-code", "--write")
        assert (result.code, "settings.json" in result.err, "not JSON" in result.err) == (2, True, True)
        assert file.read_text() == "{ // mine\n}"
        assert [path.name for path in file.parent.iterdir()] == ["settings.json"]

    def test_a_file_alone_is_not_written(self, invoke: Invoke, gateway: FakeGateway, tmp_path: Path) -> None:
        result = invoke("connect", "openai", "--file", str(tmp_path / ".env"))
        assert (result.code, "--write" in result.err) == (2, True)
        assert not (tmp_path / ".env").exists()


def test_an_unknown_client_is_told_the_known_ones(invoke: Invoke) -> None:
    result = invoke("connect", "emacs")
    assert result.code == 2
    assert "claude-code" in result.err
