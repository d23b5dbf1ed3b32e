"""HTTP itself: what is too large, too slow or malformed, on real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from llmserve.api.limits import Limits
from tests.api.fakes import Answer, Served, Worker, is_closed, read_answer, serving, wait_until

CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def small(worker: Worker) -> Iterator[Served]:
    """Small limits and short time-outs."""
    limits = Limits(body_bytes=100_000, header_seconds=0.3, body_seconds=0.3, connections=20)
    with serving(worker, limits=limits) as served:
        yield served


def flood(connection: socket.socket, block: bytes, bytes_at_most: int) -> int:
    """Send until the peer stops it; the bytes that left."""
    sent = 0
    try:
        while sent < bytes_at_most:
            sent += connection.send(block)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


def refused(connection: socket.socket) -> Answer:
    """The answer to a request that ends its connection."""
    answer = read_answer(connection)
    assert answer.headers["connection"] == "close"
    assert is_closed(connection)
    return answer


# --- B1: body size ---------------------------------------------------------------------------------------------------


def test_b1_a_declared_gigabyte_is_refused_unread(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", CHAT, JSON, "Content-Length: 1000000000"))
        answer = refused(connection)
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_b1_a_chunked_gigabyte_is_cut_at_the_limit(small: Served) -> None:
    with small.connect() as connection:
        connection.sendall(small.head("POST", CHAT, JSON, "Transfer-Encoding: chunked"))
        block = b"ffff\r\n" + b"x" * 65535 + b"\r\n"
        # What the kernel's buffers on both sides took comes on top of what was read.
        assert flood(connection, block, 1000 * MIB) < 20 * MIB
        assert read_answer(connection).status == 413


@pytest.mark.parametrize(("size", "status"), [(100_000, 400), (100_001, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_b1_the_limit_is_exact(small: Served, size: int, status: int, chunked: bool) -> None:
    body = b" " * size
    if chunked:
        data = small.head("POST", CHAT, JSON, "Transfer-Encoding: chunked")
        data += b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
    else:
        data = small.head("POST", CHAT, JSON, f"Content-Length: {size}") + body
    assert small.raw(data).status == status


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "+5", "9" * 30, "1, 1", "abc"])
def test_b1_a_lying_length_is_refused(open_gateway: Served, length: str) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", CHAT, JSON, f"Content-Length: {length}") + b"{}")
        assert refused(connection).status in {400, 413}


def test_b1_bytes_beyond_the_length_are_not_a_second_request(open_gateway: Served) -> None:
    body = b'{"model": 1}'
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", CHAT, JSON, f"Content-Length: {len(body)}") + body + b"garbage")
        answers = read_to_end(connection)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 400 ")


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, gzip", "x-unknown"], ids=lambda value: f"B2 {value}")
def test_compressed_bodies_are_refused(open_gateway: Served, encoding: str) -> None:
    data = b"\x1f\x8b" + b"0" * 100
    head = open_gateway.head("POST", CHAT, JSON, f"Content-Encoding: {encoding}", f"Content-Length: {len(data)}")
    answer = open_gateway.raw(head + data)
    assert answer.status == 415
    assert "compressed" in answer.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100 + b"]" * 100,
        b"[" * 1_000_000,
        b"{" + b",".join(b'"k%d":0' % number for number in range(200_000)) + b"}",
        b'{"' + b"k" * 4_000_000 + b'": 1}',
        b'{"model": "tiny", "model": "other", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "temperature": 1e400}',
        b'\xef\xbb\xbf{"model": "tiny"}',
        '{"model": "tiny"}'.encode("utf-16"),
        b"",
        b"null",
        b'{"model": "tiny"',
    ],
    ids=[
        "B3 depth 100",
        "B3 depth 10^6",
        "B3 keys",
        "B3 4 MB key",
        "B3 duplicate key",
        "B3 long integer",
        "B3 1e400",
        "B3 BOM",
        "B3 UTF-16",
        "B3 empty",
        "B3 null",
        "B3 truncated",
    ],
)
def test_hostile_json_is_400(open_gateway: Served, body: bytes) -> None:
    answer = open_gateway.raw(open_gateway.head("POST", CHAT, JSON, f"Content-Length: {len(body)}") + body)
    assert answer.status == 400
    assert len(answer.error["message"]) < 300


# --- B4: heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X-Big: " + b"a" * (10 * MIB), 431),
        (b"a" * (10 * MIB), 431),
        (b"\r\n".join(b"X-%d: 1" % number for number in range(10_000)), 431),
        (b"\r\n".join(b"X-%d: %s" % (number, b"a" * 1000) for number in range(90)), 431),
    ],
    ids=["B4 10 MB header", "B4 10 MB header name", "B4 10 000 headers", "B4 90 KB in 90 headers"],
)
def test_a_head_without_end_is_cut(open_gateway: Served, head: bytes, status: int) -> None:
    with open_gateway.connect() as connection:
        sent = flood(connection, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head, len(head))
        assert sent
        answer = read_answer(connection)
    assert answer.status == status
    assert answer.error["code"] == "headers_too_large"


def test_b4_a_url_without_end_is_cut(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        flood(connection, b"GET /" + b"a" * MIB, MIB)
        answer = read_answer(connection)
    assert answer.status == 414
    assert answer.error["code"] == "url_too_long"


def test_b4_what_is_just_within_the_limits_is_served(open_gateway: Served) -> None:
    headers = [f"X-{number}: {'a' * 600}" for number in range(98)]
    assert open_gateway.raw(open_gateway.head("GET", "/health?" + "a" * 8000, *headers)).status == 200


def test_b4_trailers_without_end_are_cut(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", CHAT, JSON, "Transfer-Encoding: chunked"))
        connection.sendall(b"2\r\n{}\r\n0\r\n")
        assert flood(connection, b"X-Trailer: " + b"a" * MIB, 1000 * MIB) < 20 * MIB
        assert read_answer(connection).status in {400, 431}


def test_b4_trailers_do_not_change_the_request(open_gateway: Served) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
    data = open_gateway.head("POST", CHAT, JSON, "Transfer-Encoding: chunked")
    data += b"%x\r\n%s\r\n0\r\nX-Request-Id: from-trailer\r\n\r\n" % (len(body), body)
    answer = open_gateway.raw(data)
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "from-trailer"


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: localhost\nX: a\n\n",
        b"GET /h\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=[
        "B5 CL and TE",
        "B5 two CL",
        "B5 xchunked",
        "B5 chunk size",
        "B5 space before colon",
        "B5 obs-fold",
        "B6 NUL",
        "B5 bare LF",
        "path bytes",
        "version",
        "TLS",
    ],
)
def test_malformed_http_is_one_400_and_the_end(open_gateway: Served, head: bytes) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(head)
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in received


@pytest.mark.parametrize(
    "value", ["a\rb", "a\nInjected: 1", "a b", "ä", "a;b", "x" * 65, ""], ids=lambda value: f"B6 {value[:12]!r}"
)
def test_an_odd_request_id_is_replaced_or_refused(open_gateway: Served, value: str) -> None:
    data = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " + value.encode() + b"\r\n\r\n"
    answer = open_gateway.raw(data)
    assert answer.status in {200, 400}
    assert answer.headers["x-request-id"].startswith("req-")
    assert "injected" not in answer.headers


@pytest.mark.parametrize("field", ["model", "user", "stop"])
@pytest.mark.parametrize("text", ["a\r\nInjected: 1", "a\x00b", "a\x1b[31m"], ids=lambda text: f"B6 {text!r}")
def test_control_characters_in_the_body_stay_there(open_gateway: Served, field: str, text: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], field: text}
    data = json.dumps(body).encode()
    answer = open_gateway.raw(open_gateway.head("POST", CHAT, JSON, f"Content-Length: {len(data)}") + data)
    assert answer.status in {200, 400, 404}
    assert "injected" not in answer.headers
    assert "\n" not in "".join(answer.headers.values())


def test_b6_odd_field_names_do_not_split_the_response(open_gateway: Served) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "x\r\nInjected: 1": 1, "ü": 2}
    data = json.dumps(body).encode()
    answer = open_gateway.raw(open_gateway.head("POST", CHAT, JSON, f"Content-Length: {len(data)}") + data)
    assert answer.status == 200
    assert "injected" not in answer.headers
    assert len(answer.headers["x-llmserve-ignored-fields"].split(", ")) == 2


# --- B7: slow clients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [b"GET /health HTTP/1.1\r\nHost: loc", b"G", b"\r\n", b"POST / HTTP/1.1\r\n"],
    ids=lambda start: f"B7 head {start[:12]!r}",
)
def test_a_head_that_does_not_come_is_408(small: Served, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(start)
        assert refused(connection).status == 408


def test_b7_a_body_that_does_not_come_is_408(small: Served) -> None:
    with small.connect() as connection:
        connection.sendall(small.head("POST", CHAT, JSON, "Content-Length: 100") + b'{"model":')
        answer = refused(connection)
    assert answer.status == 408
    assert answer.error["code"] == "request_timeout"


def test_b7_trickling_does_not_extend_the_time(small: Served) -> None:
    with small.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        connection.settimeout(0.02)
        answer = b""
        while not answer:
            connection.sendall(b"X: 1\r\n")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_b7_a_connection_that_says_nothing_is_closed_without_a_word(small: Served) -> None:
    with small.connect() as connection:
        assert is_closed(connection)


def test_b7_the_next_request_on_a_connection_has_its_own_time(small: Served) -> None:
    with small.connect() as connection:
        connection.sendall(small.head("GET", "/health"))
        assert read_answer(connection).status == 200
        connection.sendall(b"GET /health HT")
        assert refused(connection).status == 408


def test_b9_connections_beyond_the_cap_are_told_so(small: Served) -> None:
    connections = [small.connect() for _ in range(20)]
    try:
        for connection in connections:
            connection.sendall(small.head("GET", "/health"))
            assert read_answer(connection).status == 200
        with small.connect() as one_more:
            answer = read_answer(one_more)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: small.raw(small.head("GET", "/health")).status == 200)


# --- B11 and connections ---------------------------------------------------------------------------------------------


def test_b11_pipelined_requests_get_one_answer_and_the_end(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("GET", "/health") * 3)
        received = read_to_end(connection)
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.endswith(b"}")


def test_b11_expect_100_continue(open_gateway: Served) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
    with open_gateway.connect() as connection:
        connection.sendall(
            open_gateway.head("POST", CHAT, JSON, f"Content-Length: {len(body)}", "Expect: 100-continue")
        )
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 200


def test_b11_expect_100_continue_of_a_refused_request(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", CHAT, JSON, "Content-Length: 99999999", "Expect: 100-continue"))
        assert refused(connection).status == 413


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"OPTIONS * HTTP/1.1", 400),
        (b"OPTIONS /health HTTP/1.1", 405),
        (b"TRACE /health HTTP/1.1", 405),
        (b"CONNECT localhost:22 HTTP/1.1", 400),
        (b"CONNECT /health HTTP/1.1", 400),
        (b"_PRIVATE /health HTTP/1.1", 400),
        (b"get /health HTTP/1.1", 400),
        (b"PROPFIND /health HTTP/1.1", 405),
    ],
    ids=lambda value: f"B11 {value.decode()}" if isinstance(value, bytes) else None,
)
def test_odd_methods(open_gateway: Served, request_line: bytes, status: int) -> None:
    answer = open_gateway.raw(request_line + b"\r\nHost: localhost\r\n\r\n")
    assert answer.status == status
    assert answer.error["message"]


def test_b11_head_has_the_headers_of_get_and_no_body(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        for _ in range(2):
            connection.sendall(open_gateway.head("HEAD", "/health"))
            answer = read_answer(connection, "HEAD")
            assert (answer.status, answer.body) == (200, b"")
            assert int(answer.headers["content-length"]) > 0


def test_a_refused_request_with_an_unread_body_ends_the_connection(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("POST", "/v1/models", JSON, "Content-Length: 50"))
        assert refused(connection).status == 405


def test_an_answered_request_with_an_unread_body_ends_the_connection(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        connection.sendall(open_gateway.head("GET", "/health", JSON, "Content-Length: 50"))
        assert refused(connection).status == 200


def test_a_refused_request_that_was_read_keeps_the_connection(open_gateway: Served) -> None:
    with open_gateway.connect() as connection:
        for _ in range(2):
            connection.sendall(open_gateway.head("POST", CHAT, JSON, "Content-Length: 2") + b"{}")
            assert read_answer(connection).status == 400


def test_the_server_names_neither_itself_nor_its_parts(serve: Callable[..., Served]) -> None:
    gateway = serve()
    assert "server" not in gateway.raw(gateway.head("GET", "/health")).headers
