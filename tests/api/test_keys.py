"""API keys, and what stays behind them."""

from __future__ import annotations

import ast
import inspect
import json

import pytest

from llmserve.api import guards, listener
from llmserve.api.guards import UPLOADS, KeyPolicy
from llmserve.api.limits import Limits
from llmserve.api.page import Page
from llmserve.api.routes import Routes
from llmserve.errors import AuthenticationFailed, SettingsError, TooManyRequests
from llmserve.settings import Settings
from tests.api.conftest import KEY
from tests.api.fakes import Served, every_route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
BODY = json.dumps({"model": "tiny"}).encode()

# A decision for every route: whether it is answered without the key. A route that is added must be added here.
PUBLIC = {
    "/v1/chat/completions": False,
    "/v1/completions": False,
    "/v1/embeddings": False,
    "/v1/rerank": False,
    "/rerank": False,
    "/tokenize": False,
    "/detokenize": False,
    "/v1/models": False,
    "/v1/models/{model:path}": False,
    "/health": True,
    "/ready": False,
    "/metrics": False,
    "/admin/ps": False,
    "/admin/load": False,
    "/admin/pull": False,
    "/admin/stop": False,
    "/v1/messages": False,
    "/v1/messages/count_tokens": False,
    "/v1/responses": False,
    "/v1/responses/input_tokens": False,
    "/v1/responses/{id}": False,
    "/v1/responses/{id}/cancel": False,
    "/v1/responses/{id}/input_items": False,
    "/v1/files": False,
    "/v1/files/{id}": False,
    "/v1/files/{id}/content": False,
    "/v1/batches": False,
    "/v1/batches/{id}": False,
    "/v1/batches/{id}/cancel": False,
    "/api/chat": False,
    "/api/generate": False,
    "/api/embed": False,
    "/api/embeddings": False,
    "/api/tags": False,
    "/api/ps": False,
    "/api/version": False,
    "/api/show": False,
    "/api/pull": False,
    "/api/delete": False,
    "/api/copy": False,
    "/api/create": False,
    "/api/push": False,
    "/api/blobs/{digest}": False,
    "/models": False,
    "/models/load": False,
    "/models/unload": False,
    "/v1/audio/speech": False,
    "/v1/audio/transcriptions": False,
    "/v1/audio/translations": False,
    "/v1/images/generations": False,
    "/v1/images/edits": False,
    "/v1/images/variations": False,
    "/openapi.json": False,
    # A program's; a browser's is public (`test_page.py`).
    "/": False,
    "/page/{version}/{file}": True,
    "/admin/live": False,
    "/admin/plan": False,
    "/admin/problems": False,
    "/admin/catalog": False,
}
PAGE_VERSION = Page().version


def target(path: str) -> str:
    """A path that the route of this pattern matches."""
    for parameter, value in (
        ("{model:path}", "tiny:1m"),
        ("{id}", "resp_1"),
        ("{digest}", "sha256:1"),
        ("{version}", PAGE_VERSION),
        ("{file}", "main.js"),
    ):
        path = path.replace(parameter, value)
    return path


def request(gateway: Served, method: str, target: str, *headers: str) -> bytes:
    return (
        gateway.head(method, target, "Content-Type: application/json", f"Content-Length: {len(BODY)}", *headers) + BODY
    )


def test_a1_every_route_has_a_decision(locked_gateway: Served) -> None:
    assert {route.path for route in every_route(locked_gateway.gateway)} == set(PUBLIC)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [*PUBLIC, "/nope", "/docs", "/v1", "/api", "/api/nope"])
def test_a1_without_the_key_nothing_but_health_and_the_page_answers(
    locked_gateway: Served, path: str, method: str
) -> None:
    answer = locked_gateway.raw(request(locked_gateway, method, target(path)))
    if PUBLIC.get(path, False):
        assert answer.status in {200, 405}
    else:
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert method == "HEAD" or "API key" in answer.message


@pytest.mark.parametrize("path", [path for path, public in PUBLIC.items() if not public])
def test_a1_with_the_key_every_route_answers(locked_gateway: Served, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = locked_gateway.raw(request(locked_gateway, method, target(path), f"Authorization: Bearer {KEY}"))
        # 404: the response, the batch and the pulls that are asked for are not there. 415: an upload is a form.
        assert answer.status in {200, 400, 404, 405, *([415] if path in UPLOADS else [])}


@pytest.mark.parametrize(
    "lines",
    [
        "GET /v1/models HTTP/1.1\r\nHost: x/health?y=",
        "GET /v1/models HTTP/1.1\r\nHost: localhost/health?",
        "GET //v1/models HTTP/1.1\r\nHost: localhost",
        "GET /v1/../health HTTP/1.1\r\nHost: localhost",
        "GET /health/../v1/models HTTP/1.1\r\nHost: localhost",
        "GET /health%2f..%2fv1/models HTTP/1.1\r\nHost: localhost",
        "GET /v1%2fmodels HTTP/1.1\r\nHost: localhost",
        "GET /v1/models;/health HTTP/1.1\r\nHost: localhost",
        "GET /v1/models?/health HTTP/1.1\r\nHost: localhost",
        "GET /v1/models#/health HTTP/1.1\r\nHost: localhost",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Original-URL: /health",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Rewrite-URL: /health",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Path: /health",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: localhost/health?",
        "GET http://localhost/health HTTP/1.1\r\nHost: localhost",
        "GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost",
        "GET health HTTP/1.1\r\nHost: localhost",
        "GET /HEALTH HTTP/1.1\r\nHost: localhost",
        "GET /health/ HTTP/1.1\r\nHost: localhost",
        "GET /health\tx HTTP/1.1\r\nHost: localhost",
    ],
    ids=lambda lines: f"A2 {lines[:60]!r}",
)
def test_no_spelling_of_a_request_passes_the_key(locked_gateway: Served, lines: str) -> None:
    answer = locked_gateway.raw(f"{lines}\r\n\r\n".encode())
    assert answer.status in {400, 401, 404}
    assert b"tiny" not in answer.body
    assert answer.error["message"]


def test_a2_the_guards_never_build_a_url() -> None:
    for module in (guards, inspect.getmodule(Routes)):
        assert module is not None
        attributes = {
            node.attr for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Attribute)
        }
        assert not attributes & {"url", "base_url", "query_params", "url_for"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((f"Authorization: Bearer {KEY}",), 200),
        ((f"authorization: bearer {KEY}",), 200),
        ((f"x-api-key: {KEY}",), 200),
        ((f"api-key: {KEY}",), 200),
        ((f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}"), 200),
        ((f"Authorization: Bearer {KEY}", "x-api-key: other"), 400),
        (("Authorization: Bearer other", f"api-key: {KEY}"), 400),
        ((f"Authorization: Bearer {KEY}", "Authorization: Bearer other"), 400),
        (("Authorization: Bearer other",), 401),
        ((f"Authorization: Basic {KEY}",), 401),
        ((f"Authorization: {KEY}",), 401),
        (("Authorization: Bearer",), 401),
        (("x-api-key: ",), 401),
        ((f"x-api-key: {KEY}x",), 401),
        ((f"x-api-key: {KEY[:-1]}",), 401),
        ((f"Cookie: api-key={KEY}",), 401),
    ],
    ids=lambda value: f"A3 {' | '.join(value)}" if isinstance(value, tuple) else None,
)
def test_where_a_key_may_stand(locked_gateway: Served, headers: tuple[str, ...], status: int) -> None:
    answer = locked_gateway.raw(locked_gateway.head("GET", "/v1/models", *headers))
    assert answer.status == status
    assert KEY.encode() not in answer.body


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "x-api-key"])
def test_a3_a_key_in_the_url_is_not_read(locked_gateway: Served, name: str) -> None:
    assert locked_gateway.raw(locked_gateway.head("GET", f"/v1/models?{name}={KEY}")).status == 401


def test_without_a_configured_key_any_key_is_accepted(open_gateway: Served) -> None:
    headers = ("Authorization: Bearer none", "x-api-key: other")
    assert open_gateway.raw(open_gateway.head("GET", "/v1/models", *headers)).status == 200


def test_a4_keys_are_compared_as_digests_in_constant_time() -> None:
    """The comparison's own timing is the standard library's promise; here, that nothing else compares a secret."""
    tree = ast.parse(inspect.getsource(KeyPolicy).strip())
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call for call in calls if "compare_digest" in call] == ["hmac.compare_digest(given.pop(), self._digest)"]
    operators = {type(operator) for node in ast.walk(tree) if isinstance(node, ast.Compare) for operator in node.ops}
    assert not operators & {ast.Eq, ast.NotEq, ast.In, ast.NotIn} - {ast.Eq}
    equalities = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Eq) for operator in node.ops)
    ]
    assert equalities == ["scheme.lower() == b'bearer'"]


def test_a4_the_key_itself_is_not_kept() -> None:
    policy = KeyPolicy(KEY, Limits())
    assert KEY not in repr(vars(policy))
    assert KEY.encode() not in list(vars(policy).values())


def test_a9_a_thousand_wrong_keys() -> None:
    policy = KeyPolicy(KEY, Limits(wrong_keys=100, wrong_keys_per_second=0))
    refusals = []
    for number in range(1000):
        with pytest.raises((AuthenticationFailed, TooManyRequests)) as caught:
            policy.check({b"x-api-key": [b"guess %d" % number]})
        refusals.append(caught.value.status)
    assert refusals == [401] * 100 + [429] * 900
    policy.check({b"x-api-key": [KEY.encode()]})


def test_a9_the_allowance_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(guards.time, "monotonic", lambda: now)
    policy = KeyPolicy(KEY, Limits(wrong_keys=1, wrong_keys_per_second=2))
    with pytest.raises(AuthenticationFailed):
        policy.check({})
    with pytest.raises(TooManyRequests):
        policy.check({})
    now += 0.5
    with pytest.raises(AuthenticationFailed):
        policy.check({})


# --- A5: the address -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.test"], ids=lambda host: f"A5 {host}")
def test_an_open_address_needs_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="API key") as caught:
        listener.check_exposure(Settings(host=host))
    assert caught.value.exit_code == 78
    assert not listener.check_exposure(Settings(host=host, api_key=KEY))
    assert listener.check_exposure(Settings(host=host, insecure_no_auth=True))


@pytest.mark.parametrize("host", [None, "localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_a5_loopback_needs_no_key(host: str | None) -> None:
    assert not listener.check_exposure(Settings(host=host))
