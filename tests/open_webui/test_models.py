"""An administrator loads, unloads, pulls and deletes models in Open WebUI."""

from __future__ import annotations

import re

import pytest

from tests.fake_hub import FakeHub
from tests.open_webui.conftest import EMBEDDER, HUB_MODEL, STARTER
from tests.open_webui.pages import ModelsPage
from tests.open_webui.programs import Gateway


@pytest.mark.parametrize("connection", ["ollama"], indirect=True)
def test_ollama_pulls_with_progress_and_deletes(models: ModelsPage, gateway: Gateway, hub: FakeHub) -> None:
    content = hub.repositories["owner/tiny"].commits[hub.repositories["owner/tiny"].branches["main"]]["tiny.gguf"]
    hub.hold_after = len(content) // 2
    field, button = models.field("Enter model tag (e.g. mistral:7b)")
    field.fill(HUB_MODEL)
    button.click()
    # Never the whole before it is there.
    percent = models.page.get_by_text(re.compile(r"^\s*(\d+(\.\d+)?)\s*%\s*$")).first
    percent.wait_for()
    models.photograph("pull")
    assert 0 < float(percent.inner_text().strip().rstrip("%")) < 100
    assert HUB_MODEL not in gateway.installed()
    hub.go_on.set()
    models.until(lambda: HUB_MODEL in gateway.installed())
    # The dialog lists what there was when it was opened.
    models.open()
    select = models.dialog.locator("select").last
    select.select_option(HUB_MODEL)
    models.photograph("pulled")
    models.dialog.get_by_role("button", name="Delete Model").click()
    models.confirm()
    models.until(lambda: HUB_MODEL not in gateway.installed())
    models.open()
    models.until(lambda: STARTER in select.inner_text())
    assert HUB_MODEL not in select.inner_text()
    models.photograph("deleted")


@pytest.mark.parametrize("connection", ["openai"], indirect=True)
def test_the_router_loads_unloads_pulls_and_deletes(models: ModelsPage, gateway: Gateway) -> None:
    models.button(EMBEDDER, "Unload Model").click()
    models.until(lambda: not gateway.ready(EMBEDDER))
    models.button(EMBEDDER, "Load Model").click()
    models.until(lambda: gateway.ready(EMBEDDER))
    models.button(EMBEDDER, "Unload Model").and_(models.page.locator(":enabled")).wait_for()
    models.photograph("loaded")
    field, button = models.field("Type a model ref")
    field.fill(HUB_MODEL)
    button.click()
    models.until(lambda: HUB_MODEL in gateway.installed())
    models.open()
    models.photograph("downloaded")
    models.button(HUB_MODEL, "Delete Model").click()
    models.confirm()
    models.until(lambda: HUB_MODEL not in gateway.installed())
    models.photograph("removed")
