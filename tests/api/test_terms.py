"""Headers that say on what terms a request is served."""

from __future__ import annotations

import pytest

from llmserve.api.terms import read_demand
from llmserve.errors import InvalidRequest
from llmserve.fleet.demand import Demand
from tests.api.fakes import Served


def scope(**headers: str) -> dict[str, object]:
    raw = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "headers": raw, "client": ("10.0.0.7", 4711)}


def test_without_headers_a_request_is_like_all_others() -> None:
    assert read_demand(scope(), "generate") == Demand(kind="generate", client="10.0.0.7")


def test_what_headers_say() -> None:
    demand = read_demand(
        scope(X_LLMServe_Priority="background", X_LLMServe_Max_Queue_Seconds="2.5", X_LLMServe_Keep_Alive="-1"),
        None,
        5.0,
    )
    assert demand == Demand(None, "10.0.0.7", True, 2.5, -1.0)


def test_the_body_s_keep_alive_counts_where_no_header_says_otherwise() -> None:
    assert read_demand(scope(), None, 5.0).keep_alive_seconds == 5.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-LLMServe-Priority", "high"),
        ("X-LLMServe-Priority", "Background"),
        ("X-LLMServe-Max-Queue-Seconds", "-1"),
        ("X-LLMServe-Max-Queue-Seconds", "soon"),
        ("X-LLMServe-Keep-Alive", "nan"),
        ("X-LLMServe-Keep-Alive", "1e99"),
    ],
)
def test_other_values_are_refused_by_name(open_gateway: Served, name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_demand(scope(**{name: value}), None)
    assert refused.value.param == name
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    with open_gateway.client(**{name: value}) as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_the_fleet_hears_of_it(open_gateway: Served) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    with open_gateway.client(**{"X-LLMServe-Priority": "background", "X-API-Key": "mine"}) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    demand = open_gateway.fleet.demands[-1]
    assert demand.background
    assert demand.client not in {"", "mine", "127.0.0.1"}


def test_clients_are_told_apart_by_key_and_else_by_address() -> None:
    clients = [
        read_demand(scope(**headers), None).client
        for headers in ({"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}, {"X_API_Key": "a"}, {})
    ]
    assert len(set(clients)) == 4
    assert read_demand({"type": "http", "headers": [], "client": None}, None).client == ""


def test_a_fallback_is_announced(open_gateway: Served) -> None:
    open_gateway.fleet.fallback = "cpu instead of cuda:0:\nït crashed"
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    try:
        with open_gateway.client() as client:
            answers = [client.post("/v1/chat/completions", json={**body, "stream": stream}) for stream in (False, True)]
    finally:
        open_gateway.fleet.fallback = None
    said = {answer.headers["x-llmserve-fallback"] for answer in answers}
    assert said == {"cpu instead of cuda:0:??t crashed"}
