"""The page at `/`: who gets it, with which headers, and what it may do."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import PurePath
from typing import Any

import httpx2
import pytest

from llmserve.api.app import build_app
from llmserve.api.gateway import Gateway
from llmserve.settings import Settings
from tests.api.conftest import KEY
from tests.api.fakes import FakeFleet, FakeStore, Served, Worker

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = resources.files("llmserve").joinpath("page")
SOURCES = sorted(entry.name for entry in FOLDER.iterdir())


class References(HTMLParser):
    """The addresses in a document, its scripts' texts, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.attributes: list[str] = []
        self.tags: list[str] = []
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action", "srcset"}]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in {"script", "style"} and data.strip():
            self.inside.append(data)


def page(client: httpx2.Client) -> httpx2.Response:
    answer = client.get("/", headers=BROWSER)
    assert answer.status_code == 200
    return answer


def files(client: httpx2.Client) -> list[str]:
    """The addresses of the files that belong to the page, its modules included."""
    (main,) = (name for name in References(page(client).text).addresses if name.endswith("/main.js"))
    return [f"{main.removesuffix('main.js')}{name}" for name in SOURCES if name != "index.html"]


# --- who gets it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (BROWSER["Accept"], 200),
        ("text/html", 200),
        ("application/json, TEXT/HTML; q=0.5", 200),
        ("text/html; q=0", 404),
        ("text/html;q=0.0, */*", 404),
        ("*/*", 404),
        ("text/*", 404),
        ("application/json", 404),
        ("text/htmlx", 404),
        ("", 404),
    ],
)
def test_only_who_asks_for_html_gets_the_page(open_gateway: Served, accept: str, status: int) -> None:
    with open_gateway.client() as client:
        answer = client.get("/", headers={"Accept": accept})
        assert answer.status_code == status
        assert client.head("/", headers={"Accept": accept}).status_code == status
        assert client.post("/", headers={"Accept": accept}, json={}).status_code == 404
    assert answer.headers["content-type"] == ("text/html; charset=utf-8" if status == 200 else "application/json")


async def test_ollamas_clients_find_their_greeting_beside_the_page(worker: Worker) -> None:
    store = FakeStore()
    gateway = Gateway(FakeFleet(store, worker.socket), store, Settings(ollama_port=11434))  # type: ignore[arg-type]
    transport = httpx2.ASGITransport(build_app(gateway))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        greeting = await client.get("/")
        assert (greeting.text, greeting.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
        assert (await client.head("/")).status_code == 200
        assert (await client.get("/", headers=BROWSER)).text.startswith("<!doctype html>")
        assert (await client.get("http://127.0.0.1:11435/")).status_code == 404


@pytest.mark.parametrize("settings", [Settings(page=False), Settings(page=False, ollama_port=1)])
def test_it_can_be_switched_off(serve: Callable[..., Served], open_gateway: Served, settings: Settings) -> None:
    with open_gateway.client() as client:
        addresses = files(client)
    with serve(settings).client() as client:
        assert [client.get(address, headers=BROWSER).status_code for address in ["/", *addresses]] == [404] * (
            1 + len(addresses)
        )


def test_without_the_key_the_page_is_loaded_and_nothing_else(locked_gateway: Served) -> None:
    with locked_gateway.client() as client:
        for address in files(client):
            assert client.get(address).status_code == 200
        for address in ("/", "/page/0123456789abcdef/main.js", "/page/x/../../v1/models", "/admin/live", "/v1/models"):
            assert client.get(address).status_code == 401
        assert client.post("/", headers=BROWSER, json={}).status_code == 401
        assert client.get("/v1/models", headers=BROWSER).status_code == 401
        for name in ("live", "problems", "catalog", "plan?model=tiny"):
            assert client.get(f"/admin/{name}", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_it_holds_no_key(locked_gateway: Served) -> None:
    with locked_gateway.client() as client:
        assert KEY not in page(client).text + "".join(client.get(address).text for address in files(client))


@pytest.mark.parametrize("headers", [("Host: evil.test",), ("Origin: https://evil.test",)])
def test_the_guards_hold_for_the_page_too(open_gateway: Served, headers: tuple[str, ...]) -> None:
    host = next((line.partition(": ")[2] for line in headers if line.startswith("Host")), None)
    others = [line for line in headers if not line.startswith("Host")]
    assert open_gateway.raw(open_gateway.head("GET", "/", "Accept: text/html", *others, host=host)).status == 403


# --- what it may do --------------------------------------------------------------------------------------------------


def policy(answer: httpx2.Response) -> dict[str, str]:
    directives = [part.strip().partition(" ") for part in answer.headers["content-security-policy"].split(";")]
    return {name: value for name, _, value in directives}


def test_every_file_is_served_with_a_strict_policy(open_gateway: Served) -> None:
    with open_gateway.client() as client:
        answers = [page(client), *(client.get(address) for address in files(client))]
    for answer in answers:
        assert answer.status_code == 200
        allowed = policy(answer)
        assert (allowed["default-src"], allowed["frame-ancestors"], allowed["base-uri"]) == ("'none'",) * 3
        assert {allowed[f"{name}-src"] for name in ("script", "style", "img", "connect")} == {"'self'"}
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


def test_the_document_holds_no_code_and_no_address_of_others(open_gateway: Served) -> None:
    with open_gateway.client() as client:
        found = References(page(client).text)
        assert found.inside == []
        assert "style" not in {*found.tags, *found.attributes}
        assert [name for name in found.attributes if name.startswith("on")] == []
        assert {address for address in found.addresses if not address.startswith(("/page/", "#"))} == set()
        for address in found.addresses:
            assert address.startswith("#") or client.get(address).status_code == 200


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith((".js", ".css"))])
def test_a_file_asks_nobody_else_and_makes_no_markup_of_text(name: str) -> None:
    text = FOLDER.joinpath(name).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|@import", text)
    for imported in re.findall(r"^import .* from \"(.*)\";$", text, re.MULTILINE):
        assert imported.removeprefix("./") in SOURCES


# --- caching ---------------------------------------------------------------------------------------------------------


def test_the_document_is_asked_for_anew_and_the_files_are_kept(open_gateway: Served) -> None:
    with open_gateway.client() as client:
        first = page(client)
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["vary"] == "Accept, Origin"
        again = client.get("/", headers={**BROWSER, "If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "content-security-policy" in again.headers
        other = client.get("/", headers={**BROWSER, "If-None-Match": '"other"'})
        assert (other.status_code, other.text) == (200, first.text)
        for address in files(client):
            assert client.get(address).headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "/page/{version}/",
        "/page/{version}/index.html",
        "/page/{version}/nothing.js",
        "/page/{version}/../page.py",
        "/page/{version}/..%2fpage.py",
        "/page/0000000000000000/main.js",
        "/page/main.js",
        "/page",
    ],
)
def test_nothing_else_is_there(open_gateway: Served, path: str) -> None:
    with open_gateway.client() as client:
        version = PurePath(files(client)[0]).parent.name
    answer = open_gateway.raw(open_gateway.head("GET", path.replace("{version}", version)))
    assert answer.status == 404
    assert answer.error["message"]


def test_files_have_the_types_that_browsers_demand(open_gateway: Served) -> None:
    types: dict[str, set[Any]] = {}
    with open_gateway.client() as client:
        for address in files(client):
            types.setdefault(PurePath(address).suffix, set()).add(client.get(address).headers["content-type"])
    assert types == {
        ".js": {"text/javascript; charset=utf-8"},
        ".css": {"text/css; charset=utf-8"},
        ".svg": {"image/svg+xml"},
    }
