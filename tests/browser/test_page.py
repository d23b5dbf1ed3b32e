"""The page as a whole in a browser: the key, the figures, the dark, a phone, a keyboard, a server that is away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import KEY, OpenPage, holds, sent
from tests.browser.gateway import Gateway

if TYPE_CHECKING:
    from playwright.sync_api import Page

STARTER = "smollm2:135m"
VIEWS = ("models", "chat", "live", "problems")
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}

# The texts that are seen and whose contrast to what is behind them is below WCAG's 4.5.
FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const texts = [...node.childNodes].filter((child) => child.nodeType === 3);
    const text = texts.map((child) => child.data.trim()).join('');
    if (!text || node.disabled || !node.checkVisibility()) continue;
    if (node.closest('.unseen, .skip, datalist, option')) continue;
    const behind = [];
    for (let at = node; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const back = light(over(behind));
    const front = light(over([...behind, getComputedStyle(node).color]));
    const contrast = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    if (contrast < 4.5) faint.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return faint;
}"""


def go(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view.capitalize()).click()
    page.locator(f"[data-view={view}]").wait_for()


def connected(page: Page) -> None:
    page.get_by_text("Connected", exact=True).wait_for()


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_asked_for_until_it_is_right(
    locked_gateway: Gateway, open_page: OpenPage, screenshots: Path
) -> None:
    page = open_page(locked_gateway)
    asked: list[tuple[str, str | None]] = []
    page.on("request", lambda request: asked.append((request.url, request.headers.get("authorization"))))
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Go on").click()
    dialog.get_by_role("alert").get_by_text("does not accept this key").wait_for()
    assert page.evaluate("Object.values(sessionStorage)") == []
    page.screenshot(path=screenshots / "wrong-key.png")
    # It cannot be got rid of.
    for _ in range(2):
        page.keyboard.press("Escape")
    assert dialog.is_visible()
    dialog.get_by_label("API key").fill(KEY)
    dialog.get_by_label("API key").press("Enter")
    connected(page)
    page.get_by_text("No model is here yet").wait_for()
    assert not dialog.is_visible()
    page.screenshot(path=screenshots / "empty.png")
    page.reload()
    connected(page)
    assert not dialog.is_visible()
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert [url for url, _ in asked if KEY in url] == []
    assert f"Bearer {KEY}" in {header for url, header in asked if url.endswith("/admin/live")}
    assert {header for url, header in asked if "/page/" in url} == {None}


def test_a_key_that_is_no_longer_right_is_asked_for_anew(locked_gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(locked_gateway)
    page.evaluate("sessionStorage.setItem('llmserve-key', 'an older one')")
    page.reload()
    page.get_by_role("dialog").get_by_role("alert").get_by_text("does not accept this key").wait_for()


# --- looks -----------------------------------------------------------------------------------------------------------


def an_answer(gateway: Gateway) -> None:
    body = {"model": STARTER, "prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": True, "stream": True}
    assert gateway.http.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(gateway: Gateway, open_page: OpenPage, screenshots: Path, scheme: str) -> None:
    gateway.load(STARTER)
    gateway.http.get("/v1/models/nope")
    page = open_page(gateway, color_scheme=scheme)
    connected(page)
    page.get_by_text("How it runs, and why").first.click()
    page.locator(".bar").wait_for()
    an_answer(gateway)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) is (scheme == "dark")
    for view in VIEWS:
        go(page, view)
        if view == "live":
            holds(page, "/now /.test(document.querySelectorAll('.chart')[2].querySelector('svg').ariaLabel)")
        assert page.evaluate(FAINT) == []
        page.screenshot(path=screenshots / f"{scheme}-{view}.png", full_page=view != "chat")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_phone(gateway: Gateway, open_page: OpenPage, screenshots: Path, scheme: Any) -> None:
    gateway.load(STARTER)
    gateway.http.get("/v1/models/nope")
    page = open_page(gateway, color_scheme=scheme, **PHONE)
    connected(page)
    page.get_by_text("How it runs, and why").first.click()
    page.locator(".bar").wait_for()
    for view in VIEWS:
        go(page, view)
        if view == "problems":
            page.get_by_text("GET /v1/models/{model} → 404").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["viewport"]["width"]
        assert page.evaluate(WIDER_THAN_THE_SCREEN) == []
        navigation = page.get_by_role("navigation").bounding_box()
        assert navigation is not None
        assert navigation["y"] + navigation["height"] == PHONE["viewport"]["height"]
        page.screenshot(path=screenshots / f"phone-{scheme}-{view}.png")
    go(page, "chat")
    composer = page.get_by_label("Your message").bounding_box()
    assert composer is not None
    assert composer["y"] + composer["height"] < navigation["y"]


WIDER_THAN_THE_SCREEN = """() => [...document.querySelectorAll('body *')]
  .filter((node) => node.checkVisibility() && !node.closest('.unseen, .skip, pre, svg'))
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
  .map((node) => node.outerHTML.slice(0, 80))"""


# --- figures and problems --------------------------------------------------------------------------------------------


def test_the_charts_follow_what_happens(gateway: Gateway, open_page: OpenPage) -> None:
    gateway.load(STARTER)
    page = open_page(gateway, "#live")
    chart = page.get_by_role("figure").filter(has_text="Tokens per second").get_by_role("img")
    holds(page, "document.querySelectorAll('.chart .line').length >= 4")
    an_answer(gateway)
    holds(page, "/now [1-9]/.test(document.querySelectorAll('.chart')[2].querySelector('svg').ariaLabel)")
    assert re.match(r"Tokens per second: now [1-9][\d.]*, at most", chart.get_attribute("aria-label") or "")
    memory = page.get_by_role("figure").filter(has_text="RAM in use")
    assert "planned for models" in memory.inner_text()
    first = page.get_by_role("figure").filter(has_text="Time to first token")
    assert re.search(r"on average, of \d+ streamed answers?", first.inner_text())
    page.get_by_role("figure").filter(has_text="Requests running").locator(".plot").hover()
    page.get_by_text(re.compile(r"^\d+ at \d\d:\d\d:\d\d$")).wait_for()


def test_problems_are_listed_as_they_happen(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway, "#problems")
    connected(page)
    gateway.http.post("/v1/chat/completions", json={"model": "<i>nope</i>", "messages": []})
    page.get_by_text("POST /v1/chat/completions → 400").first.wait_for()
    assert page.locator("#problems-list i").count() == 0


def test_a_server_that_is_away_is_told_and_found_again(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway)
    connected(page)
    page.route("**/admin/live", lambda route: route.abort())
    page.get_by_text("The server does not answer.").wait_for()
    page.unroute("**/admin/live")
    connected(page)


def test_nothing_is_asked_while_nobody_looks(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway)
    connected(page)
    page.clock.install()
    page.reload()
    connected(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(HIDE, True)
    page.clock.run_for(60_000)
    assert asked == []
    page.evaluate(HIDE, False)
    sent(page, asked)


HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


# --- without a mouse, and without eyes -------------------------------------------------------------------------------


def test_a_keyboard_reaches_everything(gateway: Gateway, open_page: OpenPage) -> None:
    page = open_page(gateway)
    connected(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.get_by_role("link", name="Live").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Live", exact=True).wait_for()
    assert page.evaluate("document.activeElement.id") == "live-heading"
    assert page.get_by_role("link", name="Live").get_attribute("aria-current") == "page"
    page.go_back()
    page.get_by_role("heading", name="Models", exact=True).wait_for()
    assert page.title() == "Models · llmserve"


@pytest.mark.parametrize("view", VIEWS)
def test_everything_that_can_be_used_has_a_name(gateway: Gateway, open_page: OpenPage, view: str) -> None:
    page = open_page(gateway, f"#{view}")
    connected(page)
    snapshot = page.locator("body").aria_snapshot()
    controls = re.findall(
        r"^\s*- (?:button|textbox|combobox|spinbutton|checkbox|link|progressbar)\b.*$", snapshot, re.M
    )
    assert len(controls) >= 5
    assert [line for line in controls if not re.search(r'"[^"]+"', line)] == []
    assert snapshot.count("heading") >= 1
    # A placeholder is no name: it goes when something is written.
    fields = f"[data-view={view}] :is(input, select, textarea)"
    assert page.locator(fields).evaluate_all("nodes => nodes.filter((node) => !node.labels.length).length") == 0
