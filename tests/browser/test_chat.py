"""The chat in a browser: streams, stop, parameters, thoughts, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import PATIENCE_SECONDS, OpenPage, holds, sent
from tests.browser.gateway import Gateway
from tests.support import until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Request, Route

STARTER = "smollm2:135m"
# The model goes on with this for thousands of tokens.
LONG = "Write every number from 1 to 500, one per line."


@pytest.fixture(autouse=True)
def loaded(gateway: Gateway) -> None:
    gateway.load(STARTER)


@pytest.fixture
def page(gateway: Gateway, open_page: OpenPage) -> Page:
    page = open_page(gateway, "#chat")
    # The model's own defaults have come into the form.
    holds(page, "document.getElementById('chat-system').value !== ''")
    return page


def ask(page: Page, text: str) -> Locator:
    """Send `text`; the message that answers."""
    message = page.get_by_label("Your message")
    message.fill(text)
    message.press("Enter")
    return page.locator(".message.assistant").last


def finish(page: Page) -> None:
    page.get_by_role("button", name="Send").wait_for()


def requests(page: Page) -> list[dict[str, Any]]:
    """A list that the bodies of this page's requests for answers go to."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            bodies.append(json.loads(request.post_data or ""))

    page.on("request", note)
    return bodies


def events(*values: Any) -> str:
    return "".join(f"data: {json.dumps(value)}\n\n" for value in values)


def delta(**fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def answered_with(page: Page, body: str) -> None:
    """Let the server's answers be this event stream."""

    def fulfill(route: Route) -> None:
        route.fulfill(content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", fulfill)


def test_an_answer_streams(page: Page, screenshots: Path) -> None:
    answer = ask(page, "What is the capital of France?")
    page.get_by_role("button", name="Stop").wait_for()
    finish(page)
    assert "Paris" in answer.inner_text()
    assert "tokens/s" in answer.inner_text()
    assert page.get_by_label("Your message").evaluate("node => node === document.activeElement")
    bodies = requests(page)
    answer = ask(page, "And of Italy? Say it in a Python function with `return`.")
    finish(page)
    ((request),) = bodies
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "user"]
    assert (request["stream"], request["temperature"]) == (True, 0)
    page.screenshot(path=screenshots / "chat.png")


def test_it_is_drawn_while_it_is_written(page: Page) -> None:
    page.get_by_label("Most tokens").fill("4000")
    answer = ask(page, LONG)
    holds(page, "document.querySelector('.message.assistant .text').textContent.length > 20")
    assert page.get_by_role("button", name="Stop").is_visible()
    assert page.get_by_role("log").get_attribute("aria-busy") == "true"
    length = len(answer.locator(".text").inner_text())
    holds(page, f"document.querySelector('.message.assistant .text').textContent.length > {length + 20}")
    page.get_by_role("button", name="Stop").click()
    finish(page)
    assert page.get_by_role("log").get_attribute("aria-busy") == "false"


def test_stop_stops_the_engine(gateway: Gateway, page: Page) -> None:
    cancelled = gateway.worker_stats(STARTER)["cancelled"]
    page.get_by_label("Most tokens").fill("4000")
    answer = ask(page, LONG)
    holds(page, "document.querySelector('.message.assistant .text').textContent.length > 20")
    assert gateway.worker_stats(STARTER)["running"] == 1
    page.get_by_role("button", name="Stop").click()
    finish(page)
    until(lambda: gateway.worker_stats(STARTER)["running"] == 0, seconds=PATIENCE_SECONDS)
    assert gateway.worker_stats(STARTER)["cancelled"] == cancelled + 1
    until(lambda: gateway.statuses()[STARTER]["leases"] == 0, seconds=PATIENCE_SECONDS)
    assert "Stopped" in answer.inner_text()
    # What was written is part of the conversation.
    bodies = requests(page)
    page.get_by_label("Most tokens").fill("5")
    ask(page, "Thank you.")
    finish(page)
    assert len(bodies[0]["messages"]) == 4


def test_an_answer_that_is_not_streamed(page: Page) -> None:
    page.get_by_label("Show the answer while it is written").uncheck()
    bodies = requests(page)
    answer = ask(page, "What is the capital of France?")
    finish(page)
    assert "Paris" in answer.inner_text()
    assert bodies[0]["stream"] is False


def test_the_parameters_are_sent_and_hold(page: Page) -> None:
    bodies = requests(page)
    page.get_by_label("System message").fill("You are a pirate.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Most tokens").fill("3")
    answer = ask(page, "Tell me a story.")
    finish(page)
    (request,) = bodies
    assert (request["temperature"], request["max_tokens"]) == (0.5, 3)
    assert request["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert "3 tokens" in answer.inner_text()
    assert "ended by the limit of tokens" in answer.inner_text()


def test_a_parameter_out_of_range_is_not_sent(page: Page) -> None:
    bodies = requests(page)
    page.get_by_label("Temperature").fill("7")
    page.get_by_label("Your message").fill("Hello")
    page.get_by_label("Your message").press("Enter")
    holds(page, "document.activeElement.id === 'chat-temperature'")
    assert bodies == []
    assert page.get_by_label("Your message").input_value() == "Hello"


def test_an_answer_is_asked_for_again_and_a_new_chat_begun(page: Page) -> None:
    page.get_by_label("Most tokens").fill("8")
    ask(page, "Say a word.")
    finish(page)
    bodies = requests(page)
    page.get_by_role("button", name="Answer again").click()
    sent(page, bodies)
    finish(page)
    assert [message["role"] for message in bodies[0]["messages"]] == ["system", "user"]
    assert page.locator(".message").count() == 2
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".message").count() == 0
    page.get_by_text("Say something to smollm2:135m").wait_for()


def test_thoughts_are_shown_apart(page: Page, screenshots: Path) -> None:
    thoughts = [delta(reasoning_content="The user "), delta(reasoning_content="greets.")]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    answered_with(page, events(*thoughts, delta(content="**Hello** <b>you</b>"), end) + "data: [DONE]\n\n")
    answer = ask(page, "Hi")
    finish(page)
    assert answer.locator(".text").inner_text() == "Hello <b>you</b>"
    assert answer.locator(".thoughts").text_content() == "The user greets."
    assert not answer.locator(".thoughts").is_visible()
    answer.get_by_text("Thoughts").click()
    assert answer.locator(".thoughts").is_visible()
    page.screenshot(path=screenshots / "thoughts.png")


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (events({"error": {"message": "the worker was killed"}}), "the worker was killed"),
        ("", "The answer ended before it was complete."),
    ],
)
def test_a_stream_that_breaks_says_so_and_keeps_what_came(page: Page, ending: str, says: str) -> None:
    answered_with(page, events(delta(content="Once upon")) + ending)
    answer = ask(page, "A story")
    answer.get_by_role("alert").get_by_text(says).wait_for()
    finish(page)
    assert answer.locator(".text").inner_text() == "Once upon"
    assert answer.get_by_role("button", name="Answer again").is_visible()


def test_a_refusal_of_the_server_is_read_out(page: Page) -> None:
    answer = ask(page, "word " * 20_000)
    answer.get_by_role("alert").get_by_text("8192 tokens").wait_for()
    finish(page)


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "```\n<script>alert(1)</script>\n```", "`<b>`"])
def test_nothing_that_is_written_becomes_markup(page: Page, text: str) -> None:
    answered_with(page, events(delta(content=text)) + "data: [DONE]\n\n")
    answer = ask(page, text.replace("\n", " "))
    finish(page)
    assert page.locator(".message :is(img, script, b)").count() == 0
    assert text.strip("`\n") in (answer.locator(".text").text_content() or "")
