"""What a web page can do to a server on this machine: nothing, unless its Origin is allowed."""

from __future__ import annotations

import json

import pytest

from llmserve.api.app import build_app
from llmserve.api.gateway import Gateway
from llmserve.api.guards import OriginPolicy
from llmserve.errors import SettingsError
from llmserve.settings import Settings
from tests.api.conftest import ALLOWED_ORIGIN
from tests.api.fakes import Served, every_route
from tests.api.test_keys import target

CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
JSON = "Content-Type: application/json"
FOREIGN = [
    "https://evil.test",
    "null",
    "http://localhost.evil.test",
    "http://127.0.0.1.evil.test",
    "http://UI.test:3000",
]


def post(gateway: Served, target: str, body: bytes, *headers: str, host: str | None = None) -> bytes:
    return gateway.head("POST", target, f"Content-Length: {len(body)}", *headers, host=host) + body


def every_request(gateway: Served) -> list[tuple[str, str]]:
    """A method and a path for each route and method."""
    routes = every_route(gateway.gateway)
    return [(method, target(route.path)) for route in routes for method in route.methods or ()]


# --- W1: Host --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.test", 403),
        ("evil.test:11435", 403),
        ("localhost.evil.test", 403),
        ("127.0.0.1.nip.io", 403),
        ("2130706433", 403),
        ("0x7f.1", 403),
        ("", 400),
        ("localhost:http", 400),
        ("local host", 400),
        ("user@localhost", 400),
        ("localhost/health?", 400),
        ("x/health?y=", 400),
        ("[::1", 400),
        ("l" * 300, 400),
        ("l" * 65536, 431),
    ],
    ids=lambda value: f"W1 {value[:24]!r}" if isinstance(value, str) else None,
)
def test_other_hosts_are_refused_before_anything_else(locked_gateway: Served, host: str, status: int) -> None:
    # No key is sent: a 401 would mean that the key was looked at first.
    answer = locked_gateway.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.status == status
    assert answer.error["type"]


@pytest.mark.parametrize(
    "lines", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nhost: evil.test\r\n"]
)
def test_w1_host_must_appear_exactly_once(open_gateway: Served, lines: str) -> None:
    assert open_gateway.raw(f"GET /health HTTP/1.1\r\n{lines}\r\n".encode()).status == 400


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]:11435", "192.168.1.7", "models.test:443"]
)
def test_w1_own_names_are_served(open_gateway: Served, host: str) -> None:
    assert open_gateway.raw(open_gateway.head("GET", "/health", host=host)).status == 200


# --- W2: Origin ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", FOREIGN, ids=[f"W2 {origin}" for origin in FOREIGN])
def test_a_foreign_page_is_refused_everywhere_without_effect(open_gateway: Served, origin: str) -> None:
    fleet = open_gateway.fleet
    effects = (len(fleet.asked), len(fleet.stopped), open_gateway.worker.count())
    for method, path in every_request(open_gateway):
        body = json.dumps({"model": "tiny"}).encode() if path.startswith("/admin") else CHAT
        request = post(open_gateway, path, body, JSON, f"Origin: {origin}")
        answer = open_gateway.raw(request.replace(b"POST", method.encode(), 1))
        assert (method, path, answer.status) == (method, path, 403)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        if method != "HEAD":
            assert "Origin" in answer.message
    assert (len(fleet.asked), len(fleet.stopped), open_gateway.worker.count()) == effects


def test_w2_two_origins_are_refused(open_gateway: Served) -> None:
    request = open_gateway.head("GET", "/health", f"Origin: {ALLOWED_ORIGIN}", "Origin: https://evil.test")
    assert open_gateway.raw(request).status == 403


def test_an_allowed_page_may_read_answers_and_errors(open_gateway: Served) -> None:
    for body, status in ((CHAT, 200), (b"{}", 400)):
        answer = open_gateway.raw(post(open_gateway, "/v1/chat/completions", body, JSON, f"Origin: {ALLOWED_ORIGIN}"))
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "Origin"


def test_a_page_of_the_servers_own_needs_no_permission(open_gateway: Served) -> None:
    origin = f"Origin: http://{open_gateway.authority}"
    answer = open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, JSON, origin))
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "null", "localhost:3000", "http://ui.test/", "http://a b"])
def test_what_is_no_origin_cannot_be_allowed(origin: str) -> None:
    with pytest.raises(SettingsError, match="allowed_origins"):
        OriginPolicy((origin,))


# --- W3: preflight ---------------------------------------------------------------------------------------------------


def preflight(gateway: Served, origin: str) -> bytes:
    return gateway.head(
        "OPTIONS",
        "/v1/chat/completions",
        f"Origin: {origin}",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization, content-type, x-stainless-lang",
        "Access-Control-Request-Private-Network: true",
    )


def test_w3_preflight_of_an_allowed_page_needs_no_key(locked_gateway: Served) -> None:
    answer = locked_gateway.raw(preflight(locked_gateway, ALLOWED_ORIGIN))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", FOREIGN, ids=[f"W3 {origin}" for origin in FOREIGN])
def test_preflight_of_another_page_is_refused(open_gateway: Served, origin: str) -> None:
    answer = open_gateway.raw(preflight(open_gateway, origin))
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


# --- W4, W5: requests that need no preflight -------------------------------------------------------------------------

SIMPLE = [
    ("Content-Type: text/plain",),
    ("Content-Type: application/x-www-form-urlencoded",),
    ("Content-Type: multipart/form-data; boundary=x",),
    (),
    ("Content-Type: application/json, text/plain",),
    ("Content-Type: application/json; charset=utf-16",),
    ("Content-Type: text/plain", "Content-Type: application/json"),
]


@pytest.mark.parametrize("headers", SIMPLE, ids=[f"W4 {' '.join(headers) or 'none'}" for headers in SIMPLE])
def test_only_json_is_read(open_gateway: Served, headers: tuple[str, ...]) -> None:
    asked = len(open_gateway.fleet.asked)
    answer = open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, *headers))
    assert answer.status == 415
    assert answer.error["code"] == "unsupported_media_type"
    assert len(open_gateway.fleet.asked) == asked


def test_a_body_of_no_type_is_read_with_a_key(open_gateway: Served) -> None:
    """A page may not send the header of a key without being asked first, as it may not send JSON."""
    for key in ("Authorization: Bearer x", "X-Api-Key: x"):
        assert open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, key)).status == 200
        form = "Content-Type: application/x-www-form-urlencoded"
        assert open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, key, form)).status == 415


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=UTF-8", "application/json ;x=1"])
def test_json_by_any_spelling_is_read(open_gateway: Served, media_type: str) -> None:
    answer = open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, f"Content-Type: {media_type}"))
    assert answer.status == 200


def test_w5_get_changes_nothing(open_gateway: Served) -> None:
    fleet = open_gateway.fleet
    effects = (len(fleet.asked), len(fleet.stopped))
    requests = every_request(open_gateway)
    read = {path for method, path in requests if method == "GET"}
    changing = {path for method, path in requests if method in {"POST", "DELETE"}} - read
    assert len(changing) > 25
    # For who reads it is the id of a response, as `/v1/responses/{id}` has it.
    changing.remove("/v1/responses/input_tokens")
    for path in changing:
        answer = open_gateway.raw(open_gateway.head("GET", path, "Sec-Fetch-Site: cross-site"))
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) <= {"POST", "DELETE"}
    for _, path in every_request(open_gateway):
        open_gateway.raw(open_gateway.head("GET", path))
    assert (len(fleet.asked), len(fleet.stopped)) == effects


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_w5_a_page_that_hides_its_origin_is_refused(open_gateway: Served, site: str, status: int) -> None:
    answer = open_gateway.raw(post(open_gateway, "/v1/chat/completions", CHAT, JSON, f"Sec-Fetch-Site: {site}"))
    assert answer.status == status


# --- W6: WebSocket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/health"])
def test_w6_websockets_are_refused(open_gateway: Served, path: str) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    answer = open_gateway.raw(open_gateway.head("GET", path, *upgrade))
    assert answer.status == 400
    assert "upgrade" in answer.error["message"]


async def test_w6_a_websocket_scope_is_closed(open_gateway: Served) -> None:
    gateway = open_gateway.gateway
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = build_app(Gateway(gateway.fleet, gateway.store, Settings()))
    await app({"type": "websocket", "path": "/", "headers": []}, None, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]
