"""A gateway with three models, Open WebUI in front of it on each of its two kinds of connection, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bert import read_bert, write_bert
from tests.fake_hub import FakeHub
from tests.open_webui.pages import PATIENCE_SECONDS, ChatPage, ModelsPage
from tests.open_webui.programs import Gateway, OpenWebUI
from tests.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

KEY = "k-webui-6bc1bee22e409f96"
STARTER, SECOND, EMBEDDER = "smollm2:135m", "smollm2:second", "minilm:local"
MOST_TOKENS = 250
HUB_MODEL = "hf:owner/tiny:tiny.gguf"
# A model this small writes no JSON by itself; what Open WebUI asks for in the background, it is made to write.
_TASKS = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 3, "maxLength": 40},
        "tags": {
            "type": "array",
            "items": {"type": "string", "minLength": 3, "maxLength": 16},
            "minItems": 1,
            "maxItems": 2,
        },
        "follow_ups": {
            "type": "array",
            "items": {"type": "string", "minLength": 3, "maxLength": 60},
            "minItems": 1,
            "maxItems": 2,
        },
    },
    "required": ["title", "tags", "follow_ups"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Connection:
    """How Open WebUI talks to the gateway: what it is told, and the routes that its requests are counted under."""

    name: str
    environment: Mapping[str, str]
    chat_route: str
    embedding_route: str


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.commit("owner/tiny", {"tiny.gguf": write_tiny_model(tmp_path_factory.mktemp("hub") / "tiny.gguf").read_bytes()})
    with hub.running():
        yield hub


@pytest.fixture(scope="session")
def gateway(
    browser: Browser,
    starter_home: Path,
    minilm: zipfile.Path,
    hub: FakeHub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    home = folder / "home"
    for part in ("manifests", "blobs"):
        shutil.copytree(starter_home / part, home / part)
    command = [sys.executable, "-P", "-m", "llmserve"]
    environment = {**os.environ, "LLMSERVE_HOME": str(home)}
    for words in (["pull", STARTER], ["cp", STARTER, SECOND]):
        subprocess.run([*command, *words], env=environment, check=True, capture_output=True)
    embedder = write_bert(folder / "minilm.gguf", read_bert(minilm))
    hub_environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "huggingface")}
    gateway = Gateway(home, KEY, folder / "log", str(embedder), **hub_environment)
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture(scope="package", params=["openai", "ollama"])
def connection(request: pytest.FixtureRequest, gateway: Gateway) -> Connection:
    chosen = {"temperature": 0, "max_tokens": MOST_TOKENS}
    common = {
        "RAG_EMBEDDING_MODEL": EMBEDDER,
        "DEFAULT_MODEL_PARAMS": json.dumps(chosen),
        # A model this small asks for something else than the user did.
        "ENABLE_RETRIEVAL_QUERY_GENERATION": "false",
    }
    if request.param == "openai":
        schema = {"type": "json_schema", "json_schema": {"name": "task", "schema": _TASKS}}
        provider = {"0": {"enable": True, "provider": "llama.cpp", "headers": {"X-Task": "{{TASK}}"}}}
        environment = {
            "OPENAI_API_BASE_URL": f"{gateway.url}/v1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_API_CONFIGS": json.dumps(provider),
            "ENABLE_OLLAMA_API": "false",
            "RAG_EMBEDDING_ENGINE": "openai",
            "RAG_OPENAI_API_BASE_URL": f"{gateway.url}/v1",
            "RAG_OPENAI_API_KEY": KEY,
            "TASK_MODEL_PARAMS": json.dumps({"response_format": schema}),
        }
        return Connection("openai", common | environment, "/v1/chat/completions", "/v1/embeddings")
    environment = {
        "OLLAMA_BASE_URL": gateway.ollama_url,
        "OLLAMA_API_CONFIGS": json.dumps({"0": {"enable": True, "key": KEY}}),
        "ENABLE_OPENAI_API": "false",
        "RAG_EMBEDDING_ENGINE": "ollama",
        "RAG_OLLAMA_BASE_URL": gateway.ollama_url,
        "RAG_OLLAMA_API_KEY": KEY,
        "TASK_MODEL_PARAMS": json.dumps({"format": _TASKS}),
        # An entry of Ollama's has no place to say so.
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
    }
    return Connection("ollama", common | environment, "/api/chat", "/api/embed")


@pytest.fixture(scope="package")
def web(connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    program = Path(os.environ["LLMSERVE_TEST_OPEN_WEBUI"])
    web = OpenWebUI(program, tmp_path_factory.mktemp(connection.name), connection.environment)
    yield web
    web.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. Skips where `scripts/check-open-webui` did not say which."""
    if "LLMSERVE_TEST_OPEN_WEBUI" not in os.environ:
        pytest.skip("there is no Open WebUI at hand: run scripts/check-open-webui, which installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["LLMSERVE_TEST_CHROMIUM"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    return Path(os.environ["LLMSERVE_TEST_SCREENSHOTS"])


@pytest.fixture(scope="package")
def signed_in(browser: Browser, web: OpenWebUI, connection: Connection, screenshots: Path) -> Iterator[BrowserContext]:
    """A browser whose user made the first account, the administrator's, and has read what is new."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page = context.new_page()
    page.goto(web.url)
    page.get_by_role("button", name="Get started").click()
    page.locator("#name").fill("Admin")
    page.locator("#email").fill("admin@example.test")
    page.locator("#password").fill("k-admin-3243f6a8885a308d")
    page.get_by_role("button", name="Create Admin Account").click()
    page.get_by_role("button", name="Okay, Let's Go!").click()
    page.locator("#chat-input").wait_for()
    page.close()
    yield context
    context.close()


@pytest.fixture
def chat(
    signed_in: BrowserContext, web: OpenWebUI, connection: Connection, gateway: Gateway, screenshots: Path
) -> Iterator[ChatPage]:
    """A new chat, while nothing is computed for an earlier one."""
    chat = ChatPage(signed_in.new_page(), web.url, screenshots / f"open-webui-{connection.name}")
    chat.open()
    chat.until(gateway.idle)
    yield chat
    chat.page.close()


@pytest.fixture
def models(
    signed_in: BrowserContext, web: OpenWebUI, connection: Connection, screenshots: Path
) -> Iterator[ModelsPage]:
    models = ModelsPage(signed_in.new_page(), web.url, screenshots / f"open-webui-{connection.name}")
    models.open()
    yield models
    models.page.close()
