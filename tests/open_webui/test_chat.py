"""Chats in Open WebUI, on either connection; what the page shows is compared with what the engine did."""

from __future__ import annotations

import re

from tests.open_webui.conftest import EMBEDDER, MOST_TOKENS, SECOND, STARTER, Connection
from tests.open_webui.pages import PATIENCE_SECONDS, ChatPage
from tests.open_webui.programs import Gateway

CAPITAL = "Name the capital of France."
# The model goes on with this for more tokens than it may write.
LONG = "Tell a long story about a king, a dragon and a village."
# A click goes through Open WebUI's server and its connection to here; a step of the engine is done before that.
_STOP_SECONDS = 20


def written(gateway: Gateway, model: str) -> float:
    return gateway.metric("llmserve_tokens_total", model=model, kind="completion")


def test_models_are_listed(chat: ChatPage, connection: Connection) -> None:
    names = chat.models()
    chat.photograph("models")
    # Ollama's list has no way to say what a model is for.
    hidden = {EMBEDDER} if connection.name == "openai" else set()
    assert set(names) == {STARTER, SECOND, EMBEDDER} - hidden
    assert chat.page.get_by_role("button", name=f"Selected model: {STARTER}").is_visible()


def test_an_answer_is_shown_while_it_is_written(chat: ChatPage, gateway: Gateway, connection: Connection) -> None:
    requests, tokens = gateway.metric("llmserve_requests_total", route=connection.chat_route), written(gateway, STARTER)
    chat.send(LONG)
    shown: set[str] = set()

    def finished() -> bool:
        shown.add(chat.answer())
        return bool(chat.answer()) and not chat.stop.is_visible()

    chat.until(finished)
    chat.photograph("answer")
    assert len(shown) > 10
    (saved,) = chat.saved_answers()
    assert saved["usage"]["completion_tokens"] == MOST_TOKENS
    assert written(gateway, STARTER) >= tokens + MOST_TOKENS
    assert gateway.metric("llmserve_requests_total", route=connection.chat_route, status="2xx") > requests


def test_a_short_answer_is_right(chat: ChatPage) -> None:
    assert "Paris" in chat.ask(CAPITAL)


def test_stop_stops_the_engine(chat: ChatPage, gateway: Gateway) -> None:
    chat.ask(CAPITAL)
    # What is written about the first message in the background is over.
    chat.until(gateway.idle)
    before = gateway.worker_stats(STARTER)
    chat.send(LONG)
    chat.until(lambda: len(chat.answer()) > 10)
    assert gateway.worker_stats(STARTER)["running"] == 1
    chat.stop.click()
    chat.until(lambda: gateway.worker_stats(STARTER)["running"] == 0, seconds=_STOP_SECONDS)
    after = gateway.worker_stats(STARTER)
    assert after["cancelled"] == before["cancelled"] + 1
    assert after["generated_tokens"] < before["generated_tokens"] + MOST_TOKENS
    chat.until(lambda: not chat.stop.is_visible())
    chat.photograph("stopped")
    kept = chat.answer()
    assert kept
    # The chat goes on as if nothing had been.
    assert chat.ask("Name the capital of Italy.")
    assert chat.answers.nth(1).inner_text().strip() == kept


def test_a_second_turn_goes_on_from_the_first(chat: ChatPage, gateway: Gateway) -> None:
    chat.ask(CAPITAL)
    chat.until(gateway.idle)
    (first,) = chat.saved_answers()
    before = gateway.worker_stats(STARTER)
    chat.ask("Name the capital of Italy.")
    chat.photograph("second-turn")
    second = chat.saved_answers()[-1]
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    # What the first turn computed was not computed again.
    assert gateway.worker_stats(STARTER)["cached_tokens"] >= before["cached_tokens"] + first["usage"]["prompt_tokens"]


def test_regenerate_gives_a_second_answer(chat: ChatPage, gateway: Gateway) -> None:
    chat.ask(CAPITAL)
    chat.until(gateway.idle)
    tokens = written(gateway, STARTER)
    chat.page.get_by_role("button", name="Regenerate").click()
    chat.page.get_by_role("button", name="Try Again").click()
    chat.until(lambda: len(chat.saved_answers()) == 2)
    chat.finish()
    chat.photograph("regenerated")
    assert "Paris" in chat.answer()
    assert re.search(r"\b2\s*/\s*2\b", chat.page.locator("body").inner_text())
    chat.until(lambda: written(gateway, STARTER) > tokens)


def test_title_tags_and_follow_ups_are_written(chat: ChatPage, gateway: Gateway, connection: Connection) -> None:
    requests = gateway.metric("llmserve_requests_total", route=connection.chat_route, status="2xx")
    chat.ask(CAPITAL)
    chat.until(lambda: chat.saved()["meta"].get("tags"))
    title = chat.saved()["title"]
    assert title not in ("", "New Chat", CAPITAL)
    chat.until(lambda: chat.page.title().startswith(title[:20]))
    chat.page.get_by_role("button", name="Follow up:").first.wait_for()
    chat.page.get_by_role("button", name="Open Sidebar").click()
    chat.page.get_by_role("button", name="Close Sidebar").wait_for()
    assert chat.page.get_by_text(title).first.is_visible()
    chat.page.get_by_role("button", name="Chat actions").click()
    chat.photograph("title-and-tags")
    # The answer, the title, the follow-ups and the tags.
    chat.until(
        lambda: gateway.metric("llmserve_requests_total", route=connection.chat_route, status="2xx") >= requests + 4
    )


def test_two_models_take_turns_in_a_chat(chat: ChatPage, gateway: Gateway) -> None:
    chat.ask(CAPITAL)
    chat.until(gateway.idle)
    for model, other in ((SECOND, STARTER), (STARTER, SECOND)):
        tokens, others = written(gateway, model), written(gateway, other)
        chat.choose(model)
        assert chat.ask(CAPITAL)
        chat.until(gateway.idle, PATIENCE_SECONDS)
        assert written(gateway, model) > tokens
        assert written(gateway, other) == others
        assert chat.saved_answers()[-1]["model"] == model
    chat.photograph("two-models")
