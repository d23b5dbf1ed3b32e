"""What a person does in Open WebUI's pages, by the names and labels they show."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

# On a machine with much else to do even a short answer takes a while.
PATIENCE_SECONDS = 300
_POLL_MILLISECONDS = 50
_SETTLED = re.compile(r"/c/[0-9a-f-]{36}$")


class WebPage:
    """A tab that is signed in."""

    def __init__(self, page: Page, url: str, screenshots: Path) -> None:
        self.page = page
        self.url = url
        self._screenshots = screenshots

    def photograph(self, name: str) -> None:
        self.page.screenshot(path=self._screenshots / f"{name}.png", animations="disabled")

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """As `tests.support.until`, and the browser goes on meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
            self.page.wait_for_timeout(_POLL_MILLISECONDS)

    def get(self, path: str) -> Any:
        """What Open WebUI's own API says."""
        script = "path => fetch(path, {headers: {Authorization: `Bearer ${localStorage.token}`}}).then(r => r.text())"
        return json.loads(self.page.evaluate(script, path))


class ChatPage(WebPage):
    """A chat, at first a new one."""

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#chat-input").wait_for()

    def models(self) -> list[str]:
        """The names in the menu of models, which stays open."""
        self.page.get_by_role("button", name="Selected model").click()
        options = self.page.get_by_role("option")
        options.first.wait_for()
        return [option.inner_text().partition("\n")[0] for option in options.all()]

    def choose(self, model: str) -> None:
        self.page.get_by_role("button", name="Selected model").click()
        self.page.get_by_role("option").filter(has_text=model).click()
        self.page.get_by_role("button", name=f"Selected model: {model}").wait_for()

    def send(self, text: str) -> None:
        """Send a message, and return once the page shows the place of its answer."""
        before = self.answers.count()
        self.page.locator("#chat-input").click()
        self.page.keyboard.type(text)
        self.page.locator("#send-message-button").click()
        self.until(lambda: self.answers.count() > before)

    def ask(self, text: str) -> str:
        """Send a message, wait for the whole answer, and return it."""
        self.send(text)
        self.finish()
        return self.answer()

    @property
    def answers(self) -> Locator:
        return self.page.locator(".chat-assistant")

    @property
    def stop(self) -> Locator:
        return self.page.get_by_role("button", name="Stop")

    def answer(self) -> str:
        """The text of the last answer, as far as it is there."""
        return self.answers.last.inner_text().strip()

    def finish(self) -> None:
        self.until(lambda: self.answer() and not self.stop.is_visible())
        self.until(lambda: _SETTLED.search(self.page.url))

    def saved(self) -> dict[str, Any]:
        """The chat as Open WebUI keeps it."""
        return dict(self.get(f"/api/v1/chats/{self.page.url.rpartition('/')[2]}"))

    def saved_answers(self) -> list[dict[str, Any]]:
        messages = self.saved()["chat"]["history"]["messages"].values()
        return [message for message in messages if message["role"] == "assistant"]

    def upload(self, path: Path) -> None:
        self.page.get_by_role("button", name="More").last.click()
        with self.page.expect_file_chooser() as chosen:
            self.page.get_by_role("menuitem", name="Upload Files").click()
        chosen.value.set_files(path)
        self.page.get_by_text(path.name).first.wait_for()


class ModelsPage(WebPage):
    """The dialog in which an administrator manages the models of the connection."""

    def open(self) -> None:
        self.page.goto(f"{self.url}/admin/settings/models")
        self.page.get_by_role("button", name="Actions").click()
        self.page.get_by_role("button", name="Manage", exact=True).click()
        self.dialog.get_by_role("button", name="Delete Model").first.wait_for()

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog").last

    def field(self, placeholder: str) -> tuple[Locator, Locator]:
        """An input, and the button beside it."""
        field = self.dialog.get_by_placeholder(placeholder)
        return field, field.locator("xpath=ancestor::*[.//button][1]//button").first

    def button(self, model: str, name: str) -> Locator:
        """A button in the row of `model`."""
        button = self.page.get_by_role("button", name=name, exact=True)
        return self.dialog.locator("div").filter(has_text=model).filter(has=button).last.locator(button)

    def confirm(self) -> None:
        self.page.get_by_role("button", name="Confirm").or_(
            self.page.get_by_role("dialog").last.get_by_role("button", name="Delete", exact=True)
        ).first.click()
