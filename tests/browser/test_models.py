"""The models in a browser: load, plan, unload, pull, remove."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import HUB_MODEL, PATIENCE_SECONDS, STOPPED_MODEL, OpenPage, holds
from tests.browser.gateway import Gateway
from tests.fake_hub import FakeHub
from tests.support import until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

STARTER = "smollm2:135m"


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=name, exact=True))


def expect_state(page: Page, name: str, state: str) -> None:
    card(page, name).get_by_text(state, exact=True).wait_for()


@pytest.fixture(autouse=True)
def unloaded(gateway: Gateway) -> None:
    gateway.unload(STARTER)


def test_a_model_is_loaded_and_unloaded(gateway: Gateway, open_page: OpenPage, screenshots: Path) -> None:
    page = open_page(gateway)
    expect_state(page, STARTER, "Not loaded")
    card(page, STARTER).get_by_role("button", name=f"Load {STARTER}").click()
    expect_state(page, STARTER, "Loaded")
    assert gateway.statuses()[STARTER]["state"] == "ready"
    page.get_by_text(re.compile("1 model, 1 loaded · .* GiB RAM free")).wait_for()
    page.screenshot(path=screenshots / "models.png")
    card(page, STARTER).get_by_role("button", name=f"Unload {STARTER}").click()
    expect_state(page, STARTER, "Not loaded")
    assert STARTER not in gateway.statuses()


@pytest.mark.parametrize("loaded", [False, True])
def test_a_plan_is_shown_with_its_reasons(
    gateway: Gateway, open_page: OpenPage, screenshots: Path, loaded: bool
) -> None:
    if loaded:
        gateway.load(STARTER)
    page = open_page(gateway)
    expect_state(page, STARTER, "Loaded" if loaded else "Not loaded")
    shown = card(page, STARTER)
    how = shown.get_by_text("How it runs, and why")
    if loaded:
        how.click()
        plan = gateway.statuses()[STARTER]["plan"]
    else:
        with page.expect_response("**/admin/plan?*") as answer:
            how.click()
        plan = answer.value.json()["plan"]
    shown.get_by_text("llama.cpp on ").wait_for()
    assert "GiB free when it was planned" in shown.locator("figure.memory").inner_text()
    memory = plan["memory"][0]
    sizes = {name: memory[name] for name in ("weights", "kv_cache", "compute", "overhead", "saved_prefixes")}
    sizes["overhead"] += memory["correction"]
    sizes = {name: size for name, size in sizes.items() if size > 0}
    assert {"weights", "kv_cache"} <= sizes.keys()
    boxes = [shown.locator(f".bar .{name}").bounding_box() for name in sizes]
    # Beyond three pixels that each part has, however small it is, widths are as sizes.
    grown = [box["width"] - 3 for box in boxes if box]
    assert sum(grown) > 3
    scale = sum(grown) / sum(sizes.values())
    assert grown == [pytest.approx(size * scale, abs=0.5) for size in sizes.values()]
    for refusal in plan["refused"]:
        assert refusal["reason"].lower() in shown.locator("dl.refused").inner_text().lower()
    page.screenshot(path=screenshots / f"plan-{'loaded' if loaded else 'preview'}.png", full_page=True)


def test_a_model_in_use_is_not_unloaded_and_that_is_said(gateway: Gateway, open_page: OpenPage) -> None:
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with gateway.http.stream("POST", "/v1/completions", json=body) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        page = open_page(gateway)
        card(page, STARTER).get_by_text("1 request").wait_for()
        card(page, STARTER).get_by_role("button", name=f"Unload {STARTER}").click()
        page.get_by_role("alert").get_by_text("is in use").wait_for()
    until(lambda: gateway.statuses()[STARTER]["leases"] == 0, seconds=PATIENCE_SECONDS)


def test_a_pull_shows_its_progress_and_the_model_can_be_removed(
    gateway: Gateway, hub: FakeHub, open_page: OpenPage, screenshots: Path
) -> None:
    hub.hold_after = 100_000
    hub.holding.clear()
    hub.go_on.clear()
    page = open_page(gateway)
    page.get_by_label("Get a model").fill(HUB_MODEL)
    page.get_by_role("button", name="Pull").click()
    page.get_by_text(f"Downloading: {HUB_MODEL}").wait_for()
    assert hub.holding.wait(PATIENCE_SECONDS)
    holds(page, "document.getElementById('pull-bar').value > 0")
    page.screenshot(path=screenshots / "pull.png")
    hub.go_on.set()
    page.get_by_text(f"{HUB_MODEL} is here.").wait_for()
    expect_state(page, HUB_MODEL, "Not loaded")
    card(page, HUB_MODEL).get_by_text("How it runs, and why").click()
    remove = card(page, HUB_MODEL).get_by_role("button", name="Remove from the disk")
    remove.click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    assert HUB_MODEL in [entry["id"] for entry in gateway.http.get("/v1/models").json()["data"]]
    remove.click()
    page.screenshot(path=screenshots / "remove.png")
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    card(page, HUB_MODEL).wait_for(state="detached")
    assert HUB_MODEL not in [entry["id"] for entry in gateway.http.get("/v1/models").json()["data"]]


def test_a_pull_can_be_stopped(gateway: Gateway, hub: FakeHub, open_page: OpenPage) -> None:
    hub.hold_after = 50_000
    hub.holding.clear()
    hub.go_on.clear()
    answered = gateway.answered("/admin/pull")
    page = open_page(gateway)
    page.get_by_label("Get a model").fill(STOPPED_MODEL)
    page.get_by_label("Get a model").press("Enter")
    assert hub.holding.wait(PATIENCE_SECONDS)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped. What came is kept").wait_for()
    # Not before the gateway knows that nobody waits any more: it would end the pull, and have the model.
    until(lambda: gateway.answered("/admin/pull") > answered, seconds=PATIENCE_SECONDS)
    hub.go_on.set()
    assert STOPPED_MODEL not in [entry["id"] for entry in gateway.http.get("/v1/models").json()["data"]]


def test_a_pull_that_fails_says_why(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway)
    page.get_by_label("Get a model").fill("no-such-model-anywhere")
    page.get_by_role("button", name="Pull").click()
    page.get_by_text("no-such-model-anywhere").and_(page.locator(".notice.bad")).wait_for()
    assert page.get_by_role("button", name="Pull").is_enabled()


def test_the_names_of_the_catalog_are_suggested(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway)
    holds(page, "document.querySelectorAll('#catalog option').length > 20")
    assert page.locator(f"#catalog option[value='{STARTER}']").inner_text().startswith("SmolLM2 135M")


def test_a_failed_model_shows_its_error_and_its_last_lines(
    gateway: Gateway, open_page: OpenPage, screenshots: Path
) -> None:
    gateway.load(STARTER)
    figures = gateway.http.get("/admin/live").json()
    figures["models"][0].update(
        state="failed", plan=None, last_error="the worker ended", log_tail="<b>line 1</b>\nline 2", retry_in_seconds=5
    )
    page = open_page(gateway, "#none")
    page.route("**/admin/live", lambda route: route.fulfill(json=figures))
    expect_state(page, STARTER, "Failed")
    card(page, STARTER).get_by_text("the worker ended").wait_for()
    card(page, STARTER).get_by_text("What its log said").click()
    assert card(page, STARTER).locator("pre").inner_text() == "<b>line 1</b>\nline 2"
    assert card(page, STARTER).get_by_role("button", name=f"Load {STARTER}").is_enabled()
    page.screenshot(path=screenshots / "failed.png")
