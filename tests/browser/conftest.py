"""A browser, gateways for it, and pages that may neither fail nor ask anybody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.gateway import Gateway, copy_of
from tests.fake_hub import FakeHub
from tests.support import until
from tests.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY = "k-page-6bc1bee22e409f96"
# Of two files: what a stopped pull leaves makes the next one of the same file shorter.
HUB_MODEL, STOPPED_MODEL = "hf:owner/tiny:tiny.gguf", "hf:owner/stopped:tiny.gguf"
# The longest wait for what the page or the model is to do: a machine that is busy with other things takes its time.
PATIENCE_SECONDS = 90
# A browser counts an answer that is no success as an error of its own; the page shows those to people.
_ANSWERED = "Failed to load resource"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. Skips where `scripts/test-page` did not say which."""
    executable = os.environ.get("LLMSERVE_TEST_CHROMIUM")
    if executable is None:
        pytest.skip("there is no browser at hand: run scripts/test-page, which finds or installs one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    hub = FakeHub()
    for seed, repository in enumerate(("owner/tiny", "owner/stopped")):
        model = write_tiny_model(tmp_path_factory.mktemp("hub") / "tiny.gguf", seed=seed)
        hub.commit(repository, {"tiny.gguf": model.read_bytes()})
    with hub.running():
        yield hub


@pytest.fixture(scope="session")
def gateway(
    browser: Browser, starter_home: Path, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """It has the starter model, and pulls from `hub`."""
    folder = tmp_path_factory.mktemp("gateway")
    hub_environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "huggingface")}
    gateway = Gateway(copy_of(starter_home, folder / "home"), folder / "log", None, **hub_environment)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def locked_gateway(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """It asks for `KEY`, and has no models."""
    folder = tmp_path_factory.mktemp("locked")
    gateway = Gateway(folder / "home", folder / "log", KEY)
    yield gateway
    gateway.stop()


def holds(page: Page, expression: str) -> None:
    """Wait until this expression is true in `page`, whose policy lets Playwright's own way of it compile nothing."""
    until(lambda: page.evaluate(expression), seconds=PATIENCE_SECONDS)


def sent(page: Page, seen: list[Any]) -> None:
    """Wait until something is in a list that events of `page` fill."""
    until(lambda: page.evaluate("1") and seen, seconds=PATIENCE_SECONDS)


OpenPage = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages of gateways; fails a test whose pages logged an error or sent a request elsewhere."""
    wrong: list[str] = []
    with ExitStack() as opened:

        def open_page(gateway: Gateway, view: str = "", **options: Any) -> Page:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
            opened.callback(context.close)
            context.set_default_timeout(PATIENCE_SECONDS * 1000)
            page = context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on(
                "request",
                lambda asked: wrong.append(asked.url) if not asked.url.startswith(f"{gateway.url}/") else None,
            )
            page.goto(f"{gateway.url}/{view}")
            return page

        yield open_page
    assert [text for text in wrong if _ANSWERED not in text] == []


@pytest.fixture(scope="session")
def screenshots() -> Path:
    folder = Path(os.environ.get("LLMSERVE_TEST_SCREENSHOTS", ".cache/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
